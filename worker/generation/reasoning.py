"""Whether an answer begins inside reasoning, may open it, or has none. Prompts in, tokens out; knows no text."""

from dataclasses import dataclass
from typing import Any

# What models write before the opening tag; GLM-4.5 begins a line.
_BLANKS = ("", " ", "\n", "\n\n")

# Enough for a tag and the blanks after it.
_END_TOKENS = 16


@dataclass(slots=True, frozen=True)
class Reasoning:
    """The reasoning of one answer. is_open: the prompt ends inside it. openings: each sequence of tokens that may open
    it; none if it is open already or cannot come. end: the tokens that close it."""

    is_open: bool = False
    openings: tuple[tuple[int, ...], ...] = ()
    end: tuple[int, ...] = ()


NO_REASONING = Reasoning()


class ReasoningFormat:
    """How one model marks reasoning, if it does."""

    def __init__(self, tokenizer: Any) -> None:
        """tokenizer: mlx-lm's TokenizerWrapper, which knows the tags."""
        self._tokenizer = tokenizer
        self._open = self._possible = NO_REASONING
        if tokenizer.has_thinking:
            begin, end = tuple(tokenizer.think_start_tokens), tuple(tokenizer.think_end_tokens)
            blanks = (tokenizer.encode(blank, add_special_tokens=False) for blank in _BLANKS)
            self._open = Reasoning(is_open=True, end=end)
            self._possible = Reasoning(openings=tuple((*blank, *begin) for blank in blanks), end=end)

    def after(self, prompt: list[int]) -> Reasoning:
        """The reasoning that may follow a chat's prompt. Templates open or close it at the end of the prompt; a tag
        further up is quoted text or belongs to an earlier turn."""
        if not self._tokenizer.has_thinking:
            return NO_REASONING
        last = self._tokenizer.decode(prompt[-_END_TOKENS:]).rstrip()
        if last.endswith(self._tokenizer.think_start):
            return self._open
        return NO_REASONING if last.endswith(self._tokenizer.think_end) else self._possible
