"""The file of pins: written in one step, never fatal."""

import json
import logging
from pathlib import Path

import pytest

from broker.pins import read_pins, write_pins


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "pins.json"


def test_what_is_written_is_read(path: Path) -> None:
    write_pins(path, ["org/a", "b"])
    assert read_pins(path) == ["org/a", "b"]
    write_pins(path, [])
    assert read_pins(path) == []


def test_the_first_start_has_no_file_and_says_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_pins(path) == []
    assert caplog.records == []


def test_it_is_replaced_in_one_step(path: Path) -> None:
    """A reader that has it open sees the old pins whole; no other file stays beside it."""
    write_pins(path, ["old"])
    with path.open() as held:
        write_pins(path, ["new"])
        assert json.load(held) == {"pinned": ["old"]}
    assert [p.name for p in path.parent.iterdir()] == ["pins.json"]


def test_what_an_interrupted_write_left_hurts_nobody(path: Path) -> None:
    write_pins(path, ["a"])
    path.with_suffix(".new").write_text('{"pin')
    assert read_pins(path) == ["a"]
    write_pins(path, ["b"])
    assert read_pins(path) == ["b"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b"{}", b'{"pinned": "a"}', b'{"pinned": [1]}', b'{"pinned": [["a"]]}'],
)
def test_a_corrupt_file_is_reported_and_set_aside(path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert read_pins(path) == []
    aside = path.with_suffix(".corrupt")
    assert aside.read_bytes() == content
    assert not path.exists()
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert str(path) in record.getMessage()
    assert str(aside) in record.getMessage()


def test_a_file_that_cannot_be_read_is_reported_and_left(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.mkdir(parents=True)
    assert read_pins(path) == []
    assert path.is_dir()
    [record] = caplog.records
    assert "cannot be read" in record.getMessage()


@pytest.mark.parametrize("obstacle", ["a file where the folder should be", "a folder where the file should be"])
def test_a_file_that_cannot_be_written_is_reported_and_not_fatal(
    path: Path, obstacle: str, caplog: pytest.LogCaptureFixture
) -> None:
    if obstacle.startswith("a file"):
        path.parent.write_text("")
    else:
        path.mkdir(parents=True)
    write_pins(path, ["a"])
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "pins will not survive a restart" in record.getMessage()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    write_pins(path, ["old"])
    path.with_suffix(".new").symlink_to("/dev/full")
    write_pins(path, ["new"])
    assert "No space left on device" in caplog.text
    assert read_pins(path) == ["old"]
