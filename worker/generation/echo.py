"""Answers that begin with their prompt, and the log-probabilities of its tokens.

Prefill computes the likeliest next token of a prompt's end alone. So a prompt whose log-probabilities are wanted is
recited: its first token is prefilled, and the others are drawn one by one, whatever the model would say.
"""

from dataclasses import dataclass, field

import mlx.core as mx

from worker.generation.sampling import Follower, LogitsProcessor, Sampler


@dataclass(slots=True, frozen=True)
class Echo:
    """text: of the prompt. recited: its tokens, if their log-probabilities are wanted. is_all: nothing follows."""

    text: str
    recited: list[int] = field(default_factory=list)
    is_all: bool = False

    @property
    def drawn(self) -> int:
        """How many tokens of the prompt are drawn."""
        return max(len(self.recited) - 1, 0)


class Recital(Follower):
    """A logits processor: the request's own processors, from the first token after the prompt on.

    Mutable state: how many tokens of the prompt are still to be drawn.
    """

    def __init__(self, drawn: int, processors: list[LogitsProcessor]) -> None:
        self._left = drawn
        self._processors = processors

    def catch_up(self, said: list[int]) -> None:
        """As Follower. What follows the prompt cannot have come before the prompt has been drawn."""
        assert not said

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self._left:
            self._left -= 1
            return logits
        for processor in self._processors:
            logits = processor(tokens, logits)
        return logits


def reciting(tokens: list[int], sampler: Sampler) -> Sampler:
    """Draws these tokens, then what the sampler draws."""
    left = iter(tokens)

    def draw(logprobs: mx.array) -> mx.array:
        token = next(left, None)
        return sampler(logprobs) if token is None else mx.array([token], mx.uint32)

    return draw
