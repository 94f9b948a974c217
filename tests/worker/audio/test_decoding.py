"""Files of clients: what they hold, and what is wrong with them."""

import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from broker.wire.failure import Code, FailureError
from tests.tiny_audio import sound, write_sound
from worker.audio.decoding import open_recording

MOST_SECONDS = 4 * 3600


def read(path: Path) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    """All samples of a file."""
    recording = open_recording(str(path), "file", MOST_SECONDS)
    pieces = list(recording.pieces())
    assert max(map(len, pieces)) <= 16_000 * 11
    assert recording.heard == sum(map(len, pieces))
    return np.concatenate(pieces)


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_101, 48_000, pytest.param(192_000, marks=pytest.mark.slow)])
def test_any_rate_is_heard_at_the_right_pitch(tmp_path: Path, rate: int) -> None:
    heard = read(write_sound(tmp_path / "a.wav", 12, rate=rate))
    assert len(heard) == pytest.approx(12 * 16_000, abs=160)
    expected = sound(12)[: len(heard)]
    assert np.corrcoef(heard[: len(expected)], expected)[0, 1] > 0.97


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
def test_the_first_bytes_say_what_a_file_is(tmp_path: Path, name: str) -> None:
    file = write_sound(tmp_path / name, 2)
    assert len(read(file.rename(tmp_path / "anything"))) == pytest.approx(32_000, abs=3000)


def test_channels_become_one(tmp_path: Path) -> None:
    assert len(read(write_sound(tmp_path / "a.wav", 1, channels=32))) == 16_000


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zero_rate(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[24:28] = bytes(4)
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("a.wav", lambda file: file.write_bytes(b""), "file is empty"),
        ("a.wav", lambda file: file.write_bytes(b"%PDF-1.7 and so on"), "file is not a wav, mp3, flac or ogg file"),
        ("a.wav", lambda file: file.write_bytes(file.read_bytes()[:20]), "file is damaged"),
        ("a.mp3", lambda file: file.write_bytes(b"ID3" + bytes(2000)), "file"),
        ("a.flac", lambda file: file.write_bytes(file.read_bytes()[:60]), "file"),
        ("a.ogg", lambda file: file.write_bytes(b"OggS" + bytes(200)), "file is damaged"),
        ("a.wav", cut, "file has 47978 of the 96000 bytes of sound"),
        ("a.flac", cut, "file ends after "),
        ("a.wav", zero_rate, "file"),
        ("a.wav", lambda file: file.unlink(), "file cannot be read: No such file"),
        ("a.wav", lambda file: soundfile.write(file, np.zeros(0), 16_000), "file has no sound in it"),
    ],
)
def test_what_is_wrong_with_a_file_names_the_field(
    tmp_path: Path, name: str, spoil: Callable[[Path], object], says: str
) -> None:
    file = write_sound(tmp_path / name, 3)
    spoil(file)
    with pytest.raises(FailureError) as error:
        read(file)
    failure = error.value.failure
    assert (failure.code, failure.param) == (Code.INVALID_REQUEST, "file")
    assert failure.message.startswith(says)
    assert str(tmp_path) not in failure.message


def test_48_hours_are_refused_by_the_head_of_a_file(tmp_path: Path) -> None:
    file = write_sound(tmp_path / "a.wav", 1, rate=1000)
    frames = 48 * 3600 * 1000
    data = bytearray(file.read_bytes())
    data[40:44] = struct.pack("<I", 2 * frames)
    file.write_bytes(data)
    with file.open("r+b") as opened:
        opened.truncate(44 + 2 * frames)  # takes no space
    with pytest.raises(FailureError, match=r"file lasts 48.0 hours, and must last at most 4.0 hours"):
        open_recording(str(file), "file", MOST_SECONDS)


def test_a_wav_that_was_streamed_lasts_as_long_as_it_does(tmp_path: Path) -> None:
    file = write_sound(tmp_path / "a.wav", 3)
    data = bytearray(file.read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    file.write_bytes(data)
    assert open_recording(str(file), "file", MOST_SECONDS).seconds == pytest.approx(3, abs=0.01)
    assert math.isclose(len(read(file)), 48_000, abs_tol=100)
