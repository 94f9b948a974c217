"""Ends this process when its broker dies, however it dies, and whatever this process is doing.

Two independent means. The broker holds the other end of stdin and never writes: on every system, end of file means
that the broker is dead. On Linux the kernel also sends SIGKILL, which works even if this process can run no Python.

Must be called before heavy imports. Never finishes any work: no broker is left to receive it.
"""

import ctypes
import os
import signal
import sys
from threading import Thread

_PR_SET_PDEATHSIG = 1


def hold_lifeline(parent_pid: int) -> None:
    """Tie this process to its parent, and exit at once if that is no longer `parent_pid`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The broker may have died before prctl took effect: then no signal comes.
    if os.getppid() != parent_pid:
        os._exit(1)
    Thread(target=_exit_at_end_of_stdin, name="lifeline", daemon=True).start()


def _exit_at_end_of_stdin() -> None:
    while os.read(0, 512):
        pass
    os._exit(1)
