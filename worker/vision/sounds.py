"""Sound files to samples: wav, mp3 and flac, decoded piece by piece, and no more of them than a model hears.

A piece is small enough to be decoded between two steps. Every defect of a file is a FailureError that names the part of
the request. Knows no models.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import ceil
from typing import Any

import miniaudio
import numpy as np

from broker.wire.failure import FailureError, invalid, one_line
from worker.sound.formats import format_of
from worker.sound.resampling import Samples, ratio, resampled

# Enough of an mp3 file behind its tags to tell its rate: the library would decode all of it.
_HEAD_BYTES = 1 << 16
# What a tag of mp3 files has in front of its content, and how many tags are looked at.
_TAG_HEAD = 10
_MOST_TAGS = 16

# What is decoded at once, of all channels: less than a second of very many; and what is resampled at once.
_MOST_DECODED = 2**20
_MOST_RESAMPLED = 2**18
# Of one request.
_MOST_SOUNDS, _MOST_SECONDS = 64, 600.0
_MOST_CHANNELS, _MOST_RATE = 64, 192_000
# Between these rates the good resampler computes a filter of a sensible size.
_MOST_STEPS = 2000


@dataclass(slots=True, frozen=True)
class Recording:
    """A sound file whose header has been read. where: its field in the request; rate: its samples per second; frames:
    as its header has them, None where it does not say."""

    data: bytes
    where: str
    channels: int
    rate: int
    frames: int | None

    def pieces(self, rate: int, longest: float) -> Iterator[Samples]:
        """Its samples, so many per second, one channel, in pieces that take a bounded time. longest: seconds. Raises
        FailureError."""
        if self.frames is not None and self.frames > ceil(longest * self.rate):
            raise self._too_long(longest)
        decoded = self.rate if max(ratio(self.rate, rate)) <= _MOST_STEPS else rate
        try:
            yield from resampled(self._decoded(decoded, longest), decoded, rate, _MOST_RESAMPLED)
        except FailureError:
            raise
        except Exception as error:  # a decoder may raise anything
            raise _broken(self.where, error) from error

    def _decoded(self, rate: int, longest: float) -> Iterator[Samples]:
        """All of it. Raises FailureError for one that is longer, or has nothing."""
        options: dict[str, Any] = {"nchannels": self.channels, "sample_rate": rate}
        at_once = min(rate, _MOST_DECODED // self.channels)
        stream = miniaudio.stream_memory(self.data, frames_to_read=at_once, **options)
        frames = 0
        with closing(stream):
            for raw in stream:
                piece = np.asarray(raw, np.int16).astype(np.float32) / 32768.0
                frames += piece.size // self.channels
                if frames > ceil(longest * rate):
                    raise self._too_long(longest)
                yield piece.reshape(-1, self.channels).mean(axis=1)
        if rate == self.rate and frames < (self.frames or 0):
            raise ValueError("it is cut off")
        if not frames:
            raise invalid(f"{self.where} has no sound in it", param=self.where)

    def _too_long(self, longest: float) -> FailureError:
        return invalid(f"{self.where} is longer than the {longest:g} s that this model hears at once", self.where)


def open_sounds(files: Sequence[bytes]) -> list[Recording]:
    """Of the files of a request. Raises FailureError."""
    if len(files) > _MOST_SOUNDS:
        where = f"audios[{_MOST_SOUNDS}]"
        raise invalid(f"{where}: a request may have {_MOST_SOUNDS} sounds at most, not {len(files)}", param=where)
    return [open_sound(data, f"audios[{k}]") for k, data in enumerate(files)]


def open_sound(data: bytes, where: str) -> Recording:
    """The sound of a file; reads only its header. Raises FailureError."""
    if not data:
        raise invalid(f"{where} is empty", param=where)
    try:
        head = _head(data)
    except Exception as error:  # as above
        raise _broken(where, error) from error
    if head is None:
        message = f"{where} is not a sound that can be decoded: the formats are wav, mp3 and flac"
        raise invalid(message, param=where)
    channels, rate, frames = head
    if not (1 <= channels <= _MOST_CHANNELS and 1 <= rate <= _MOST_RATE):
        message = f"{where} has {channels} channels of {rate} Hz; at most {_MOST_CHANNELS} of {_MOST_RATE} are read"
        raise invalid(message, param=where)
    return Recording(data, where, channels, rate, frames)


def check_seconds(seconds: float, where: str) -> None:
    """Raises FailureError for sounds that last longer than those of one request may. where: the last of them."""
    if seconds > _MOST_SECONDS:
        raise invalid(f"{where}: the sounds of a request may last {_MOST_SECONDS:g} s together", where)


def _head(data: bytes) -> tuple[int, int, int | None] | None:
    """Channels, rate and frames by the first bytes; None for another format."""
    body = data[_tags(data) :][:_HEAD_BYTES]
    kind = format_of(body)
    if kind == "wav":
        info = miniaudio.wav_get_info(data)
        return info.nchannels, info.sample_rate, info.num_frames
    if kind == "flac":
        info = miniaudio.flac_get_info(data)
        return info.nchannels, info.sample_rate, info.num_frames or None
    if kind == "mp3":
        info = miniaudio.mp3_get_info(body)
        return info.nchannels, info.sample_rate, None
    return None


def _tags(data: bytes) -> int:
    """How many bytes of tags are in front of the sound: titles, pictures."""
    start = 0
    for _ in range(_MOST_TAGS):
        if data[start : start + 3] != b"ID3" or len(data) < start + _TAG_HEAD:
            break
        size = 0
        for byte in data[start + 6 : start + _TAG_HEAD]:  # seven bits of each
            size = size << 7 | byte & 0x7F
        start += _TAG_HEAD + size
    return start


def _broken(where: str, error: Exception) -> FailureError:
    return invalid(f"{where} is not a sound that can be decoded: {one_line(error, 200)}", param=where)
