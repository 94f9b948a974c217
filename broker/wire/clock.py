"""The clock by which processes judge each other: seconds in which this process could see what happens.

A process that could not run, because the machine slept or because it was stopped, has heard nothing meanwhile. So that
it takes nobody for dead then, such a time counts for nothing. time.monotonic() stands still in sleep by itself; libuv's
clock, which uvloop has, does not on macOS.
"""

import time
from collections.abc import Callable

# A longer time between two readings is a pause: whoever judges others reads the clock every second.
PAUSE_SECONDS = 2.0


class Clock:
    """Never goes back. `now` must be called at least every second. monotonic: the clock of the system."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._read_at = monotonic()
        self._paused = 0.0
        self._untold = 0.0

    def now(self) -> float:
        """Seconds."""
        read_at = self._monotonic()
        if read_at - self._read_at > PAUSE_SECONDS:
            gap = read_at - self._read_at
            self._paused += gap
            self._untold += gap
        self._read_at = read_at
        return read_at - self._paused

    def take_pause(self) -> float:
        """The seconds that have counted for nothing since the last call."""
        pause, self._untold = self._untold, 0.0
        return pause
