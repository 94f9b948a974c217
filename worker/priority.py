"""Lets the processes that compute give way to those that carry their words.

Where models compute on the CPU, broker and gateway wait for a core as soon as all are busy, and with them the clients
of every model: a process that loads can hold up the streams of others for 100 ms. On macOS models compute on the GPU,
and nothing is done.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

_NICENESS = 10


def give_way() -> None:
    """Lower the priority of this process, where that helps. Never fails."""
    if sys.platform == "linux":
        os.nice(_NICENESS)
        # Where the system groups processes by session, niceness counts within the group only, and each worker has one.
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(_NICENESS))
