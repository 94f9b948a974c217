"""OpenAI's chats and completions as requests for text: a parsed body, an id and a time, and how to answer."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from broker.wire.work import Generate
from gateway.core.answer import End
from gateway.core.content import Image
from gateway.core.dialect import Json
from gateway.core.sampling import Defaults
from gateway.openai.calls import FUNCTION_CALLS, CallStyle
from gateway.openai.dialect import field_in_chat, field_name
from gateway.openai.replies import Chunks, Head, likeliest, whole
from gateway.openai.requests import ChatRequest, CompletionRequest, Sampling, chat_work, completion_work
from gateway.openai.tools import tool_field, unheeded

Wanted = TypeVar("Wanted", bound=Sampling)


class _Text(Generic[Wanted]):
    """What both have in common of a TextRequest."""

    is_chat: bool
    images: Sequence[Image] = ()
    ignored: Sequence[str] = ()
    calls = FUNCTION_CALLS

    def __init__(self, wanted: Wanted) -> None:
        self.model = wanted.model
        self.stream = wanted.stream
        self.resume = wanted.resume
        self._wanted = wanted
        self._id = ("chatcmpl-" if self.is_chat else "cmpl-") + secrets.token_hex(12)
        self._created = int(time.time())

    def whole(self, model: str, ends: Sequence[End]) -> Json:
        """OpenAI's object."""
        return whole(self._head(model), ends)

    def renderer(self, model: str, units: int) -> Chunks:
        """OpenAI's chunks."""
        return Chunks(self._head(model), units, include_usage=self._wanted.include_usage)

    def _head(self, model: str) -> Head:
        return Head(self._id, model, self._created, self.is_chat, self._wanted.choices_per_prompt, self.calls)


class ChatText(_Text[ChatRequest]):
    """The TextRequest of POST /v1/chat/completions."""

    is_chat = True

    def __init__(self, wanted: ChatRequest) -> None:
        super().__init__(wanted)
        self.images = wanted.images
        if wanted.tools.custom or wanted.is_legacy:
            self.calls = CallStyle(wanted.tools.custom, wanted.is_legacy)
        self.ignored = unheeded(wanted.all_tools, wanted.choice)

    def units(self, images: list[bytes], defaults: Defaults) -> list[Generate]:
        """One for each choice."""
        return chat_work(self._wanted, images, defaults)

    def field_name(self, field: str) -> str:
        """OpenAI's name."""
        wanted = self._wanted
        name = tool_field(field, wanted.all_tools, wanted.choice, is_legacy=wanted.is_legacy)
        return field_in_chat(name, [message.said.content for message in wanted.messages])


class CompletionText(_Text[CompletionRequest]):
    """The TextRequest of POST /v1/completions."""

    is_chat = False

    def units(self, _images: list[bytes], defaults: Defaults) -> list[Generate]:
        """One for each choice of each prompt."""
        return completion_work(self._wanted, defaults)

    def whole(self, model: str, ends: Sequence[End]) -> Json:
        """OpenAI's object."""
        wanted = self._wanted
        if wanted.answers_per_prompt == wanted.choices_per_prompt:
            return super().whole(model, ends)
        best = likeliest(ends, wanted.answers_per_prompt, wanted.choices_per_prompt, echo=bool(wanted.echo))
        if wanted.logprobs is None:
            best = [replace(end, rest=replace(end.rest, logprobs=())) for end in best]
        head = replace(self._head(model), choices_per_prompt=wanted.answers_per_prompt)
        return whole(head, best, ends)

    def field_name(self, field: str) -> str:
        """OpenAI's name."""
        return field_name(field)
