"""Keeps the threads that launch and compute short steps on one core, where the CPU of a Linux machine computes.

MLX's thread gets every operation by itself and sleeps as soon as it has none. On another core it is quicker than what
launches the operations, so it sleeps and is woken for nearly each, which costs more than a short step computes. On the
same core, as batch threads (priority.py), the two take turns: all operations are launched, then all are computed. Long
steps gain nothing from it and lose what the two do at once. docs/benchmarks.md has the figures.
"""

import ctypes
import fcntl
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, process_time
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

_TASKS = Path("/proc/self/task")

# A step of at most this is short. With models of several sizes, sharing takes 0.3 to 0.8 times as long as two cores do
# at up to 3 ms, as long at 7 to 10 ms, and 1.05 times beyond.
_SHORT_SECONDS = 0.006

# How long the threads stay on a core. Then the system chooses again, in one step: others may need it by now.
_STAY_SECONDS = 0.2

# How often is looked whether they have the core for themselves, and the part of its time that they must have got. Alone
# they get 1.0 to 1.1, what this process does elsewhere included.
_LOOK_SECONDS = 0.02
_LEAST_PART = 0.7

# How long they stay apart where the core was needed by others.
_APART_SECONDS = 0.5

# When steps are long, how often one is tried on one core, where it may be short.
_TRY_SECONDS = 2.0


class Cores(Protocol):
    """Where the threads that compute may run."""

    def share_one(self) -> bool:
        """All of them on the core on which the calling thread is. False: they stay where they are, because another
        process has its threads on one."""

    def use_any(self) -> None:
        """On all cores of this process."""


class OneCore(Generic[T]):
    """Call it instead of `step`: the threads share a core while that is quicker. At rest they share none: else a step
    that follows would wait for the core while another is free.

    Mutable state: whether the threads share a core, or did before they rested; until when that stays as it is; when a
    long step makes them share one, as a short one does; when the last look was, and the processor time of this process
    then.
    """

    def __init__(
        self,
        step: Callable[[], T],
        cores: Cores,
        clock: Callable[[], float] = monotonic,
        spent: Callable[[], float] = process_time,
    ) -> None:
        """clock: seconds. spent: of processor time, by all threads of this process."""
        self._step = step
        self._cores = cores
        self._clock = clock
        self._spent = spent
        self._is_shared = self._is_resting = False
        self._until = self._try_at = 0.0
        self._looked_at = self._spent_before = 0.0

    def __call__(self) -> T:
        """What the step returns or raises."""
        began = self._clock()
        if self._is_resting:
            self._share(began)
        result = self._step()
        now = self._clock()
        is_short, is_over = now - began <= _SHORT_SECONDS, now >= self._until
        if not self._is_shared:
            if is_over and (is_short or now >= self._try_at):
                self._share(now)
        elif not is_short:
            self._part(now, now + _TRY_SECONDS)
        elif now - self._looked_at >= _LOOK_SECONDS:
            if not self._has_its_core(now):
                self._part(now + _APART_SECONDS, now + _TRY_SECONDS)
            elif is_over:
                self._part(now, now)
            else:
                self._look(now)
        return result

    def rest(self) -> None:
        """No step follows before something else happens."""
        if self._is_shared:
            self._cores.use_any()
            self._is_shared, self._is_resting = False, True

    def _has_its_core(self, now: float) -> bool:
        return self._spent() - self._spent_before >= _LEAST_PART * (now - self._looked_at)

    def _look(self, now: float) -> None:
        self._looked_at, self._spent_before = now, self._spent()

    def _share(self, now: float) -> None:
        self._is_shared, self._is_resting = self._cores.share_one(), False
        self._until = now + _STAY_SECONDS
        self._look(now)

    def _part(self, until: float, try_at: float) -> None:
        self._cores.use_any()
        self._is_shared, self._until, self._try_at = False, until, try_at


class ThreadCores:
    """The cores of this process as they are now. The threads: the calling one, and the batch threads that are not
    Python's, which are MLX's. lock: a file that there is; of the processes that have it, one at a time has its threads
    on one core: two could take the same, where each would wait for the other. None: they never share one. Nor do they
    after the system has forbidden it once, or on macOS."""

    def __init__(self, lock: Path | None) -> None:
        self._all = _own_cores()
        self._own = threading.get_native_id()
        self._core: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)  # old libraries of C
        self._lock = -1
        if lock is not None:
            with suppress(OSError):
                self._lock = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
        self._is_allowed = self._lock >= 0

    def share_one(self) -> bool:
        """As in Cores."""
        self._all = _own_cores()  # which somebody may have changed
        if not self._is_allowed or self._core is None or len(self._all) < 2:
            return False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another has it, or there are no locks
            return False
        others = {thread.native_id for thread in threading.enumerate()} - {self._own}
        is_done = self._allow({self._core()}, others)
        if not is_done:
            self.use_any()
        return is_done

    def use_any(self) -> None:
        """As in Cores. Threads that began meanwhile had inherited the one core."""
        self._allow(self._all, set())
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _allow(self, cores: set[int], others: set[int | None]) -> bool:
        """Whether all threads but the others may run on these cores now, and nowhere else."""
        try:
            for path in _TASKS.iterdir():
                thread = int(path.name)
                with suppress(ProcessLookupError):  # it has just ended
                    if thread not in others:
                        _bind(thread, cores)
        except (OSError, ValueError):  # a sandbox, other cores than before, or none that the library knows
            self._is_allowed = False
        return self._is_allowed


def _own_cores() -> set[int]:
    cores = set[int]()
    if sys.platform == "linux":
        cores = os.sched_getaffinity(0)
    return cores


def _bind(thread: int, cores: set[int]) -> None:
    if sys.platform == "linux" and os.sched_getscheduler(thread) == os.SCHED_BATCH:
        os.sched_setaffinity(thread, cores)
