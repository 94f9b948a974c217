"""Ollama's chats and completions as requests for text: a parsed body, the time it came, and how to answer."""

import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from broker.wire.work import Generate
from gateway.core.answer import End
from gateway.core.content import Image
from gateway.core.dialect import Json
from gateway.core.sampling import Defaults
from gateway.ollama.dialect import bare, field_in_chat, field_name
from gateway.ollama.replies import Clocks, Lines, OllamaHead, whole_answer
from gateway.ollama.requests import (
    OllamaChatBody,
    OllamaGenerateBody,
    OllamaTextBody,
    chat_unit,
    generate_unit,
)

AnyBody = TypeVar("AnyBody", bound=OllamaTextBody)

_MILLISECOND = 10**6


class Stamp:
    """The time of day to the millisecond, RFC 3339. now: Unix nanoseconds. Where there are many lines, most have the
    millisecond of the one before."""

    def __init__(self, now: Callable[[], int] = time.time_ns) -> None:
        self._now = now
        self._number = -1  # of the millisecond
        self._text = b""

    def __call__(self) -> bytes:
        number = self._now() // _MILLISECOND
        if number != self._number:
            self._number = number
            second, rest = divmod(number, 1000)
            self._text = b"%b.%03dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode(), rest)
        return self._text


CLOCKS = Clocks(time.perf_counter_ns, Stamp())


class _OllamaText(Generic[AnyBody]):
    """What both have in common of a TextRequest."""

    is_chat: bool
    images: Sequence[Image] = ()

    def __init__(self, wanted: AnyBody, clocks: Clocks = CLOCKS) -> None:
        self.model = None if wanted.named is None else bare(wanted.named)
        self.stream = wanted.is_streamed
        self.resume = wanted.resume
        self.ignored: Sequence[str] = wanted.ignored
        self._wanted = wanted
        self._clocks = clocks
        self._started = clocks.now()

    def whole(self, model: str, ends: Sequence[End]) -> Json:
        """Ollama's object."""
        [end] = ends
        return whole_answer(self.head(model), end)

    def renderer(self, model: str, _units: int) -> Lines:
        """Ollama's lines."""
        return Lines(self.head(model))

    def head(self, model: str) -> OllamaHead:
        """Of answers, which call the model as the client has."""
        return OllamaHead(self._wanted.named or model, self.is_chat, self._started, self._clocks)


class OllamaChatText(_OllamaText[OllamaChatBody]):
    """The TextRequest of POST /api/chat."""

    is_chat = True

    def __init__(self, wanted: OllamaChatBody, clocks: Clocks = CLOCKS) -> None:
        super().__init__(wanted, clocks)
        self.images = [image for message in wanted.messages or [] for image in message.images]
        self._counts = [len(message.images) for message in wanted.messages or []]

    def units(self, images: list[bytes], defaults: Defaults) -> list[Generate]:
        """One."""
        return [chat_unit(self._wanted, images, defaults)]

    def field_name(self, field: str) -> str:
        """Ollama's name."""
        return field_in_chat(field, self._counts)


class OllamaGenerateText(_OllamaText[OllamaGenerateBody]):
    """The TextRequest of POST /api/generate."""

    is_chat = False

    def __init__(self, wanted: OllamaGenerateBody, clocks: Clocks = CLOCKS) -> None:
        super().__init__(wanted, clocks)
        self.images = wanted.images

    def units(self, images: list[bytes], defaults: Defaults) -> list[Generate]:
        """One."""
        return [generate_unit(self._wanted, images, defaults)]

    def field_name(self, field: str) -> str:
        """Ollama's name: turns and parts of the chat that the prompt has become are fields of their own."""
        if field.startswith("messages[0]") and self._wanted.system:
            return "system"
        return "prompt" if field.startswith("messages") else field_name(field)
