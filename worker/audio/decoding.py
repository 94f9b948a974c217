"""Audio files to samples: 16,000 a second, one channel, float32, in pieces of a few seconds, so that the length of a
file costs no memory.

wav, mp3 and flac are read with miniaudio, as mlx-audio reads them, and ogg with libsndfile. The file's first bytes say
what it is, never its name. Whatever is wrong with a file is the client's mistake and names the client's field.
"""

import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import miniaudio
import numpy as np
import soundfile

from broker.wire.failure import FailureError, invalid
from worker.sound.formats import format_of
from worker.sound.resampling import Samples, ratio, resampled

# Samples per second of all models that transcribe.
RATE = 16_000

# Seconds of one piece.
PIECE_SECONDS = 10

# A filter of more than this many taps per step is not made: such rates (44,101 Hz) are brought to _COMMON_RATE first.
_MOST_RATIO = 1000
_COMMON_RATE = 48_000

_LEAST_RATE, _MOST_RATE = 1000, 768_000
_MOST_CHANNELS = 64

# Of an ogg file in one go, all channels together.
_BLOCK_BYTES = 2**24

# Forms of a wav's samples that miniaudio knows: PCM, two of ADPCM, floating point, A-law and u-law.
_WAV_FORMS = (0x01, 0x02, 0x03, 0x06, 0x07, 0x11)
# Of a wav, in front of its sound.
_MOST_CHUNKS = 1000

# A wav that was written as a stream tells no length, but a number above this.
_NO_LENGTH_BYTES = 2**31 - 2**16

_FORMATS = "wav, mp3, flac or ogg"


@dataclass(slots=True)
class SpokenFile:
    """An audio file. seconds: how long it lasts at most, by its head. field: the client's name for it.

    Mutable state: `heard`, the samples that `pieces` has returned.
    """

    path: str
    field: str
    rate: int
    seconds: float
    _read: "Callable[[], Iterator[Samples]]"
    _frames: int
    _is_exact: bool
    heard: int = 0

    def pieces(self) -> Iterator[Samples]:
        """All samples, once. Raises FailureError for a file that is shorter than its head says, or has none."""
        try:
            for piece in resampled(self._counted(), self.rate, RATE, max(self.rate, RATE) * PIECE_SECONDS):
                self.heard += len(piece)
                yield piece
        except (miniaudio.MiniaudioError, soundfile.SoundFileError) as error:
            raise invalid(f"{self.field} is damaged: it cannot be read to its end", param=self.field) from error
        if not self.heard:
            raise invalid(f"{self.field} has no sound in it", param=self.field)

    def _counted(self) -> Iterator[Samples]:
        """As many samples as the head says."""
        left = self._frames
        for samples in self._read():
            piece = samples[:left]
            left -= len(piece)
            if len(piece):
                yield piece
            if not left:
                return
        if self._is_exact and left:
            ends, lasts = ((self._frames - count) / self.rate for count in (left, 0))
            message = f"{self.field} ends after {ends:.1f} of {lasts:.1f} seconds: it must be whole"
            raise invalid(message, param=self.field)


def open_recording(path: str, name: str, most_seconds: float) -> SpokenFile:
    """The file at `path`, of which only the head is read. name: the client's name for it. Raises FailureError."""
    try:
        with Path(path).open("rb") as file:
            head, size = file.read(12), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise invalid(f"{name} cannot be read: {error.strerror}", param=name) from error
    if not size:
        raise invalid(f"{name} is empty", param=name)
    opener = _opener_of(head)
    if opener is None:
        raise invalid(f"{name} is not a {_FORMATS} file", param=name)
    try:
        recording = opener(path, name, size)
    except FailureError:
        raise
    except Exception as error:  # of native code, in whatever form
        raise invalid(f"{name} is damaged: it is not a {_FORMATS} file that can be read", param=name) from error
    if recording.seconds > most_seconds:
        lasts, most = (f"{seconds / 3600:.1f} hours" for seconds in (recording.seconds, most_seconds))
        raise invalid(f"{name} lasts {lasts}, and must last at most {most}", param=name)
    return recording


def _opener_of(head: bytes) -> Callable[[str, str, int], SpokenFile] | None:
    openers = {"wav": _open_wav, "flac": _open_flac, "ogg": _open_ogg, "mp3": _open_mp3}
    return openers.get("mp3" if head[:3] == b"ID3" else format_of(head) or "")


def _open_wav(path: str, name: str, size: int) -> SpokenFile:
    stated, there = _data_bytes(path, size)
    info = miniaudio.wav_get_file_info(path)
    if info.sub_format not in _WAV_FORMS:
        raise invalid(
            f"{name} is a wav of the form {info.sub_format:#04x}, which is not read: save it as PCM", param=name
        )
    if there < stated < _NO_LENGTH_BYTES:
        message = f"{name} has {there} of the {stated} bytes of sound that its head tells: it must be whole"
        raise invalid(message, param=name)
    # No longer than the file. ADPCM has four bits for a sample, which miniaudio tells as no byte.
    bits = (8 * info.sample_width or 4) * max(info.nchannels, 1)
    return _recording(path, name, info, min(info.num_frames, 8 * size // bits), is_exact=False)


def _data_bytes(path: str, size: int) -> tuple[int, int]:
    """The length of a wav's sound as its head tells it, and what there is of it. Raises ValueError."""
    with Path(path).open("rb") as file:
        place = 12
        for _ in range(_MOST_CHUNKS):
            file.seek(place)
            chunk, length = struct.unpack("<4sI", file.read(8))
            if chunk == b"data":
                return length, size - place - 8
            place += 8 + length + length % 2
    raise ValueError("there is no sound among the first chunks")


def _open_flac(path: str, name: str, _size: int) -> SpokenFile:
    info = miniaudio.flac_get_file_info(path)
    if not info.num_frames:
        message = f"{name} does not say how long it lasts, as a flac must: save it to a file instead of a pipe"
        raise invalid(message, param=name)
    return _recording(path, name, info, info.num_frames, is_exact=True)


def _open_mp3(path: str, name: str, _size: int) -> SpokenFile:
    info = miniaudio.mp3_get_file_info(path)  # counts its frames
    return _recording(path, name, info, info.num_frames, is_exact=False)


def _recording(path: str, name: str, info: miniaudio.SoundFileInfo, frames: int, *, is_exact: bool) -> SpokenFile:
    own = _checked_rate(info.sample_rate, info.nchannels, name)
    rate = own
    if max(ratio(own, RATE)) > _MOST_RATIO:
        rate, frames, is_exact = _COMMON_RATE, math.ceil(frames * _COMMON_RATE / own), False

    def read() -> Iterator[Samples]:
        form = miniaudio.SampleFormat.SIGNED16
        stream = miniaudio.stream_file(path, form, 1, rate, frames_to_read=rate * PIECE_SECONDS)
        try:
            for samples in stream:
                yield np.asarray(samples, dtype=np.float32) / np.float32(32768.0)
        finally:
            stream.close()

    return SpokenFile(path, name, rate, frames / rate, read, frames, is_exact)


def _open_ogg(path: str, name: str, _size: int) -> SpokenFile:
    with soundfile.SoundFile(path) as file:
        rate, frames = _checked_rate(file.samplerate, file.channels, name), file.frames
        block_frames = min(rate * PIECE_SECONDS, _BLOCK_BYTES // (4 * file.channels))

    def read() -> Iterator[Samples]:
        with soundfile.SoundFile(path) as file:
            for block in file.blocks(block_frames, dtype="float32", always_2d=True):
                yield block.mean(axis=1, dtype=np.float32)

    if max(ratio(rate, RATE)) > _MOST_RATIO:
        raise invalid(f"{name} has {rate} samples a second, which an ogg file must not have", param=name)
    return SpokenFile(path, name, rate, frames / rate, read, frames, _is_exact=False)


def _checked_rate(rate: int, channels: int, name: str) -> int:
    """The rate. Raises FailureError for a file that no one can have meant to send."""
    if channels > _MOST_CHANNELS:
        raise invalid(f"{name} has {channels} channels: it must have at most {_MOST_CHANNELS}", param=name)
    if not _LEAST_RATE <= rate <= _MOST_RATE:
        raise invalid(f"{name} has {rate} samples a second: it must have {_LEAST_RATE} to {_MOST_RATE}", param=name)
    return rate
