"""Processor time of another process."""

import ctypes
import sys
import time

import psutil


def cpu_seconds(pid: int) -> float:
    """Of all its threads so far, also of those that have ended. Linux tells nanoseconds, other systems ticks of 10 ms.
    Raises psutil.NoSuchProcess."""
    if sys.platform != "linux":
        return float(sum(psutil.Process(pid).cpu_times()[:2]))
    clock = ctypes.c_int()
    try:
        if ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)) == 0:
            return time.clock_gettime(clock.value)
    except OSError:  # it has ended between the two
        pass
    raise psutil.NoSuchProcess(pid)
