"""The writer: bounded in bytes per second, and what is cancelled or forgotten is not written."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.service import wait_until
from worker.cache.disk.files import Tensor
from worker.cache.disk.space import Bounds, Space
from worker.cache.disk.writer import BURST_SECONDS, MOST_COPIED_BYTES, Job, Writer

SIZE = 100_000  # of a job
BURST = 10  # jobs that are written at once


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "caches" / "model" / "root"


@pytest.fixture
def writer(folder: Path, clock: Clock) -> Writer:
    folders = (folder.parent.parent, folder.parent, folder)
    space = Space(folders[0], folders[1], Bounds(10**9, 0))
    return Writer(folders, space, BURST * SIZE / BURST_SECONDS, lambda _descriptor: None, clock=clock)


def job(name: str) -> Job:
    def tensors() -> Mapping[str, Tensor]:
        return {"0": Tensor("U8", np.zeros(SIZE, np.uint8))}

    return Job(f"{name}.safetensors", SIZE, tensors, {})


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.safetensors"))


def test_it_writes_a_burst_then_so_many_bytes_per_second_and_the_rest_when_it_ends(
    writer: Writer, folder: Path, clock: Clock
) -> None:
    for number in range(40):
        writer.offer(job(f"{number:02}"))
    wait_until(lambda: len(names(folder)) == BURST)
    assert not writer.wait(0.15)
    assert len(names(folder)) == 10
    assert writer.queued_bytes == 30 * SIZE
    clock.now += 0.5 * BURST_SECONDS
    wait_until(lambda: len(names(folder)) == 15)
    assert not writer.wait(0.15)
    assert len(names(folder)) == 15
    writer.close(10.0)
    assert len(names(folder)) == 40
    assert writer.queued_bytes == 0


def test_what_replaces_a_file_waits_behind_the_others_and_for_the_newest(
    writer: Writer, folder: Path, clock: Clock
) -> None:
    for number in range(12):
        writer.offer(job(f"{number:02}"))
    wait_until(lambda: len(names(folder)) == 10)
    made: list[int] = []
    tails = [replace(job("tail"), tensors=partial(_noted, made, number), replaces=True) for number in range(3)]
    for owner, tail in zip((b"a", b"b", b"gone"), (*tails[:2], replace(tails[2], file="x")), strict=True):
        writer.enter(owner, [tail])
    writer.enter(b"b", [job("block")])
    assert writer.queued_bytes == 5 * SIZE
    writer.cancel(b"gone")
    assert writer.queued_bytes == 4 * SIZE
    clock.now += 0.3 * BURST_SECONDS
    wait_until(lambda: len(names(folder)) == 13)
    assert names(folder)[-2:] == ["11", "block"]
    assert not writer.wait(0.15)
    clock.now += BURST_SECONDS
    assert writer.wait(10.0)
    assert (made, writer.queued_bytes) == ([1], 0)
    assert names(folder)[-1] == "tail"


def _noted(made: list[int], number: int) -> Mapping[str, Tensor]:
    made.append(number)
    return job("").tensors()


def test_an_entry_that_leaves_memory_is_not_written(writer: Writer, folder: Path, clock: Clock) -> None:
    for number in range(12):
        writer.offer(job(f"{number:02}"))
    writer.enter(b"gone", [job("gone")])
    writer.enter(b"kept", [job("kept")])
    wait_until(lambda: len(names(folder)) == 10)
    writer.cancel(b"gone")
    clock.now += 10 * BURST_SECONDS
    writer.offer(job("last"))
    assert writer.wait(10.0)
    assert names(folder) == [*(f"{number:02}" for number in range(12)), "kept", "last"]


def test_what_is_forgotten_is_neither_there_nor_written(writer: Writer, folder: Path, clock: Clock) -> None:
    for number in range(20):
        writer.offer(job(f"{number:02}"))
    wait_until(lambda: len(names(folder)) == 10)
    writer.forget()
    clock.now += 10 * BURST_SECONDS
    writer.offer(job("new"))
    assert writer.wait(10.0)
    assert names(folder) == ["new"]


def test_what_waits_when_another_process_has_removed_all_is_not_written(
    writer: Writer, folder: Path, clock: Clock
) -> None:
    for number in range(20):
        writer.offer(job(f"{number:02}"))
    wait_until(lambda: len(names(folder)) == 10)
    shutil.rmtree(folder.parent)
    clock.now += 10 * BURST_SECONDS
    assert writer.wait(10.0)
    assert names(folder) == []
    writer.offer(job("new"))
    assert writer.wait(10.0)
    assert names(folder) == ["new"]


def test_copies_that_wait_have_a_bound(writer: Writer) -> None:
    writer.enter(b"an entry", [job(str(number)) for number in range(100)])
    assert writer.room == MOST_COPIED_BYTES
    for number in range(100, 200):
        writer.offer(job(str(number)))
    assert MOST_COPIED_BYTES - 100 * SIZE <= writer.room < MOST_COPIED_BYTES
