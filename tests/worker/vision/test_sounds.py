"""Sound files: what is read of them, and what is refused."""

import io
import struct

import numpy as np
import pytest
import soundfile
from mlx_vlm.utils import load_audio

from broker.wire.failure import FailureError
from tests.tiny_hearing import sound
from tests.worker.vision.vision_runs import decoded
from worker.vision.sounds import check_seconds, open_sound, open_sounds

RATE, LONGEST = 16_000, 30.0


def encoded(kind: str, seconds: float = 0.5, rate: int = 44_100, subtype: str | None = None) -> bytes:
    places = np.arange(round(seconds * rate)) / rate
    file = io.BytesIO()
    voices = np.stack([0.3 * np.sin(2 * np.pi * height * places) for height in (300, 500)], axis=1)
    soundfile.write(file, voices, rate, format=kind, subtype=subtype)
    return file.getvalue()


def claiming(flac: bytes, frames: int) -> bytes:
    """The same with another number of frames in its header, 36 bits of it."""
    first, second = flac[21] & 0xF0 | frames >> 32, frames & 0xFFFFFFFF
    return flac[:21] + bytes([first]) + struct.pack(">I", second) + flac[26:]


def tagged(mp3: bytes, size: int) -> bytes:
    """With a title of this size before it."""
    sizes = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + sizes + bytes(size) + mp3


FILES = {
    "wav": sound(1),
    "stereo": encoded("WAV"),
    "24 bits": encoded("WAV", subtype="PCM_24"),
    "floats": encoded("WAV", subtype="FLOAT"),
    "8 kHz": sound(1, rate=8000),
    "32 channels": sound(1, channels=32),
    "mp3": encoded("MP3"),
    "mp3 with a title": tagged(encoded("MP3"), 200_000),
    "flac": encoded("FLAC"),
    "mp3 with 16 titles": tagged(b"", 10) * 15 + tagged(encoded("MP3"), 10),
    "flac of unknown length": claiming(encoded("FLAC"), 0),
    "20 s": encoded("FLAC", 20),
    "20 s of 22,050 Hz": encoded("WAV", 20, 22_050),
    "5 s of 192 kHz": encoded("WAV", 5, 192_000),
    "5 s of 64 channels": sound(1, seconds=5, channels=64),
    "29 s of 50 Hz": sound(1, seconds=29, rate=50),
}


@pytest.mark.parametrize("name", FILES)
def test_samples_are_those_of_mlx_vlm(name: str) -> None:
    samples = decoded(FILES[name], RATE, LONGEST)
    assert (samples.ndim, str(samples.dtype)) == (1, "float32")
    np.testing.assert_array_equal(samples, load_audio(io.BytesIO(FILES[name]), sr=RATE))


def test_a_rate_that_shares_nothing_with_the_models() -> None:
    """The filter between the two would have a million parts."""
    samples = decoded(sound(1, rate=44_101), RATE, LONGEST)
    assert abs(samples.size - RATE / 2) < 20
    assert 0.1 < float(np.abs(samples).max()) < 0.4


@pytest.mark.parametrize(("name", "pieces"), [("20 s", 4), ("20 s of 22,050 Hz", 2), ("5 s of 192 kHz", 4)])
def test_a_long_sound_comes_in_pieces_of_the_same_work(name: str, pieces: int) -> None:
    """2**18 samples of the higher rate are resampled at once."""
    assert len(list(open_sound(FILES[name], "audios[0]").pieces(RATE, LONGEST))) == pieces


HOURS = 48 * 3600 * 44_100
BAD = {
    "nothing": (b"", "is empty"),
    "no sound": (b"<svg/>" * 100, "formats are wav, mp3 and flac"),
    "another format": (encoded("OGG"), "formats are wav, mp3 and flac"),
    "a head alone": (sound(1)[:44], "no sound in it"),
    "half a head": (sound(1)[:20], "not a sound that can be decoded"),
    "65 channels": (sound(1, channels=65), "65 channels"),
    "48 hours": (claiming(encoded("FLAC"), HOURS), "longer than the 30 s"),
    "31 s": (sound(1, seconds=31), "longer than the 30 s"),
    "31 s of unknown length": (claiming(encoded("FLAC", 31, 8000), 0), "longer than the 30 s"),
    "31 s of mp3": (encoded("MP3", 31, 8000), "longer than the 30 s"),
    "half a flac": (encoded("FLAC")[:3000], "it is cut off"),
    "a title alone": (tagged(b"", 100), "formats are wav, mp3 and flac"),
    "17 titles": (tagged(b"", 10) * 16 + tagged(encoded("MP3"), 10), "formats are wav, mp3 and flac"),
    "an endless title": (b"ID3\3\0\0\x7f\x7f\x7f\x7f" + bytes(100), "formats are wav, mp3 and flac"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_what_is_no_sound_is_named(data: bytes, message: str) -> None:
    with pytest.raises(FailureError) as raised:
        list(open_sound(data, "audios[3]").pieces(RATE, LONGEST))
    assert raised.value.failure.param == "audios[3]"
    assert message in str(raised.value)


def test_noise_is_a_sound_or_named() -> None:
    """Whatever follows a head: no decoder crashes, and nothing else is raised."""
    generator = np.random.default_rng(0)
    named = set[str | None]()
    for name in ("wav", "mp3", "flac"):
        for _ in range(30):
            data = bytearray(FILES[name])
            for place in generator.integers(4, len(data), 40):
                data[place] = generator.integers(256)
            try:
                samples = decoded(bytes(data), RATE, LONGEST)
            except FailureError as error:
                named.add(error.failure.param)
            else:
                named.add("audios[0]" if np.isfinite(samples).all() else "nothing")
    assert named == {"audios[0]"}


def test_all_sounds_of_a_request_last_ten_minutes_at_most() -> None:
    check_seconds(600.0, "audios[2]")
    with pytest.raises(FailureError, match="600 s together") as raised:
        check_seconds(600.1, "audios[2]")
    assert raised.value.failure.param == "audios[2]"


def test_a_request_has_a_number_of_sounds_at_most() -> None:
    assert len(open_sounds([sound()] * 64)) == 64
    with pytest.raises(FailureError, match="64 sounds at most, not 65"):
        open_sounds([sound()] * 65)
