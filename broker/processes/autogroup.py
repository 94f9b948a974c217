"""Lets the broker's session give way to others: to gateways, and to clients on the same machine.

Linux may share its cores between sessions before it looks at the niceness inside of them (sched_autogroup). Broker and
workers are one session, a gateway another one. With equal shares a worker that only imports, however nice inside of its
session, held up the gateway and with it every client for 0.2 to 0.4 s; with this, for 10 ms (docs/benchmarks.md).
"""

import contextlib
import os
import sys
from pathlib import Path

_NICENESS = 10


def give_way() -> None:
    """Where there is such a thing, and where this process leads its session; it is nobody else's to change."""
    if sys.platform == "linux" and os.getsid(0) == os.getpid():
        # Not there, hidden, or changed by somebody a tenth of a second ago: then all is as it would be without.
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(_NICENESS))
