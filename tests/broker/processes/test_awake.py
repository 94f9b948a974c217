"""The process that keeps a Mac awake, played by one that sleeps."""

import logging
import shutil
from collections.abc import Iterator

import psutil
import pytest

from broker.processes.awake import Awake, caffeinate

SLEEP = shutil.which("sleep") or "/bin/sleep"


@pytest.fixture
def awake() -> Iterator[Awake]:
    awake = Awake([SLEEP, "600"])
    yield awake
    awake.close()


def keeper() -> psutil.Process | None:
    found = [child for child in psutil.Process().children() if child.name() == "sleep"]
    assert len(found) <= 1
    return found[0] if found else None


def test_one_process_lives_as_long_as_the_work(awake: Awake) -> None:
    awake.keep(False)
    assert keeper() is None
    awake.keep(True)
    first = keeper()
    awake.keep(True)
    assert keeper() == first is not None
    awake.keep(False)
    assert keeper() is None


def test_one_that_has_ended_is_replaced(awake: Awake) -> None:
    awake.keep(True)
    first = keeper()
    assert first is not None
    first.kill()
    first.wait(10)
    awake.keep(True)
    assert keeper() not in (None, first)


def test_a_system_that_has_no_such_command_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    awake = Awake(["/nowhere/caffeinate"])
    with caplog.at_level(logging.WARNING):
        awake.keep(True)
        awake.keep(True)
    assert [record.getMessage() for record in caplog.records] == [
        "nothing keeps this machine awake: [Errno 2] No such file or directory: '/nowhere/caffeinate'"
    ]


def test_macos_alone_has_the_command() -> None:
    assert caffeinate("darwin", 7) == ["/usr/bin/caffeinate", "-i", "-w", "7"]
    assert caffeinate("linux", 7) is None
