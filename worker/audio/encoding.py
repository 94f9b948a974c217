"""Samples into the bytes of an audio file, piece by piece: wav, flac, mp3, or pcm without any header.

16 bits, one channel. A file that is sent while it is made cannot say how long it is: wav then has the greatest lengths,
as files that are recorded have, and flac says that it does not know. Knows no requests and no models.
"""

import io
import struct
from typing import Any, Protocol

import numpy as np
import soundfile

from broker.wire.failure import invalid

ENCODINGS = ("wav", "flac", "mp3", "pcm")

# What MPEG audio has, layer III.
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)

_FULL = 32767
_UNKNOWN = 0xFFFFFFFF
_WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


class SoundWriter(Protocol):
    """Makes one file."""

    def write(self, samples: "np.ndarray[Any, Any]") -> bytes:
        """More samples, from -1 to 1; the bytes that are ready."""

    def close(self) -> bytes:
        """The rest of the file."""


def check_encoding(encoding: str, sample_rate: int) -> None:
    """Raises FailureError."""
    if encoding not in ENCODINGS:
        raise invalid(f"encoding must be one of {', '.join(ENCODINGS)}, not {encoding!r:.40}", param="encoding")
    if encoding == "mp3" and sample_rate not in _MP3_RATES:
        raise invalid(f"mp3 has no {sample_rate} Hz, which this model speaks with: take wav or flac", param="encoding")


def make_writer(encoding: str, sample_rate: int, *, whole: bool) -> SoundWriter:
    """whole: the file is not sent before it is closed, and its header says how long it is."""
    if encoding == "pcm":
        return _Pcm()
    if encoding == "wav":
        return _Wav(sample_rate, whole=whole)
    return _Compressed(encoding, sample_rate, whole=whole)


def to_pcm(samples: "np.ndarray[Any, Any]") -> "np.ndarray[Any, np.dtype[np.int16]]":
    """16 bits, little-endian. What is louder than full scale is cut off, and what is no number is silence."""
    finite = np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
    rounded: np.ndarray[Any, np.dtype[np.int16]] = np.rint(np.clip(finite, -1.0, 1.0) * _FULL).astype("<i2")
    return rounded


class _Pcm:
    def write(self, samples: "np.ndarray[Any, Any]") -> bytes:
        return to_pcm(samples).tobytes()

    def close(self) -> bytes:
        return b""


class _Wav:
    """Mutable state: the header if it has not been sent, and the samples of a whole file."""

    def __init__(self, sample_rate: int, *, whole: bool) -> None:
        self._rate = sample_rate
        self._held: list[bytes] | None = [] if whole else None
        self._begins = b"" if whole else _wav_header(sample_rate, None)

    def write(self, samples: "np.ndarray[Any, Any]") -> bytes:
        data = to_pcm(samples).tobytes()
        if self._held is not None:
            self._held.append(data)
            return b""
        begins, self._begins = self._begins, b""
        return begins + data

    def close(self) -> bytes:
        if self._held is None:
            return self._begins
        data = b"".join(self._held)
        return _wav_header(self._rate, len(data)) + data


def _wav_header(rate: int, data_bytes: int | None) -> bytes:
    """None: unknown."""
    size = _UNKNOWN if data_bytes is None else data_bytes + _WAV_HEADER.size - 8
    data = _UNKNOWN if data_bytes is None else data_bytes
    return _WAV_HEADER.pack(b"RIFF", size, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", data)


class _Compressed:
    """flac and mp3, by libsndfile."""

    def __init__(self, encoding: str, sample_rate: int, *, whole: bool) -> None:
        self._sink = _Sink()
        self._whole = whole
        # A constant rate: players then know the length of a stream from its beginning.
        settings: dict[str, Any] = {"bitrate_mode": "CONSTANT"} if encoding == "mp3" else {"subtype": "PCM_16"}
        self._file = soundfile.SoundFile(
            self._sink, "w", samplerate=sample_rate, channels=1, format=encoding.upper(), **settings
        )

    def write(self, samples: "np.ndarray[Any, Any]") -> bytes:
        self._file.write(to_pcm(samples))
        return b"" if self._whole else self._sink.take()

    def close(self) -> bytes:
        self._file.close()
        return self._sink.take()


class _Sink(io.RawIOBase):
    """A file in memory whose beginning is taken while its end is written: what is written over bytes that have been
    taken is dropped.

    Mutable state: what has not been taken, where that begins, and the position.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept = bytearray()
        self._start = self._position = 0

    def take(self) -> bytes:
        taken = bytes(self._kept)
        self._start += len(taken)
        self._kept.clear()
        return taken

    def write(self, data: Any) -> int:
        given = bytes(data)
        at = self._position - self._start
        kept = given[max(-at, 0) :]
        at = max(at, 0)
        self._kept[at : at + len(kept)] = kept
        self._position += len(given)
        return len(given)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = self._start + len(self._kept)
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: end}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True
