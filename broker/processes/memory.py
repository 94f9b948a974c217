"""Memory and processor time of a process, from the operating system. No thread, no history.

On macOS the resident size misses Metal's memory (reports of 33 MB against 49.8 GB), so the physical footprint is read
with `proc_pid_rusage`, as Activity Monitor does. Elsewhere the footprint is the resident size.
"""

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import psutil

from broker.processes.launcher import Sample

# (pid, resident bytes) -> the physical footprint in bytes.
Footprint = Callable[[int, int], int]


class Sampler:
    """Samples processes by pid. `forget` a pid when its process has exited, because pids are used again.

    footprint: asks the system, in the way of this one if None.
    """

    def __init__(self, footprint: Footprint | None = None) -> None:
        self._footprint = footprint or footprint_of_system()
        self._processes: dict[int, psutil.Process] = {}

    def sample(self, pid: int) -> Sample | None:
        """What this process takes now; None if it has exited."""
        try:
            process = self._processes.get(pid)
            if process is None:
                process = self._processes[pid] = psutil.Process(pid)
            with process.oneshot():
                rss = process.memory_info().rss
                return Sample(rss, self._footprint(pid, rss), process.cpu_percent())
        except psutil.Error:
            self.forget(pid)
            return None

    def forget(self, pid: int) -> None:
        self._processes.pop(pid, None)


def total_bytes() -> int:
    """The memory of this machine."""
    return int(psutil.virtual_memory().total)


def available_bytes() -> int:
    """Memory of this machine that processes can get without swapping, as far as the system knows."""
    return int(psutil.virtual_memory().available)


def wired_bytes() -> int | None:
    """Memory of this machine that cannot be paged out; None where the system does not say it."""
    wired = getattr(psutil.virtual_memory(), "wired", None)
    return None if wired is None else int(wired)


class _RusageInfoV0(ctypes.Structure):
    """`struct rusage_info_v0` of <sys/resource.h>; flavor 0 fills exactly this much."""

    _fields_ = (
        ("ri_uuid", ctypes.c_uint8 * 16),
        ("ri_user_time", ctypes.c_uint64),
        ("ri_system_time", ctypes.c_uint64),
        ("ri_pkg_idle_wkups", ctypes.c_uint64),
        ("ri_interrupt_wkups", ctypes.c_uint64),
        ("ri_pageins", ctypes.c_uint64),
        ("ri_wired_size", ctypes.c_uint64),
        ("ri_resident_size", ctypes.c_uint64),
        ("ri_phys_footprint", ctypes.c_uint64),
        ("ri_proc_start_abstime", ctypes.c_uint64),
        ("ri_proc_exit_abstime", ctypes.c_uint64),
    )


def footprint_of_system(platform: str = sys.platform) -> Footprint:
    """The function of this system."""
    if platform == "darwin":
        return darwin_footprint(ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True))
    return lambda _pid, rss: rss


def darwin_footprint(libproc: Any) -> Footprint:
    """libproc: the library of that name."""

    def footprint(pid: int, rss: int) -> int:
        info = _RusageInfoV0()
        if libproc.proc_pid_rusage(pid, 0, ctypes.byref(info)) != 0:
            return rss
        return max(int(info.ri_phys_footprint), rss)

    return footprint
