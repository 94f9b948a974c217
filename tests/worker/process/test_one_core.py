"""Threads of short steps share a core, those of long ones do not, and all others run where they may."""

import os
import sys
import threading
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from tests.service import wait_until
from tests.tiny_models import make_tiny_model
from tests.worker.harness import WorkerHarness
from worker.process.one_core import OneCore, ThreadCores

SHORT, LONG = 0.001, 0.05

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="macOS has no cores to choose")


class PlayedCores:
    """is_one: whether the threads share a core; is_taken: whether another process has its threads on one."""

    def __init__(self) -> None:
        self.is_one = self.is_taken = False

    def share_one(self) -> bool:
        assert not self.is_one
        self.is_one = not self.is_taken
        return self.is_one

    def use_any(self) -> None:
        assert self.is_one
        self.is_one = False


class Played:
    """Steps of any length, in a time of their own. part: of the core's time that they get where they share one."""

    def __init__(self) -> None:
        self.now = 100.0
        self.spent = 0.0
        self.part = 1.0
        self.cores = PlayedCores()
        self._next = 0.0
        self._core = OneCore(self._step, self.cores, lambda: self.now, lambda: self.spent)

    def step(self, seconds: float) -> bool:
        """A step that takes so long; whether it had one core."""
        self._next = seconds
        return self._core()

    def rest(self) -> None:
        self._core.rest()

    def work_between(self, seconds: float) -> None:
        """What the service does between two steps, on the same core."""
        self.now += seconds
        self.spent += seconds * self.part

    def _step(self) -> bool:
        self.now += self._next
        self.spent += self._next * (self.part if self.cores.is_one else 1.3)
        return self.cores.is_one


def test_short_steps_share_a_core() -> None:
    played = Played()
    assert [played.step(SHORT) for _ in range(5)] == [False, True, True, True, True]


def test_now_and_then_the_system_chooses_the_core_again() -> None:
    played = Played()
    had_one = [played.step(SHORT) for _ in range(1000)]
    choices = [number for number, one in enumerate(had_one) if not one]
    assert choices[0] == 0
    assert all(200 <= later - earlier <= 222 for earlier, later in pairwise(choices))
    assert len(choices) == 5


def test_long_steps_use_all_cores_but_for_a_try() -> None:
    played = Played()
    tries = [played.step(LONG) for _ in range(200)]  # ten seconds
    assert 3 <= sum(tries) <= 6
    assert not any(one and other for one, other in pairwise(tries))


def test_a_long_step_between_short_ones_does_not_keep_them_apart() -> None:
    played = Played()
    assert [played.step(seconds) for seconds in (SHORT, SHORT, LONG, SHORT, SHORT)] == [False, True, True, False, True]


def test_steps_that_are_short_only_together_stay_together() -> None:
    played = Played()
    began, alone = played.now, 0.0
    for _ in range(2000):
        before = played.now
        if not played.step(SHORT if played.cores.is_one else 10 * SHORT):
            alone += played.now - before
    assert alone < 0.15 * (played.now - began)


def test_where_others_need_the_core_they_soon_part_and_stay_apart_for_a_while() -> None:
    played = Played()
    played.part = 0.6
    had_one = [played.step(SHORT) for _ in range(500)]
    assert 15 <= sum(had_one[:100]) <= 25
    assert not any(had_one[100:])
    played.part = 0.95
    assert sum(played.step(SHORT) for _ in range(1000)) > 900


def test_what_is_done_between_steps_is_no_sign_of_a_core_of_their_own() -> None:
    played = Played()
    played.part = 0.5
    had_one = []
    for _ in range(400):
        had_one.append(played.step(SHORT))
        played.work_between(SHORT / 2)
    assert sum(had_one) < 100


def test_at_rest_the_threads_may_wake_up_anywhere_and_the_next_step_is_on_one_core() -> None:
    played = Played()
    played.rest()
    assert [played.step(SHORT) for _ in range(3)] == [False, True, True]
    played.rest()
    assert not played.cores.is_one
    played.rest()
    assert [played.step(SHORT) for _ in range(3)] == [True, True, True]


def test_one_process_at_a_time_has_its_threads_on_one_core() -> None:
    played = Played()
    played.cores.is_taken = True
    assert not any(played.step(SHORT) for _ in range(500))
    played.rest()
    played.cores.is_taken = False
    assert sum(played.step(SHORT) for _ in range(500)) > 290  # it asks again after a fifth of a second


def test_what_a_step_raises_is_raised() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        OneCore(fail, PlayedCores())()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    (tmp_path / "lock").touch()
    return tmp_path / "lock"


@pytest.fixture
def all_cores() -> set[int]:
    cores = os.sched_getaffinity(0) if sys.platform == "linux" else {0}
    if len(cores) < 2:
        pytest.skip("one core")
    return cores


@on_linux
def test_threads_of_python_keep_all_cores(all_cores: set[int], lock: Path) -> None:
    seen: dict[str, set[int]] = {}
    begun: list[threading.Thread] = []
    is_over = threading.Event()

    def wait() -> None:
        is_over.wait(10)

    def start() -> int:
        begun.append(threading.Thread(target=wait))
        begun[-1].start()
        assert begun[-1].native_id is not None
        return begun[-1].native_id

    def compute() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        before = start()
        cores, other = ThreadCores(lock), ThreadCores(lock)
        assert cores.share_one()
        assert not other.share_one()
        seen["own"], seen["before"] = os.sched_getaffinity(0), os.sched_getaffinity(before)
        inherited = start()
        cores.use_any()
        assert other.share_one()
        other.use_any()
        seen["own after"], seen["inherited after"] = os.sched_getaffinity(0), os.sched_getaffinity(inherited)

    computes = threading.Thread(target=compute)
    computes.start()
    computes.join()
    is_over.set()
    for thread in begun:
        thread.join()
    assert len(seen.pop("own")) == 1
    assert seen == dict.fromkeys(("before", "own after", "inherited after"), all_cores)
    assert os.sched_getaffinity(0) == all_cores  # of this thread, which is no batch thread


@on_linux
def test_what_the_system_forbids_is_not_tried_again(
    all_cores: set[int], lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def forbid(_thread: int) -> int:
        asked.append(1)
        raise PermissionError

    cores = ThreadCores(lock)
    monkeypatch.setattr(os, "sched_getscheduler", forbid)
    assert not cores.share_one()
    assert asked
    asked.clear()
    assert not cores.share_one()
    assert not asked
    monkeypatch.undo()
    assert os.sched_getaffinity(0) == all_cores
    assert ThreadCores(lock).share_one() is True  # the lock is free
    assert os.sched_getaffinity(0) == all_cores


@on_linux
def test_a_real_worker_computes_short_steps_on_one_core(
    harness: WorkerHarness, tmp_path: Path, all_cores: set[int]
) -> None:
    worker = harness.start()
    worker.serve(None, make_tiny_model(tmp_path / "a"))
    process = psutil.Process(worker.process.pid)
    request = worker.request(prompt="Why?", max_tokens=4000)
    wait_until(lambda: _sharing(process) >= 2)  # what launches and what computes
    others = [thread.id for thread in process.threads() if os.sched_getscheduler(thread.id) != os.SCHED_BATCH]
    assert len(others) >= 6
    assert all(os.sched_getaffinity(thread) == all_cores for thread in others)
    assert len(worker.answer(request)["text"]) > 0


def _sharing(process: psutil.Process) -> int:
    """How many batch threads are on one core, 0 if on several."""
    batch = [thread.id for thread in process.threads() if os.sched_getscheduler(thread.id) == os.SCHED_BATCH]
    bound = [cores for thread in batch if len(cores := os.sched_getaffinity(thread)) == 1]
    return len(bound) if len(set(map(frozenset, bound))) == 1 else 0
