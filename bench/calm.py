"""Waits until the machine is idle: figures measured beside other work mean nothing."""

import time

import psutil

_FREE_PERCENT = 12.0  # of all cores
_LOOK_SECONDS = 0.5
_PATIENCE_SECONDS = 10.0

# How often a measurement began although the machine was busy; saved with the results.
began_busy = 0


def wait_until_calm() -> None:
    """Return when the machine is idle, or after ten seconds in any case. Blocks: call it between measurements."""
    global began_busy  # noqa: PLW0603 # one counter for the run
    deadline = time.monotonic() + _PATIENCE_SECONDS
    psutil.cpu_percent()
    while time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        if psutil.cpu_percent() < _FREE_PERCENT:
            return
    began_busy += 1
