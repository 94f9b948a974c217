"""Timers that stand still while the machine sleeps. The clock of uvloop, by which its own timers go, does not on macOS:
after a sleep everything that waited would have waited too long.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from time import monotonic

_EARLY_SECONDS = 0.05  # of a timer, by its resolution alone


class AwakeTimer:
    """Calls `callback` once, after so many seconds in which the machine was awake, unless it is cancelled."""

    __slots__ = ("_callback", "_due", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._due = monotonic() + seconds
        self._timer = loop.call_later(seconds, self._look)

    def cancel(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        left = self._due - monotonic()
        if left > _EARLY_SECONDS:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._callback()


@contextlib.asynccontextmanager
async def awake_timeout(seconds: float) -> AsyncIterator[None]:
    """As asyncio.timeout."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as timeout:
        timer = AwakeTimer(loop, seconds, lambda: timeout.reschedule(loop.time()))
        try:
            yield
        finally:
            timer.cancel()
