"""Memory and processor time of a process, from the operating system. No thread, no history.

On macOS the resident size misses Metal's memory (reports of 33 MB against 49.8 GB), so the physical footprint is read
with `proc_pid_rusage`, as Activity Monitor does. Elsewhere the footprint is the resident size.
"""

import ctypes
import sys

import psutil

from broker.processes.launcher import Sample


class Sampler:
    """Samples processes by pid. `forget` a pid when its process has exited, because pids are used again."""

    def __init__(self) -> None:
        self._processes: dict[int, psutil.Process] = {}

    def sample(self, pid: int) -> Sample | None:
        """What this process takes now; None if it has exited."""
        try:
            process = self._processes.get(pid)
            if process is None:
                process = self._processes[pid] = psutil.Process(pid)
            with process.oneshot():
                rss = process.memory_info().rss
                return Sample(rss, _footprint(pid, rss), process.cpu_percent())
        except psutil.Error:
            self.forget(pid)
            return None

    def forget(self, pid: int) -> None:
        self._processes.pop(pid, None)


def total_bytes() -> int:
    """The memory of this machine."""
    return int(psutil.virtual_memory().total)


if sys.platform == "darwin":

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

    _libproc = ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)

    def _footprint(pid: int, rss: int) -> int:
        info = _RusageInfoV0()
        if _libproc.proc_pid_rusage(pid, 0, ctypes.byref(info)) != 0:
            return rss
        return max(int(info.ri_phys_footprint), rss)

else:

    def _footprint(pid: int, rss: int) -> int:
        return rss
