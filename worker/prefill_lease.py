"""Prefill in turns with other processes: whether this one may, and what the broker is told of that.

Prefill is lent for a bounded time (broker/policy/prefill_turns.py). Without it an engine goes on to decode; one that
has nothing to decode waits. Must stay free of mlx.
"""

from collections.abc import Callable
from time import monotonic

from worker.engine import EngineStats


class PrefillLease:
    """Mutable state: until when this process may prefill, and whether the broker knows that it wants to."""

    def __init__(
        self,
        stats: Callable[[], EngineStats],
        hold: Callable[[bool], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """stats, hold: of the engine; hold(True) lets it decode only. clock: seconds."""
        self._stats = stats
        self._hold = hold
        self._clock = clock
        self._until = 0.0
        self._has_asked = False
        self.blocks = False
        hold(True)

    def lent(self, seconds: float) -> None:
        """The broker lends prefill for so long."""
        self._until = self._clock() + seconds

    def news(self) -> bool | None:
        """What to tell the broker before the next step: whether this process wants to prefill; None if it knows.
        `blocks` then says that the engine can do nothing before the broker has answered."""
        stats = self._stats()
        wants = stats.waiting > stats.waiting_for_room or stats.prefilling > 0
        is_over = self._until > 0 and self._clock() >= self._until
        if is_over or not wants:
            self._until = 0.0
        may = self._until > 0
        self._hold(not may)
        self.blocks = wants and not may and stats.decoding == 0
        if wants == self._has_asked and not (is_over and wants):
            return None
        self._has_asked = wants
        return wants
