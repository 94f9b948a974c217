"""Whether honcho has gone: a process that loses its parent, or the parent of that, gets another."""

import ctypes
import os
import subprocess
import sys
from typing import Any

import pytest

from broker.wire.parents import SERVE_PID, Parents, darwin_parent_of, has_lost_starter, system_parent_of

HONCHO, HELPER, INIT = 10, 20, 1


class Processes:
    """pid -> parent, as a system would say; this one is a child of the helper."""

    def __init__(self, parent: int = HELPER) -> None:
        self.parent = parent
        self.parents: dict[int, int] = {HELPER: HONCHO, HONCHO: INIT}

    def watch(self) -> Parents:
        return Parents(lambda: self.parent, self.parents.get)


def test_as_long_as_all_are_there_nothing_has_gone() -> None:
    parents = Processes().watch()
    assert [parents.have_gone() for _ in range(3)] == [False] * 3


def test_the_helper_has_gone() -> None:
    processes = Processes()
    parents = processes.watch()
    processes.parent = INIT
    assert parents.have_gone()


def test_honcho_has_gone_and_its_helper_is_left() -> None:
    processes = Processes()
    parents = processes.watch()
    processes.parents[HELPER] = INIT
    assert parents.have_gone()


def test_both_had_gone_before_this_process_looked_first() -> None:
    assert Processes(parent=INIT).watch().have_gone()


def test_in_a_container_honcho_may_be_the_first_process() -> None:
    processes = Processes()
    processes.parents = {HELPER: INIT}
    assert not processes.watch().have_gone()


def test_what_serve_has_started_knows_its_process_id() -> None:
    parent = HONCHO
    lost = has_lost_starter({SERVE_PID: str(HONCHO), "HONCHO_PROCESS_NAME": "of a honcho around it"}, lambda: parent)
    assert not lost()
    parent = INIT
    assert lost()
    assert has_lost_starter({SERVE_PID: str(HELPER)}, lambda: HONCHO)(), "it had gone before the first look"
    assert not has_lost_starter({SERVE_PID: "1"}, lambda: INIT)(), "in a container serve is the first process"


def test_a_system_that_does_not_say_is_no_reason_to_end() -> None:
    processes = Processes()
    processes.parents = {}
    assert not processes.watch().have_gone()


def test_a_system_that_does_not_say_it_for_a_moment_is_none_either() -> None:
    processes = Processes()
    parents = processes.watch()
    del processes.parents[HELPER]
    assert not parents.have_gone()
    processes.parents[HELPER] = INIT
    assert parents.have_gone()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it takes no descriptor")
def test_a_process_with_as_many_open_files_as_it_may_have_goes_on() -> None:
    code = """
import os, resource
from broker.wire.parents import Parents
parents = Parents()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
opened = []
try:
    while True:
        opened.append(os.dup(1))
except OSError:
    pass
print(parents.have_gone())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout == "False\n"


def test_only_what_honcho_started_ends_with_it() -> None:
    assert not has_lost_starter({})()
    assert not has_lost_starter({"HONCHO_PROCESS_NAME": "broker.1"})()  # the parents of this test live
    lost = has_lost_starter({"HONCHO_PROCESS_NAME": "broker.1"})
    assert getattr(lost, "__name__", "") == "have_gone"


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_the_parent_of_a_real_process() -> None:
    parent_of = system_parent_of()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert parent_of(child.pid) == os.getpid()
        assert parent_of(os.getpid()) == os.getppid()
    finally:
        child.communicate(b"\n")
    assert parent_of(child.pid) is None


class LibProc:
    """`proc_pidinfo` with flavor 13 as XNU has it: 64 bytes for a process of this user, 0 for any other."""

    def __init__(self, parents: dict[int, int]) -> None:
        self._parents = parents

    def proc_pidinfo(self, pid: int, flavor: int, argument: Any, buffer: Any, size: int) -> int:
        assert (flavor, argument.value, size) == (13, 0, 64)
        if pid not in self._parents:
            return 0
        content = pid.to_bytes(4, sys.byteorder) + self._parents[pid].to_bytes(4, sys.byteorder) + b"\xff" * 56
        ctypes.memmove(buffer, content, len(content))
        return size


def test_the_parent_of_a_process_on_macos() -> None:
    parent_of = darwin_parent_of(LibProc({HELPER: 70_000}))
    assert parent_of(HELPER) == 70_000
    assert parent_of(HONCHO) is None
