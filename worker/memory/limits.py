"""Tells MLX how much memory this process may use, and keeps every library from wiring memory on its own.

MLX calls its memory limit a guideline: these limits back the plan up and do not replace it.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from broker.wire.to_workers import Assign

# Unused buffers that MLX may keep: a part of the share, within a bound.
_CACHE_PART = 8
_MOST_CACHE_BYTES = 2**30


class MlxLimits:
    """Mutable state: the share that the limits were last set from."""

    def __init__(self, share_bytes: int, *, wires: bool, cache_bytes: int = _MOST_CACHE_BYTES) -> None:
        """Must be made before anything is loaded. share_bytes: 0 for none, which leaves MLX's own memory limit. wires:
        whether this process wires its share. cache_bytes: of unused buffers, at most."""
        self._wire = take_wiring()
        self._wires = wires
        self._cache_bytes = cache_bytes
        if cache_bytes < _MOST_CACHE_BYTES:
            mx.set_cache_limit(cache_bytes)
        self.share_bytes = 0
        self.apply(share_bytes)

    def apply(self, share_bytes: int) -> None:
        """Set all limits from a share."""
        if share_bytes <= 0 or share_bytes == self.share_bytes:
            return
        self.share_bytes = share_bytes
        mx.set_memory_limit(share_bytes)
        mx.set_cache_limit(min(share_bytes // _CACHE_PART, self._cache_bytes))
        if self._wires:
            recommended = mx.device_info().get("max_recommended_working_set_size")
            self._wire(min(share_bytes, int(recommended)) if recommended else share_bytes)


def limits_of(assign: Assign, *, cache_bytes: int = _MOST_CACHE_BYTES) -> MlxLimits:
    """The limits of a process that is about to load this model."""
    return MlxLimits(assign.share_bytes, wires=assign.wires_memory, cache_bytes=cache_bytes)


def take_wiring() -> Callable[[int], int]:
    """MLX's function that wires memory, which nobody else in this process can call from now on.

    mlx-lm and mlx-vlm wire as much as the machine recommends, in every process. Several processes together then wire
    more than there is, and macOS panics.
    """
    function: Any = mx.set_wired_limit
    if isinstance(function, _Refusal):
        return function.taken
    setattr(mx, "set_wired_limit", _Refusal(function))  # noqa: B010 # for all who look it up in the module
    return function  # type: ignore[no-any-return] # it is what mlx.core has


class _Refusal:
    """In place of `mlx.core.set_wired_limit`. taken: the function itself."""

    def __init__(self, taken: Callable[[int], int]) -> None:
        self.taken = taken

    def __call__(self, _limit: int) -> int:
        """Wire nothing; the limit stays 0, MLX's default."""
        return 0
