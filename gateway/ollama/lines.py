"""The JSON in Ollama's streams, for documents and tests. Lines are written in replies.py and pulls.py."""

from typing import Literal

from gateway.ollama.answers import DrawnAnswer, OllamaAnswer, TurnAnswer


class OllamaPiece(OllamaAnswer):
    """A line of a streamed answer; the last line has the fields of an answer that is not streamed."""

    model: str
    created_at: str
    done: Literal[False]
    logprobs: list[DrawnAnswer] | None = None


class ChatPiece(OllamaPiece):
    """More of a chat's answer."""

    message: TurnAnswer


class GeneratePiece(OllamaPiece):
    """More of a completion."""

    response: str
    thinking: str | None = None


class PullLine(OllamaAnswer):
    """A step of a download, the last one `success`. total, completed: bytes, as soon as they are known."""

    status: str
    digest: str | None = None
    total: int | None = None
    completed: int | None = None
