"""OpenAI's Responses as requests for text: a parsed body, an id and a time, and how to answer."""

import secrets
import time
from collections.abc import Sequence

from broker.wire.work import Generate
from gateway.core.answer import End
from gateway.core.dialect import Json
from gateway.core.sampling import Defaults
from gateway.responses.dialect import field_name
from gateway.responses.objects import COMPLETED, ResponseHead, head_of, output_of, state, status_of
from gateway.responses.requests import Wanted, responses_work
from gateway.responses.stream import ResponseEvents


class ResponsesText:
    """The TextRequest of POST /v1/responses."""

    def __init__(self, wanted: Wanted) -> None:
        self.model = wanted.request.model
        self.stream = wanted.request.stream
        self.resume = wanted.request.resume
        self.images = [image for turn in wanted.turns for image, _ in turn.images]
        self.ignored = wanted.ignored
        self._wanted = wanted
        self._key = secrets.token_hex(16)
        self._created = int(time.time())
        self._work = Generate()

    def units(self, images: list[bytes], defaults: Defaults) -> list[Generate]:
        """One."""
        self._work = responses_work(self._wanted, images, defaults)
        return [self._work]

    def whole(self, model: str, ends: Sequence[End]) -> Json:
        """OpenAI's response."""
        [end] = ends
        head, status = self._head(model), status_of(end)
        completed_at = int(time.time()) if status == COMPLETED else None
        return {**head.echo, **state(status, output_of(head, end), end=end, completed_at=completed_at)}

    def renderer(self, model: str, _units: int) -> ResponseEvents:
        """OpenAI's events."""
        return ResponseEvents(self._head(model), time.time)

    def field_name(self, field: str) -> str:
        """OpenAI's name."""
        return field_name(field, self._wanted.turns, self._wanted.choice.tools)

    def _head(self, model: str) -> ResponseHead:
        return head_of(self._key, model, self._created, self._wanted.request, work=self._work, tools=self._wanted.tools)
