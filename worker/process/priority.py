"""Lets threads that compute give way to those that carry words: of this process, of the broker, of the gateway.

Where models compute on the CPU, whoever carries an answer waits for a core as soon as all are busy, and with it the
clients of every model: a process that loads can hold up the streams of others for 100 ms. On macOS models compute on
the GPU, and nothing is done.
"""

import os
import sys
import threading

_NICENESS = 10


def give_way() -> None:
    """Lower the priority of the calling thread and of those that it will start, where that helps. Threads that run
    already (sockets, heartbeat) keep theirs."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)
