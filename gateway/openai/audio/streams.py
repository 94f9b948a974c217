"""Renderers of streamed transcripts, and of speech as events and as bytes. Pure."""

import base64
from collections.abc import Sequence

import orjson

from broker.wire.failure import Failure
from gateway.core.audio import HeardPiece, Spoken, SpokenPiece, Transcript
from gateway.openai.audio.formats import duration_usage
from gateway.openai.dialect import DONE, KEEPALIVE, STREAM_TYPE, framed_error

MEDIA = {"mp3": "audio/mpeg", "wav": "audio/wav", "flac": "audio/flac", "pcm": "audio/pcm"}


class _Events:
    """What streams of events have in common."""

    content_type = STREAM_TYPE

    def __init__(self) -> None:
        self.is_complete = False

    def keepalive(self) -> bytes:
        """A comment."""
        return KEEPALIVE

    def error(self, failure: Failure) -> bytes:
        """The error object, then the last line."""
        return framed_error(failure)


class TranscriptEvents(_Events):
    """`transcript.text.delta` for each piece, then `transcript.text.done` with the whole text."""

    def __init__(self) -> None:
        super().__init__()
        self._said: list[str] = []

    def render(self, items: Sequence[tuple[int, HeardPiece | Transcript]]) -> bytes:
        """Silence has no event."""
        frames = []
        for _index, output in items:
            text = output.text if self._said else output.text.lstrip()
            if text:
                self._said.append(text)
                frames.append(_frame({"type": "transcript.text.delta", "delta": text}))
            if isinstance(output, Transcript):
                whole = "".join(self._said)
                usage = duration_usage(output)
                frames += [_frame({"type": "transcript.text.done", "text": whole, "usage": usage}), DONE]
                self.is_complete = True
        return b"".join(frames)


class SpeechEvents(_Events):
    """`speech.audio.delta` for each piece, then `speech.audio.done`."""

    def render(self, items: Sequence[tuple[int, SpokenPiece | Spoken]]) -> bytes:
        """Pieces without bytes have no event."""
        frames = []
        for _index, output in items:
            if output.audio:
                audio = base64.b64encode(output.audio).decode()
                frames.append(_frame({"type": "speech.audio.delta", "audio": audio}))
            if isinstance(output, Spoken):
                usage = {
                    "input_tokens": output.prompt_tokens,
                    "output_tokens": output.completion_tokens,
                    "total_tokens": output.prompt_tokens + output.completion_tokens,
                }
                frames += [_frame({"type": "speech.audio.done", "usage": usage}), DONE]
                self.is_complete = True
        return b"".join(frames)


class SpeechBytes:
    """The file itself. Nothing can stand between its bytes: while nothing is spoken nothing is sent, and an error in
    its middle cuts the connection."""

    def __init__(self, encoding: str) -> None:
        self.is_complete = False
        self._media = MEDIA[encoding]
        self._names_rate = encoding == "pcm"  # whose bytes do not say it
        self._rate: int | None = None

    @property
    def content_type(self) -> str:
        """`audio/pcm;rate=24000` where the bytes alone do not tell."""
        return f"{self._media};rate={self._rate}" if self._names_rate and self._rate else self._media

    def render(self, items: Sequence[tuple[int, SpokenPiece | Spoken]]) -> bytes:
        """As it came."""
        for _index, output in items:
            self._rate = self._rate or output.sample_rate
            if isinstance(output, Spoken):
                self.is_complete = True
        return b"".join([output.audio for _index, output in items])

    def keepalive(self) -> bytes:
        """There is none."""
        return b""

    def error(self, _failure: Failure) -> None:
        """There is none."""


def _frame(event: dict[str, object]) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"
