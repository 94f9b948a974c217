"""What audio models answer, as types: what they have heard, what they say, and their voices. Pure.

A transcript of hours has a hundred thousand words. While a gateway read them all at once, it would answer nobody else.
So the segments stay as they came until the form of the answer asks for them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from broker.wire.body import ProtocolError
from gateway.core.administration import Report
from gateway.core.answer import Map, checked


@dataclass(slots=True)  # not frozen, as a Delta
class HeardWord:
    """One word; its times in seconds."""

    word: str
    start: float
    end: float


@dataclass(slots=True)
class HeardSegment:
    """Some words that belong together; its times in seconds. Models other than Whisper know only the first four."""

    id: int
    start: float
    end: float
    text: str
    seek: int = 0
    tokens: Sequence[int] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    words: Sequence[HeardWord] = ()


@dataclass(slots=True)
class HeardPiece:
    """A PARTIAL of `Transcribe`: the next text."""

    text: str

    @property
    def weight(self) -> int:
        """Bytes that it occupies while it waits, roughly."""
        return len(self.text)


@dataclass(slots=True, frozen=True)
class Transcript:
    """The FINAL of `Transcribe`: what no PARTIAL held, and facts about the whole file. duration: seconds. segments: see
    `segments_of`."""

    text: str
    duration: float
    segments: Sequence[Any] = ()
    language: str | None = None
    completion_tokens: int = 0


def heard_of(body: Map) -> HeardPiece:
    """The PARTIAL of a `Transcribe`. Raises ProtocolError."""
    return HeardPiece(checked(body, "text", str))


def transcript_of(body: Map) -> Transcript:
    """The FINAL of a `Transcribe`. Raises ProtocolError."""
    return Transcript(
        checked(body, "text", str),
        checked(body, "duration", float),
        checked(body, "segments", list),
        checked(body, "language", str) if body.get("language") is not None else None,
        checked(body, "completion_tokens", int),
    )


def segments_of(transcript: Transcript, *, words: bool = False) -> Iterator[HeardSegment]:
    """One after the other. words: read them too. Raises ProtocolError."""
    return (_segment(entry, words) for entry in transcript.segments)


def _segment(entry: Any, has_words: bool) -> HeardSegment:
    try:
        id_, seek, text, tokens = entry["id"], entry.get("seek", 0), entry["text"], entry.get("tokens", [])
        if type(id_) is not int or type(seek) is not int or type(text) is not str or type(tokens) is not list:
            raise TypeError
        if not _INTEGERS.issuperset(map(type, tokens)):
            raise TypeError
        return HeardSegment(
            id_,
            _number(entry["start"]),
            _number(entry["end"]),
            text,
            seek,
            tokens,
            _number(entry.get("temperature", 0.0)),
            _number(entry.get("avg_logprob", 0.0)),
            _number(entry.get("compression_ratio", 0.0)),
            _number(entry.get("no_speech_prob", 0.0)),
            [_word(one) for one in entry.get("words", ())] if has_words else (),
        )
    except (AttributeError, KeyError, TypeError):
        raise ProtocolError(f"a transcript whose segments have {entry!r:.80}") from None


_INTEGERS = frozenset({int})


def _word(entry: Any) -> HeardWord:
    word, start, end = entry["word"], entry["start"], entry["end"]
    if type(word) is not str:
        raise TypeError
    return HeardWord(word, _number(start), _number(end))


def _number(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise TypeError


class SpokenPiece(Report):
    """A PARTIAL of `Speak`: the next bytes of the file. sample_rate: in the first output, Hz."""

    audio: bytes
    sample_rate: int | None = None

    @property
    def weight(self) -> int:
        """Bytes that it occupies while it waits, roughly."""
        return len(self.audio)


class Spoken(Report):
    """The FINAL of `Speak`: the rest of the file, and how many seconds the whole of it lasts."""

    audio: bytes
    sample_rate: int | None = None
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class VoiceNames(Report):
    """The FINAL of `Voices`, in the model's order."""

    voices: list[str]
