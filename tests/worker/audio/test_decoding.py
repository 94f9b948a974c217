"""Files of clients: what they hold, and what is wrong with them."""

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from broker.wire.failure import Code, FailureError
from tests.timing import assert_cheap
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


# libsndfile cannot write the last.
@pytest.mark.parametrize("kind", [kind for kind in soundfile.available_subtypes("WAV") if kind != "MPEG_LAYER_III"])
def test_any_kind_of_wav_is_heard_whole_or_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, sound(3), 16_000, subtype=kind)
    if kind in ("GSM610", "G721_32") or kind.startswith("NMS"):  # miniaudio does not know them
        says = "file is damaged" if kind == "GSM610" else "file is a wav of the form 0x"
        assert failure(file).startswith(says)
        return
    heard = read(file)
    assert len(heard) == pytest.approx(48_000, abs=1100)  # a block of ADPCM more
    assert np.corrcoef(heard[:48_000], sound(3)[: len(heard)])[0, 1] > 0.99


def failure(file: Path) -> str:
    """Why this file is refused, by the name of its field."""
    with pytest.raises(FailureError) as error:
        read(file)
    failed = error.value.failure
    assert (failed.code, failed.param) == (Code.INVALID_REQUEST, "file")
    return failed.message


@pytest.mark.parametrize(
    ("name", "rate", "channels"), [("a.ogg", 192_000, 255), ("a.ogg", 8000, 65), ("a.wav", 8000, 65)]
)
def test_many_channels_are_refused_at_once(tmp_path: Path, name: str, rate: int, channels: int) -> None:
    file = tmp_path / name
    soundfile.write(file, np.zeros((rate // 10, channels), np.float32), rate)
    with pytest.raises(FailureError, match=f"file has {channels} channels: it must have at most 64") as error:
        open_recording(str(file), "file", MOST_SECONDS)
    assert (error.value.failure.code, error.value.failure.param) == (Code.INVALID_REQUEST, "file")


def test_an_ogg_of_many_channels_is_read_in_small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.audio.decoding._BLOCK_BYTES", 2**16)
    file = tmp_path / "a.ogg"
    soundfile.write(file, np.zeros((8000, 64), np.float32), 8000)
    asked: list[int] = []
    blocks = soundfile.SoundFile.blocks

    def counted(self: Any, frames: int, **options: Any) -> Any:
        asked.append(frames)
        return blocks(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "blocks", counted)
    assert len(read(file)) == pytest.approx(16_000, abs=100)
    assert asked == [2**16 // 4 // 64]


def test_a_wav_of_empty_chunks_is_given_up(tmp_path: Path) -> None:
    """A million of them fit into an upload."""
    file = write_sound(tmp_path / "a.wav", 1)
    head, rest = file.read_bytes()[:36], file.read_bytes()[36:]
    file.write_bytes(head + b"junk\0\0\0\0" * 900 + rest)
    assert len(read(file)) == 16_000
    file.write_bytes(head + b"junk\0\0\0\0" * 2**20 + rest)

    def refuse() -> None:
        assert failure(file).startswith("file is damaged")

    assert_cheap(0.2, refuse)


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
        ("a.mp3", lambda file: file.write_bytes(b"ID3" + bytes(2000)), "file is damaged"),
        ("a.flac", lambda file: file.write_bytes(file.read_bytes()[:60]), "file ends after 0.0 of 3.0 seconds"),
        ("a.ogg", lambda file: file.write_bytes(b"OggS" + bytes(200)), "file is damaged"),
        ("a.wav", cut, "file has 47978 of the 96000 bytes of sound"),
        ("a.flac", cut, "file ends after "),
        ("a.wav", zero_rate, "file is damaged"),
        ("a.wav", lambda file: file.unlink(), "file cannot be read: No such file"),
        ("a.wav", lambda file: soundfile.write(file, np.zeros(0), 16_000), "file has no sound in it"),
    ],
)
def test_what_is_wrong_with_a_file_names_the_field(
    tmp_path: Path, name: str, spoil: Callable[[Path], object], says: str
) -> None:
    file = write_sound(tmp_path / name, 3)
    spoil(file)
    message = failure(file)
    assert message.startswith(says)
    assert str(tmp_path) not in message


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
