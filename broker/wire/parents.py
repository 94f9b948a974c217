"""Tells a process that `mlx-broker serve` or honcho, which started it, has gone. A window that is closed, or a
`kill -9`, ends them without a word to their children: these would go on without anybody who could see or end them.

`serve` says which process it is. Honcho starts each process through a helper of its own, so that the helper's parent
counts too. What was started by hand or by launchd goes on without its parent.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# The variable in which `mlx-broker serve` tells what it starts its own process id.
SERVE_PID = "MLX_BROKER_SERVE_PID"

_INIT = 1

# <sys/proc_info.h>: proc_pidinfo fills a struct proc_bsdshortinfo of 64 bytes, which begins with pid and parent pid.
_SHORT_INFO, _SHORT_INFO_BYTES = 13, 64


def has_lost_starter(
    environment: Mapping[str, str] = os.environ, parent: Callable[[], int] = os.getppid
) -> Callable[[], bool]:
    """A function that says whether `mlx-broker serve` or honcho has gone; never, for a process that neither of them has
    started. Call this as early as possible, and the function about once a second."""
    if serve := environment.get(SERVE_PID):
        return lambda: str(parent()) != serve
    return Parents().have_gone if "HONCHO_PROCESS_NAME" in environment else lambda: False


class Parents:
    """The parent of this process, and its parent, as they were at first."""

    def __init__(
        self, parent: Callable[[], int] = os.getppid, parent_of: Callable[[int], int | None] | None = None
    ) -> None:
        self._parent = parent
        self._parent_of = parent_of or system_parent_of()
        self._first = self._now()

    def have_gone(self) -> bool:
        """Whether one of them has ended: who loses a parent gets another."""
        (first, above_first), (parent, above) = self._first, self._now()
        if first == _INIT or parent != first:
            return True
        # Unknown, too, when this process has as many files open as it may: that says nothing about honcho.
        return above is not None and above_first is not None and above != above_first

    def _now(self) -> tuple[int, int | None]:
        parent = self._parent()
        return parent, self._parent_of(parent)


def system_parent_of(platform: str = sys.platform) -> Callable[[int], int | None]:
    """The function of this system that gives the parent of a process; None where that cannot be known."""
    if platform == "darwin":
        return darwin_parent_of(ctypes.CDLL("/usr/lib/libproc.dylib"))
    return _linux_parent_of


def darwin_parent_of(libproc: Any) -> Callable[[int], int | None]:
    """libproc: the library of that name."""

    def parent_of(pid: int) -> int | None:
        info = ctypes.create_string_buffer(_SHORT_INFO_BYTES)
        size = libproc.proc_pidinfo(pid, _SHORT_INFO, ctypes.c_uint64(0), info, _SHORT_INFO_BYTES)
        return int.from_bytes(info.raw[4:8], sys.byteorder) if size == _SHORT_INFO_BYTES else None

    return parent_of


def _linux_parent_of(pid: int) -> int | None:
    try:
        # The name of the program, which may hold anything, stands in brackets before.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None
