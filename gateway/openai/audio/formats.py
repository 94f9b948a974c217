"""A transcript as text, srt, vtt, json and verbose_json. Pure.

Files of subtitles are written as Whisper's own writers do, with times rounded to milliseconds. Their texts have no
empty line, which would end a cue, and no arrow, which would begin a time.
"""

import math
import re
from collections.abc import Callable, Iterator

from gateway.core.audio import HeardSegment, HeardWord, Transcript, segments_of
from gateway.core.dialect import Json
from gateway.openai.audio.languages import name_of
from gateway.openai.audio.requests import TranscriptionRequest, TranslationRequest

_DIGITS = 3
_ARROW = re.compile("(?<!-)--+>")  # from its first dash on, for a text of dashes would take minutes


def as_text(transcript: Transcript) -> str:
    """One line."""
    return f"{transcript.text.strip()}\n"


def as_srt(transcript: Transcript) -> str:
    """SubRip."""
    return "".join(
        f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{text}\n\n"
        for number, (start, end, text) in enumerate(_cues(transcript), 1)
    )


def as_vtt(transcript: Transcript) -> str:
    """WebVTT."""
    return "WEBVTT\n\n" + "".join(
        f"{_time(start, '.')} --> {_time(end, '.')}\n{text.replace('&', '&amp;').replace('<', '&lt;')}\n\n"
        for start, end, text in _cues(transcript)
    )


def as_json(transcript: Transcript) -> Json:
    """OpenAI's short object."""
    return {"text": transcript.text.strip(), "usage": duration_usage(transcript)}


def as_verbose_json(transcript: Transcript, wanted: TranslationRequest) -> Json:
    """OpenAI's long object."""
    is_transcription = isinstance(wanted, TranscriptionRequest)
    answer: dict[str, object] = {
        "task": "transcribe" if is_transcription else "translate",
        "language": name_of(transcript.language) if is_transcription else "english",
        "duration": round(transcript.duration, _DIGITS),
        "text": transcript.text.strip(),
    }
    words: list[dict[str, object]] = []
    segments: list[dict[str, object]] = []
    for segment in segments_of(transcript, words=wanted.words):
        segments.append(_segment(segment))
        words += map(_word, segment.words)
    if wanted.words:
        answer["words"] = words
    if wanted.segments:
        answer["segments"] = segments
    return {**answer, "usage": duration_usage(transcript)}


def duration_usage(transcript: Transcript) -> dict[str, object]:
    """Seconds that have begun; less than a millisecond of one is none."""
    return {"type": "duration", "seconds": math.ceil(round(transcript.duration, _DIGITS))}


TEXTS: dict[str, Callable[[Transcript], str]] = {"text": as_text, "srt": as_srt, "vtt": as_vtt}


def _cues(transcript: Transcript) -> Iterator[tuple[float, float, str]]:
    """Start, end and text of what has a text."""
    for segment in segments_of(transcript):
        lines = (line.strip() for line in segment.text.splitlines())
        if text := "\n".join(line for line in lines if line):
            yield segment.start, max(segment.start, segment.end), _ARROW.sub("->", text)


def _time(seconds: float, mark: str) -> str:
    """01:02:03,456"""
    whole, milliseconds = divmod(max(0, round(seconds * 1000)), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}{mark}{milliseconds:03}"


def _word(word: HeardWord) -> dict[str, object]:
    return {"word": word.word.strip(), "start": round(word.start, _DIGITS), "end": round(word.end, _DIGITS)}


def _segment(segment: HeardSegment) -> dict[str, object]:
    return {
        "id": segment.id,
        "seek": segment.seek,
        "start": round(segment.start, _DIGITS),
        "end": round(segment.end, _DIGITS),
        "text": segment.text,
        "tokens": segment.tokens,
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }
