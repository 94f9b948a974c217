"""How exits are told: the real way of this system, and that of macOS with its kqueue played."""

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.policy.actions import StartWorker
from broker.processes.exits import ExitWatcher, KqueueWatcher, exit_watcher
from broker.processes.supervisor import Supervisor
from tests.service import wait_until

# <sys/event.h> of macOS.
PROC, TIMER = -5, -7
ADD, ONESHOT, EXIT = 0x1, 0x10, 0x80000000


@dataclass(frozen=True)
class Kevent:
    ident: int
    filter: int
    flags: int = 0
    fflags: int = 0
    data: int = 0


class System:
    """The module `select` of macOS, as far as it is used; `living`: the processes that have not exited."""

    KQ_FILTER_PROC, KQ_FILTER_TIMER = PROC, TIMER
    KQ_EV_ADD, KQ_EV_ONESHOT, KQ_NOTE_EXIT = ADD, ONESHOT, EXIT
    kevent = Kevent

    def __init__(self, *living: int) -> None:
        self.living = set(living)
        self.registered: list[Kevent] = []
        self.pending: list[Kevent] = []
        self.is_closed = False

    def kqueue(self) -> "System":
        return self

    def fileno(self) -> int:
        return 42

    def control(self, changes: list[Kevent], most: int, timeout: float | None = None) -> list[Kevent]:
        for change in changes:
            assert change.flags == ADD | ONESHOT
            if change.filter == PROC:
                assert change.fflags == EXIT
                if change.ident not in self.living:
                    raise ProcessLookupError(3, "No such process")
            else:
                assert (change.fflags, change.data) == (0, 0)
                self.pending.append(change)
            self.registered.append(change)
        told, self.pending = self.pending[:most], self.pending[most:]
        return told

    def exits(self, pid: int) -> None:
        self.living.discard(pid)
        self.pending.append(Kevent(pid, PROC))

    def close(self) -> None:
        self.is_closed = True


def test_macos_tells_the_exit_of_a_child_that_lives_when_it_is_added() -> None:
    system = System(11, 12)
    watcher = KqueueWatcher(system)
    watcher.add(11)
    watcher.add(12)
    assert (watcher.fileno(), watcher.take()) == (42, [])
    system.exits(12)
    assert (watcher.take(), watcher.take()) == ([12], [])
    watcher.close()
    assert system.is_closed


def test_macos_tells_the_exit_of_a_child_that_was_dead_before_by_a_timer() -> None:
    system = System()
    watcher = KqueueWatcher(system)
    watcher.add(13)
    assert [(event.ident, event.filter) for event in system.registered] == [(13, TIMER)]
    assert watcher.take() == [13]


def test_many_exits_at_once_are_told_in_turns() -> None:
    system = System(*range(100))
    watcher = KqueueWatcher(system)
    for pid in range(100):
        watcher.add(pid)
        system.exits(pid)
    assert (watcher.take(), watcher.take()) == ([*range(64)], [*range(64, 100)])


@pytest.fixture
def watcher() -> Iterator[ExitWatcher]:
    watcher = exit_watcher()
    yield watcher
    watcher.close()


@pytest.mark.parametrize("dead_before", [True, False])
def test_the_way_of_this_system(watcher: ExitWatcher, dead_before: bool) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    if dead_before:
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    watcher.add(child.pid)
    child.stdin.close()
    assert select.select([watcher.fileno()], [], [], 20)[0]
    assert (watcher.take(), watcher.take()) == ([child.pid], [])
    child.wait()


class Untidy:
    """Tells each exit twice, and that of a process that is none of ours."""

    def __init__(self, real: ExitWatcher) -> None:
        self._real = real
        self.add, self.fileno, self.close = real.add, real.fileno, real.close

    def take(self) -> list[int]:
        return [pid for pid in self._real.take() for pid in (pid, os.getpid(), pid)]


def test_the_supervisor_reports_an_exit_that_is_told_twice_once() -> None:
    with tempfile.TemporaryDirectory(prefix="mlxb-") as directory:
        supervisor = Supervisor(f"ipc://{directory}/worker.sock", 0.5, Path(directory), exits=Untidy(exit_watcher()))
        try:
            supervisor.start(StartWorker("w1", spare=False))
            supervisor.kill("w1")
            exits = wait_until(supervisor.take_exits, what="the exit")
            assert [(worker_id, how.signal) for worker_id, how in exits] == [("w1", "SIGKILL")]
            assert supervisor.take_exits() == []
        finally:
            supervisor.close()
