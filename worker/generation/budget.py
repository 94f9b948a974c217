"""The thinking budget of a request: after so many tokens of reasoning, the tokens that end it are forced.

They are tokens of the answer like any others. Counts as sequence.py does.
"""

from typing import Any

import mlx.core as mx

from worker.generation.sampling import Follower
from worker.generation.split import Split
from worker.generation.text_stream import Detokenizer


class ThinkingBudget(Follower):
    """A logits processor for one sequence.

    Mutable state: the split of the text so far; the tokens of reasoning in it; how many tokens have come since it was
    looked at, -1 before the prompt has; how many of the tokens that end the reasoning have been forced.
    """

    def __init__(self, most: int, end: tuple[int, ...], split: Split, detokenizer: Detokenizer) -> None:
        """end: the tokens that end reasoning; split, detokenizer: of this answer, both at its beginning."""
        self._most = most
        self._end = end
        self._split = split
        self._detokenizer = detokenizer
        self._count = 0
        self._unread = -1
        self._forced = 0

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        self._unread += 1
        # Reading a token waits for it. Fewer than are left cannot exceed the budget.
        if self._unread < self._most - self._count:
            return logits
        newest: Any = tokens[-self._unread :].tolist() if self._unread else []
        token = self._next(newest)
        if token is None:
            return logits
        return mx.where(mx.arange(logits.shape[-1]) == token, mx.zeros_like(logits), -mx.inf)

    def catch_up(self, said: list[int]) -> None:
        """As Follower."""
        for come in range(len(said)):
            self._unread += 1
            if self._unread >= self._most - self._count:
                self._next(said[come - self._unread : come])

    def _next(self, newest: list[int]) -> int | None:
        """The token that must follow these, which have not been looked at; None for any."""
        for token in newest:
            self._take(token)
        self._unread = 0
        if not self._split.is_reasoning:
            self._forced = 0
            return None
        if self._count < self._most or self._forced == len(self._end):
            return None
        self._forced += 1
        return self._end[self._forced - 1]

    def _take(self, token: int) -> None:
        was_reasoning = self._split.is_reasoning
        self._detokenizer.add_token(token)
        self._split.push(self._detokenizer.last_segment)
        self._count += was_reasoning and self._split.is_reasoning
