"""Runs compute threads at a lower priority than I/O threads: those of this process, the broker and the gateway.

If models compute on the CPU and all cores are busy, I/O threads wait for a core, and so do the clients of every model:
a process that loads can delay the streams of others by 100 ms. On macOS models compute on the GPU, and this does
nothing.

MLX's thread gets every operation by itself and is often woken for each. Where it shares a core with the thread that
launches them, it would interrupt that each time: 56 times in a step of eight short sequences on a busy machine. As
batch threads they do not interrupt each other, which takes a third off the CPU of such a step.
"""

import contextlib
import os
import sys
import threading

_NICENESS = 10


def lower_priority() -> None:
    """Lower the priority of the calling thread and of threads that it starts later, on Linux, and make them batch
    threads, unless they have been given a scheduling policy from outside. Threads that run already (sockets, heartbeat)
    keep theirs."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)
        with contextlib.suppress(OSError):  # where a sandbox forbids it, things are only slower
            if os.sched_getscheduler(thread) == os.SCHED_OTHER:
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
