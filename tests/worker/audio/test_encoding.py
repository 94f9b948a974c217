"""Files of samples, read again by another library than the one that has written them."""

import miniaudio
import numpy as np
import pytest

from broker.wire.failure import FailureError
from worker.audio.encoding import ENCODINGS, check_encoding, make_writer, to_pcm

RATE = 24_000
TIMES = np.arange(2 * RATE, dtype=np.float32) / RATE
TONE = (0.6 * np.sin(2 * np.pi * 440 * TIMES)).astype(np.float32)
SIZES = (1, 5000, 0, 12_345, RATE)


def pieces(samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> list[np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """Of odd sizes."""
    ends = np.cumsum(SIZES)
    return [*np.split(samples, ends)]


def encoded(encoding: str, *, whole: bool) -> list[bytes]:
    """What each piece gives, and the rest."""
    writer = make_writer(encoding, RATE, whole=whole)
    return [*(writer.write(piece) for piece in pieces(TONE)), writer.close()]


def decoded(file: bytes) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    sound = miniaudio.decode(file, nchannels=1, sample_rate=RATE)
    return np.array(sound.samples, dtype=np.int16)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("encoding", ["wav", "flac"])
def test_a_file_holds_the_samples(encoding: str, whole: bool) -> None:
    file = b"".join(encoded(encoding, whole=whole))
    assert np.array_equal(decoded(file), to_pcm(TONE))


@pytest.mark.parametrize("whole", [False, True])
def test_pcm_is_the_samples_alone(whole: bool) -> None:
    assert b"".join(encoded("pcm", whole=whole)) == to_pcm(TONE).tobytes()


@pytest.mark.parametrize("whole", [False, True])
def test_mp3_sounds_like_the_samples(whole: bool) -> None:
    heard = decoded(b"".join(encoded("mp3", whole=whole))).astype(np.float32) / 32767
    assert len(TONE) <= len(heard) < len(TONE) + 4 * 1152  # whole frames, and the writer's delay
    delay = int(np.argmax(np.correlate(heard[:8000], TONE[:4000], "valid")))
    size = len(TONE) - delay - 2000
    assert np.abs(heard[delay : delay + size] - TONE[:size])[1000:].max() < 0.03


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bytes_come_while_the_file_is_made(encoding: str) -> None:
    parts = encoded(encoding, whole=False)
    assert len(parts[4]) > len(parts[-1])
    assert sum(map(len, parts[:-1])) > 0.8 * sum(map(len, parts))
    held = encoded(encoding, whole=True)
    if encoding != "pcm":
        assert not any(held[:-1])


@pytest.mark.parametrize(("encoding", "place"), [("wav", slice(40, 44)), ("flac", slice(18, 26))])
def test_only_a_whole_file_says_how_long_it_is(encoding: str, place: slice) -> None:
    size = 2 * len(TONE) if encoding == "wav" else len(TONE)
    lengths = {}
    for whole in (True, False):
        field = b"".join(encoded(encoding, whole=whole))[place]
        # In flac the lower 36 bits.
        lengths[whole] = int.from_bytes(field, "little" if encoding == "wav" else "big") & (2**36 - 1)
    assert lengths[True] == size
    assert lengths[False] == (0xFFFFFFFF if encoding == "wav" else 0)


def test_what_is_too_loud_or_no_number_is_heard_as_far_as_it_can_be() -> None:
    wild = np.array([2.0, -2.0, np.nan, np.inf, -np.inf, 0.5], dtype=np.float32)
    assert to_pcm(wild).tolist() == [32767, -32767, 0, 32767, -32767, 16384]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_without_samples_is_a_file(encoding: str) -> None:
    writer = make_writer(encoding, RATE, whole=False)
    assert isinstance(writer.close(), bytes)


def test_encodings_that_there_are_not_are_refused() -> None:
    for encoding in ENCODINGS:
        check_encoding(encoding, RATE)
    for encoding, rate, word in (("opus", RATE, "wav, flac, mp3, pcm"), ("mp3", 40_000, "take wav or flac")):
        with pytest.raises(FailureError, match=word) as error:
            check_encoding(encoding, rate)
        assert error.value.failure.param == "encoding"
