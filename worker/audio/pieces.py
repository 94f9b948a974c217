"""Families other than Whisper: mlx-audio's `generate` on one piece of a file after the other.

A piece lasts 30 seconds at most, which every family hears at once, and is cut where it is quietest near its end.
Nothing but the piece is kept, whatever the length of the file.
"""

from collections.abc import Iterator
from inspect import signature
from typing import Any
from zlib import crc32

import mlx.core as mx
import numpy as np
from mlx_audio.resample import resample_audio_array

from broker.wire.failure import invalid
from broker.wire.work import Transcribe
from worker.audio.decoding import RATE
from worker.audio.families import family_of
from worker.audio.transcriber import Heard
from worker.sound.resampling import Samples

# Samples of a piece, those at its end in which it is cut, and those whose loudness is compared.
_PIECE = 30 * RATE
_TAIL = 5 * RATE
_MOMENT = RATE // 10

# No word is shorter than the first. Some families fail on less than their first convolution needs: all of them hear
# the second, with silence behind the sound.
_LEAST, _PADDED = RATE // 10, RATE

# Of a piece. Nobody says as much in 30 seconds, times and speakers included, but a model that repeats itself has no
# end, and some families stop it only after 8,192: meanwhile all other requests wait.
_MOST_TOKENS = 512


class PieceTranscriber:
    """`model`: mlx-audio's."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._family = family_of(model)
        takes = signature(model.generate).parameters
        self._takes = frozenset(takes) | self._family.passes
        own = takes["max_tokens"].default if "max_tokens" in takes else None
        self._most_tokens = min(own, _MOST_TOKENS) if isinstance(own, int) else _MOST_TOKENS
        rate = getattr(model, "sample_rate", RATE)
        self._rate = rate if isinstance(rate, int) else RATE

    @property
    def bytes_per_second(self) -> int:
        return 0

    def step_bytes(self) -> int:
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        # Silence has few words, and most of what a step takes are those that have been said.
        self._understand(Transcribe(""), np.random.default_rng(0).normal(0, 0.1, _PIECE).astype(np.float32))
        return max(0, mx.get_peak_memory() - before)

    def check(self, asked: Transcribe) -> None:
        if asked.translate:
            raise invalid("this model transcribes only: it cannot translate", param="model")
        if asked.words:
            raise invalid("this model does not tell the times of words", param="words")
        self._family.options(self._model, asked)

    def listen(self, asked: Transcribe, samples: Iterator[Samples]) -> Iterator[Heard | None]:
        begun = asked.begun or {}
        said, segments, heard = begun.get("said", False), begun.get("segments", 0), 0
        for piece in _pieces(samples):
            if heard < begun.get("heard", 0):  # in another process
                heard += len(piece)
                continue
            begin, end = heard / RATE, (heard + len(piece)) / RATE
            heard += len(piece)
            if len(piece) < _LEAST:
                yield Heard("", seconds=end, language=asked.language)
                continue
            result = self._understand(asked, piece)
            text = str(result.text).strip()
            parts = _segments(result, text, begin, end, segments)
            segments += len(parts)
            tokens = getattr(result, "generation_tokens", 0)
            language = getattr(result, "language", None)
            spoken = language if isinstance(language, str) else asked.language
            words = f" {text}" if said and text else text
            said = said or bool(text)
            place = {"said": said, "segments": segments, "heard": heard}
            yield Heard(words, parts, end, spoken, int(tokens or 0), place)

    def _understand(self, asked: Transcribe, piece: Samples) -> Any:
        given: dict[str, Any] = {"temperature": asked.temperature, "max_tokens": self._most_tokens}
        options = {name: value for name, value in given.items() if value is not None and name in self._takes}
        options |= self._family.options(self._model, asked)
        mx.random.seed(crc32(piece.tobytes()))  # so that another process draws the same
        piece = np.pad(piece, (0, max(0, _PADDED - len(piece))))
        if self._rate != RATE:
            piece = resample_audio_array(piece, RATE, self._rate)
        return self._model.generate(mx.array(piece), **options)


def _pieces(samples: Iterator[Samples]) -> Iterator[Samples]:
    """The same samples in pieces as long as possible."""
    buffer = np.zeros(0, np.float32)
    for more in samples:
        buffer = np.concatenate((buffer, more))
        while len(buffer) > _PIECE:
            place = quietest(buffer[:_PIECE])
            yield buffer[:place]
            buffer = buffer[place:].copy()
    if len(buffer):
        yield buffer


def quietest(piece: Samples) -> int:
    """The middle of the quietest moment near the end of a piece."""
    tail = piece[-_TAIL:]
    moments = tail[: len(tail) // _MOMENT * _MOMENT].reshape(-1, _MOMENT)
    place = int(np.argmin(np.square(moments).mean(axis=1)))
    return len(piece) - len(tail) + place * _MOMENT + _MOMENT // 2


def _segments(result: Any, text: str, begin: float, end: float, first: int) -> list[dict[str, Any]]:
    """What the family tells of the times within a piece, else one segment of its length."""
    told = getattr(result, "sentences", None) or getattr(result, "segments", None) or []
    parts = [(_field(one, "start"), _field(one, "end"), _field(one, "text")) for one in told]
    if not parts or any(start is None or stop is None or stop <= start for start, stop, _ in parts):
        parts = [(0.0, end - begin, text)]
    return [
        {
            "id": first + number,
            "seek": int(begin * 100),
            "start": min(begin + float(start), end),
            "end": min(begin + float(stop), end),
            "text": str(words),
            "tokens": [],
            "temperature": 0.0,
            "avg_logprob": 0.0,
            "compression_ratio": 0.0,
            "no_speech_prob": 0.0,
        }
        for number, (start, stop, words) in enumerate(parts)
        if words
    ]


def _field(one: Any, name: str) -> Any:
    return one.get(name) if isinstance(one, dict) else getattr(one, name, None)
