"""Keeps the threads that launch and compute short steps on one core, where the CPU of a Linux machine computes.

MLX's thread gets every operation by itself and sleeps as soon as it has none. On another core it is quicker than what
launches the operations, so it sleeps and is woken for nearly each, which costs more than a short step computes. On the
same core, as batch threads (priority.py), the two take turns: all operations are launched, then all are computed. Long
steps gain nothing from it and lose what the two do at once. docs/benchmarks.md has the figures.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

_TASKS = Path("/proc/self/task")

# A step of at most this is short. With models of several sizes, sharing takes 0.3 to 0.8 times as long as two cores do
# at up to 3 ms, as long at 7 to 10 ms, and 1.05 times beyond.
_SHORT_SECONDS = 0.006

# How long the threads stay on a core. Then the system chooses again, in one step: others may need it by now.
_STAY_SECONDS = 0.2

# When steps are long, how often one is tried on one core, where it may be short.
_TRY_SECONDS = 2.0


class Cores(Protocol):
    """Where the threads that compute may run."""

    def share_one(self) -> None:
        """All of them on the core on which the calling thread is."""

    def use_any(self) -> None:
        """On all cores of this process."""


class OneCore(Generic[T]):
    """Call it instead of `step`. Mutable state: whether the threads share a core, and until when that stays."""

    def __init__(self, step: Callable[[], T], cores: Cores, clock: Callable[[], float] = monotonic) -> None:
        """clock: seconds."""
        self._step = step
        self._cores = cores
        self._clock = clock
        self._is_shared = False
        self._until = 0.0

    def __call__(self) -> T:
        """What the step returns or raises."""
        began = self._clock()
        result = self._step()
        now = self._clock()
        is_short, is_over = now - began <= _SHORT_SECONDS, now >= self._until
        if self._is_shared and (is_over or not is_short):
            self._cores.use_any()
            self._is_shared, self._until = False, now + _TRY_SECONDS
        elif not self._is_shared and (is_over or is_short):
            self._cores.share_one()
            self._is_shared, self._until = True, now + _STAY_SECONDS
        return result


class LinuxCores:
    """The cores of this process as they are now. The threads: the calling one, and the batch threads that are not
    Python's, which are MLX's. Does nothing more after the system has forbidden it once."""

    def __init__(self) -> None:
        self._all = os.sched_getaffinity(0)
        self._own = threading.get_native_id()
        self._core: Callable[[], int] = ctypes.CDLL(None).sched_getcpu
        self._is_allowed = len(self._all) > 1

    def share_one(self) -> None:
        """As in Cores."""
        self._allow({self._core()}, {thread.native_id for thread in threading.enumerate()} - {self._own})

    def use_any(self) -> None:
        """As in Cores. Threads that began meanwhile had inherited the one core."""
        self._allow(self._all, set())

    def _allow(self, cores: set[int], others: set[int | None]) -> None:
        if not self._is_allowed:
            return
        try:
            for path in _TASKS.iterdir():
                thread = int(path.name)
                with suppress(ProcessLookupError):  # it has just ended
                    if thread not in others and os.sched_getscheduler(thread) == os.SCHED_BATCH:
                        os.sched_setaffinity(thread, cores)
        except OSError:  # a sandbox, or the cores of this process have become others
            self._is_allowed = False


def on_one_core(step: Callable[[], T]) -> Callable[[], T]:
    """This step, which launches its operations on the CPU, on one core while it is short; on Linux only."""
    return OneCore(step, LinuxCores()) if sys.platform == "linux" else step
