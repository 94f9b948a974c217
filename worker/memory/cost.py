"""What sequences cost in memory: pure arithmetic on what worker/memory/measure.py has measured.

Estimates are upper bounds, and close ones from about a thousand tokens on.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

# Tokens by which caches of mlx-lm grow: a cache has room for fewer than this many that it does not hold yet.
STEP = 256


@dataclass(slots=True, frozen=True)
class LayerCost:
    """Bytes of one layer's cache. fixed: whatever its length; per_token: for each token that it keeps; window: how many
    it keeps at most between two pieces of a prompt, None for all."""

    fixed: int = 0
    per_token: int = 0
    window: int | None = None

    def bytes(self, tokens: int) -> int:
        """Of a sequence of so many tokens."""
        room = tokens + STEP
        return self.fixed + self.per_token * (room if self.window is None else min(room, self.window))


def merged(layers: Iterable[LayerCost]) -> tuple[LayerCost, ...]:
    """The same costs in few layers: one for each length of a window."""
    fixed: defaultdict[int | None, int] = defaultdict(int)
    per_token: defaultdict[int | None, int] = defaultdict(int)
    for layer in layers:
        fixed[layer.window] += layer.fixed
        per_token[layer.window] += layer.per_token
    return tuple(LayerCost(fixed[window], per_token[window], window) for window in fixed)


@dataclass(slots=True, frozen=True)
class CacheCost:
    """Bytes of the caches of one sequence. layers: of all models that take part; quantised: the same layers once they
    are quantised, empty if they never are; quantised_from: the most tokens that they hold before; largest: the layer
    that takes most."""

    layers: tuple[LayerCost, ...]
    quantised: tuple[LayerCost, ...] = ()
    quantised_from: int = 0
    largest: LayerCost = LayerCost()

    def bytes(self, tokens: int) -> int:
        """The most that a sequence takes until it has so many tokens."""
        if not self.quantised or tokens <= self.quantised_from:
            return sum(layer.bytes(tokens) for layer in self.layers)
        before = sum(layer.bytes(self.quantised_from) for layer in self.layers)
        return max(before, sum(layer.bytes(tokens) for layer in self.quantised))

    def together(self, lengths: Iterable[int], *, padded: bool) -> int:
        """Of many sequences, with a copy of a layer: caches that grow are copied, layer by layer. padded: all rows of a
        batch are as long as the longest."""
        lengths = list(lengths)
        if not lengths:
            return 0
        longest, rows = max(lengths), len(lengths)
        if padded:
            return rows * (self.bytes(longest) + self.largest.bytes(longest))
        return sum(map(self.bytes, lengths)) + self.largest.bytes(longest)

    @property
    def per_window_token(self) -> int:
        """What a token of a piece of a prompt takes in windows beside their length, until the piece is computed."""
        return sum(layer.per_token for layer in self.layers if layer.window is not None)


@dataclass(slots=True, frozen=True)
class WorkCost:
    """Bytes that one step takes and gives back. per_token: of the prompts in this step; per_pair: for each of these
    tokens and each token before the step, 0 where attention is fused; per_square: for each of these tokens and each
    other of them; per_row: for each sequence."""

    per_token: float = 0
    per_pair: float = 0
    per_square: float = 0
    per_row: float = 0

    def bytes(self, tokens: int, context: int, rows: int) -> int:
        """Of a step over so many prompt tokens of contexts of at most this length, beside so many sequences."""
        each = self.per_token + self.per_pair * context + self.per_square * tokens
        return int(tokens * each + rows * self.per_row)

    def tokens(self, room: int, context: int, rows: int, most: int) -> int:
        """How many prompt tokens a step can have in so many bytes, of at most so many."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.bytes(middle, context, rows) <= room else (low, middle - 1)
        return low
