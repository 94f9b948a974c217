"""Whether the machine is free: figures taken beside other work say nothing."""

import time

import psutil

_FREE_PERCENT = 12.0  # of all cores
_LOOK_SECONDS = 0.5
_PATIENCE_SECONDS = 10.0

# How often a measurement began although the machine was not free; written beside the results.
began_busy = 0


def wait_until_calm() -> None:
    """Return when nobody else computes, or after ten seconds all the same. Blocks: for between two measurements."""
    global began_busy  # noqa: PLW0603 # one counter for the run
    deadline = time.monotonic() + _PATIENCE_SECONDS
    psutil.cpu_percent()
    while time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        if psutil.cpu_percent() < _FREE_PERCENT:
            return
    began_busy += 1
