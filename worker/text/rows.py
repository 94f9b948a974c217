"""Rows of a batch and their key-value caches: join, leave, split. Knows no model and no order of steps."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache

from worker.generation.sampling import LogitsProcessor, Sampler
from worker.text.row_caches import extract, keep, merge


@dataclass(slots=True)
class Row:
    """One sequence. segments: the parts of its prompt that are not prefilled yet, none of them empty; tokens: what its
    caches hold; left: tokens that may still be handed out; is_ahead: its drawn token has been handed out already;
    context: its tokens as processors see them. prompt: all of it, until it is prefilled; twins: sequences with the same
    prompt, which is prefilled once: they become rows of their own for the first tokens."""

    uid: int
    segments: deque[list[int]]
    tokens: list[int]
    sampler: Sampler
    processors: list[LogitsProcessor]
    wants_logprobs: bool
    left: int
    is_ahead: bool = False
    context: Any = None
    prompt: list[int] = field(default_factory=list)
    twins: "list[Row]" = field(default_factory=list)

    @property
    def prompt_left(self) -> int:
        """Tokens of its prompt that its caches do not hold yet."""
        return sum(map(len, self.segments))

    @property
    def has_last(self) -> bool:
        """Whether only the last token of the prompt is left."""
        return len(self.segments) == 1 and len(self.segments[0]) == 1

    def take(self, most: int) -> tuple[list[int], bool]:
        """The next piece, without the last token of the prompt, and whether the caller's segment ends with it."""
        segment = self.segments[0]
        size = min(most, len(segment) - (len(self.segments) == 1))
        piece, rest = segment[:size], segment[size:]
        if rest:
            self.segments[0] = rest
        else:
            self.segments.popleft()
        return piece, not rest

    def stand_in_for(self, other: "Row") -> None:
        """Be where the prefill of another row is that has the same prompt, with all its other twins."""
        self.segments, self.tokens = deque(other.segments), list(other.tokens)
        self.twins = [twin for twin in other.twins if twin is not self]


class _Cache(BatchKVCache):  # type: ignore[misc] # mlx-lm is not read by mypy
    """BatchKVCache with a cheaper mask: its own costs ten operations in every step, even if no row is padded.
    padding: of each row (rows, 1, 1, 1), None for no padding."""

    padding: mx.array | None = None

    def make_mask(self, N: int, return_array: bool = False, **options: Any) -> Any:  # noqa: N803 # mlx-lm's name
        if not return_array and options.get("window_size") is None:
            if self.padding is None:
                return None if N == 1 else "causal"  # as mlx-lm's KVCache
            if N == 1:
                return self.padding <= mx.arange(self.size() + 1)
        return super().make_mask(N, return_array, **options)


@dataclass(slots=True)
class Group:
    """Rows that are computed together, and their caches, one for each layer. For rows that decode: drawn, their next
    input tokens (rows, 1), and logprobs, what each was drawn from (vocabulary,), if its sequence wants that."""

    rows: list[Row] = field(default_factory=list)
    caches: list[Any] = field(default_factory=list)
    drawn: mx.array | None = None
    logprobs: list[mx.array | None] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many sequences these are."""
        return len(self.rows) + sum(len(row.twins) for row in self.rows)

    def add(self, other: "Group") -> None:
        """Take all rows of another group, which must not be used any more."""
        if not other.rows:
            return
        if not self.rows:
            self.caches, self.drawn = other.caches, other.drawn
        else:
            for cache, others in zip(self.caches, other.caches, strict=True):
                cache.extend(others)
            if self.drawn is not None and other.drawn is not None:
                self.drawn = _launched(mx.concatenate([self.drawn, other.drawn]))
        self.rows += other.rows
        self.logprobs += other.logprobs
        self.mark_padding()

    def keep(self, indices: list[int]) -> None:
        """Drop all rows but these (ascending)."""
        if len(indices) == len(self.rows):
            return
        if not indices:
            self.rows, self.caches, self.drawn, self.logprobs = [], [], None, []
            return
        self.rows = [self.rows[index] for index in indices]
        self._arrange(indices)
        if self.drawn is not None:
            self.drawn = _launched(self.drawn[mx.array(indices)])
            self.logprobs = [self.logprobs[index] for index in indices]
        self.mark_padding()

    def remove(self, uids: Collection[int]) -> None:
        """Drop these sequences. A twin stands in for a row in prefill that goes before it."""
        for index, row in enumerate(self.rows):
            if not row.twins:
                continue
            row.twins = [twin for twin in row.twins if twin.uid not in uids]
            if row.uid in uids and row.twins:
                self.rows[index] = row.twins[0]
                self.rows[index].stand_in_for(row)
        self.keep([index for index, row in enumerate(self.rows) if row.uid not in uids])

    def spread(self) -> None:
        """Twins become rows of their own, each with a copy of the caches."""
        if self.size == len(self.rows):
            return
        rows, indices = self.rows, list[int]()
        self.rows = []
        for index, row in enumerate(rows):
            twins, row.twins = row.twins, []
            for twin in twins:
                twin.stand_in_for(row)
            self.rows += [row, *twins]
            indices += [index] * (1 + len(twins))
        self._arrange(indices)
        self.mark_padding()

    def take(self, indices: list[int]) -> "Group":
        """Move these rows (ascending) into a group of their own. Only for a group in prefill."""
        if len(indices) == len(self.rows):
            taken = Group(self.rows, self.caches)
            self.rows, self.caches = [], []
        else:
            taken = grouped([(self.rows[index], self.cache(index)) for index in indices])
            self.keep([index for index in range(len(self.rows)) if index not in indices])
        return taken

    def cache(self, index: int) -> list[Any]:
        """A copy of one row's caches, as single sequences have them."""
        tokens = len(self.rows[index].tokens)
        return [extract(cache, index, tokens) for cache in self.caches]

    def _arrange(self, indices: list[int]) -> None:
        """The caches of these rows, of which the group has just been made. indices: where they were."""
        order, longest = mx.array(indices), max(len(row.tokens) for row in self.rows)
        for cache in self.caches:
            keep(cache, indices, order, longest)

    def mark_padding(self) -> None:
        """Must be called after the rows, or the lengths of their tokens by more than one, have changed. Every layer
        holds exactly the tokens of the rows."""
        layers = [cache for cache in self.caches if isinstance(cache, _Cache)]
        if layers:
            size = layers[0].size()
            padding = [size - len(row.tokens) for row in self.rows]
            mask = mx.array(padding)[:, None, None, None] if any(padding) else None
            for layer in layers:
                layer.padding = mask


def grouped(rows: list[tuple[Row, list[Any]]]) -> Group:
    """Each row with its caches, as single sequences have them."""
    merged = [merge(layers) for layers in zip(*(caches for _, caches in rows), strict=True)]
    caches = [_with_own_mask(cache) if type(cache) is BatchKVCache else cache for cache in merged]
    group = Group([row for row, _ in rows], caches)
    group.mark_padding()
    return group


def _with_own_mask(cache: BatchKVCache) -> _Cache:
    own = _Cache([])
    own.state = cache.state
    return own


def _launched(drawn: mx.array) -> mx.array:
    """As a part of the next step it would be known only when that step ends."""
    mx.async_eval(drawn)  # type: ignore[no-untyped-call]
    return drawn
