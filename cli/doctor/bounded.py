"""Runs a check for so many seconds at most, whatever it waits for: a timer ends it. For the main thread only."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class TooLongError(Exception):
    """The check did not end in its time."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TooLongError inside the block when it has taken so long."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise TooLongError(f"it did not end within {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, end)
    others = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *others)
        signal.signal(signal.SIGALRM, handler)
