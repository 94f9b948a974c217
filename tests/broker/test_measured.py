"""The file that remembers what models took."""

import logging
from pathlib import Path

import pytest

from broker.measured import read_measured, write_measured

SIZES = {"abc": 5 << 30, "def": 1}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "measured.json"
    write_measured(path, SIZES)
    assert read_measured(path) == SIZES
    assert [file.name for file in path.parent.iterdir()] == ["measured.json"]


def test_without_a_file_nothing_is_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_measured(tmp_path / "measured.json") == {}
    assert caplog.messages == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"measured": 3}',
        b'{"measured": {"a": "1"}}',
        b'{"measured": {"a": -1}}',
        b'{"measured": {"a": true}}',
        b"\xff",
    ],
)
def test_a_file_that_is_something_else_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / "measured.json"
    path.write_bytes(content)
    assert read_measured(path) == {}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    write_measured(path, SIZES)
    assert read_measured(path) == SIZES


def test_a_folder_that_cannot_be_written_is_an_error_in_the_log_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    write_measured(tmp_path / "file" / "measured.json", SIZES)
    assert "sizes of models will be estimated after a restart" in caplog.text
    assert read_measured(tmp_path / "file" / "measured.json") == {}
