"""Space on disk: the least recently used goes first, of all models; the reserve stays free."""

import os
from pathlib import Path

import pytest

from worker.cache.disk.space import Bounds, Space


class Disk:
    """A folder of two models, with files of 100 bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.free = 10_000
        self.now = 0.0
        for model in "ab":
            (folder / model / "root").mkdir(parents=True)

    def add(self, model: str, name: str, used: int) -> Path:
        path = self.folder / model / "root" / f"{name}.safetensors"
        path.write_bytes(b"x" * 100)
        os.utime(path, (used, used))
        return path

    def space(self, max_bytes: int, reserve: int = 0) -> Space:
        bounds = Bounds(max_bytes, reserve)
        return Space(
            self.folder, self.folder / "a", bounds, clock=lambda: self.now, free_bytes=lambda _folder: self.free
        )

    @property
    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.rglob("*.safetensors"))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_the_least_recently_used_goes_first_whosever_it_is(disk: Disk) -> None:
    disk.add("a", "second", 20)
    disk.add("b", "first", 10)
    disk.add("b", "third", 30)
    space = disk.space(400)
    assert space.make_room(100)
    assert (space.bytes, space.files, space.own_bytes, space.own_files) == (300, 3, 100, 1)
    assert disk.names == ["first", "second", "third"]
    assert space.make_room(150)
    assert disk.names == ["second", "third"]
    assert space.make_room(300)
    assert disk.names == ["third"]
    assert not space.make_room(500)
    assert (space.bytes, space.own_bytes, disk.names) == (0, 0, [])


def test_what_has_been_used_since_the_last_look_stays(disk: Disk) -> None:
    path = disk.add("a", "first", 10)
    disk.add("a", "second", 20)
    space = disk.space(200)
    space.look()
    os.utime(path)
    assert space.make_room(100)
    assert disk.names == ["first"]


def test_it_counts_what_it_writes_and_sees_others_at_the_next_look(disk: Disk) -> None:
    space = disk.space(1000)
    space.look()
    space.written(str(disk.folder / "a" / "root" / "new"), 300)
    disk.add("b", "others", 10)
    assert (space.bytes, space.own_bytes) == (300, 300)
    disk.now = 5.5
    assert space.make_room(1)
    assert (space.bytes, space.own_bytes) == (100, 0)  # what is there, and nothing else


def test_the_reserve_of_the_disk_stays_free(disk: Disk) -> None:
    disk.add("a", "first", 10)
    space = disk.space(10_000, reserve=9950)
    assert not space.make_room(100)
    assert disk.names == []
    disk.free = 20_000
    assert space.make_room(100)


def test_what_a_killed_process_was_writing_goes_after_a_minute(disk: Disk) -> None:
    old, new = (disk.folder / "a" / "root" / f"{name}.part" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (10, 10))
    disk.space(100).look()
    assert (old.exists(), new.exists()) == (False, True)
