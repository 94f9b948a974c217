"""Single keys of a terminal, without Enter and unseen; the terminal is as before afterwards, however the block ends."""

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def single_keys() -> Iterator[None]:
    """stdin must be a terminal. Ctrl-C still interrupts; Ctrl-Z does nothing, as it would leave the screen as it is.
    SIGTERM and a terminal that closes end the block by SystemExit."""
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    handlers = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(stdin)
        mode = termios.tcgetattr(stdin)
        mode[6][termios.VSUSP] = b"\x00"
        termios.tcsetattr(stdin, termios.TCSANOW, mode)
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may have gone
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def next_key(seconds: float, *wakes: int) -> str | None:
    """The next key. None after so long, or as soon as one of `wakes`, readable descriptors, has something. Empty if the
    terminal has gone."""
    stdin = sys.stdin.fileno()
    ready, _, _ = select.select([stdin, *wakes], [], [], max(0.0, seconds))
    for wake in wakes:
        if wake in ready:
            os.read(wake, 65536)
    return os.read(stdin, 64).decode("utf-8", "replace") if stdin in ready else None


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
