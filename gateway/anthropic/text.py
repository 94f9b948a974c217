"""A message of Anthropic's as a request for text: a parsed body, an id, and how to answer."""

import secrets
from collections.abc import Sequence

from broker.wire.work import Generate
from gateway.anthropic.replies import MessageEvents, whole
from gateway.anthropic.requests import WantedMessage
from gateway.core.answer import End
from gateway.core.dialect import Json
from gateway.core.sampling import Defaults


class MessageText:
    """The TextRequest of POST /v1/messages and /v1/messages/count_tokens."""

    def __init__(self, wanted: WantedMessage) -> None:
        self.model = wanted.body.model
        self.stream = wanted.body.stream
        self.resume = wanted.body.resume
        self.images = wanted.conversation.images
        self.ignored = wanted.ignored
        self.field_name = wanted.field_name
        self._wanted = wanted
        self._id = "msg_" + secrets.token_hex(12)

    def units(self, images: list[bytes], defaults: Defaults) -> list[Generate]:
        """Always one."""
        return [self._wanted.work(images, defaults)]

    def whole(self, model: str, ends: Sequence[End]) -> Json:
        """Anthropic's message."""
        [end] = ends
        return whole(self._id, model, end)

    def renderer(self, model: str, _units: int) -> MessageEvents:
        """Anthropic's events."""
        return MessageEvents(self._id, model)
