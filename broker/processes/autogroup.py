"""Runs broker and workers at a lower priority than gateways and clients, where Linux shares its cores by session.

With sched_autogroup, niceness counts only within a session. Broker and workers are one session, a gateway is another.
With equal shares, a worker that was importing delayed the gateway, and so every client, by 0.2 to 0.4 s; with this, by
10 ms (docs/benchmarks.md).
"""

import contextlib
import os
import sys
from pathlib import Path

_NICENESS = 10


def lower_autogroup() -> None:
    """Does nothing on other systems, or if another process leads this session."""
    if sys.platform == "linux" and os.getsid(0) == os.getpid():
        # The file may be missing or hidden, or Linux refuses a change so soon after another: then nothing changes.
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(_NICENESS))
