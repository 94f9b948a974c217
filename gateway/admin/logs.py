"""/admin/models/{id}/logs: what the processes of one model print, as server-sent events: the last lines, then each one
as it comes, also from the processes that follow.
"""

from collections.abc import Sequence
from typing import Annotated

import orjson
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import Failure
from gateway.admin.answers import LogLine
from gateway.admin.events import watched_model
from gateway.core.administration import LogReport
from gateway.core.ask import logs as logs_of
from gateway.core.failure import ErrorAnswer, error_object
from gateway.core.query import DIGITS, Flag, Query, query_of
from gateway.http.endpoints import Stream
from gateway.http.inference import AppState
from gateway.http.streaming import AnswerStream

MAX_TAIL = 1000  # which is what the broker keeps
_DONE = b"data: [DONE]\n\n"

LOG_LINES = Stream(
    media="text/event-stream",
    events=(LogLine, ErrorAnswer),
    about="The last lines, then each one as it comes. It ends with the client or, with an error object and "
    "`data: [DONE]`, with the broker; with `follow=false` after the last lines, with `data: [DONE]`.",
    is_endless=True,
)


class LogsQuery(Query):
    """The parameters of logs."""

    tail: Annotated[int, Field(ge=0, le=MAX_TAIL), DIGITS] = Field(100, description="How many of the last lines.")
    follow: Flag = Field(True, description="Whether lines that come later are sent, too.")


class LogEvents:
    """The Renderer: each line as `{at, pid, text}`."""

    content_type = "text/event-stream; charset=utf-8"

    def __init__(self, *, follow: bool) -> None:
        self.is_complete = False
        self._follow = follow

    def render(self, items: Sequence[tuple[int, LogReport]]) -> bytes:
        """One event each."""
        events = [
            b"data: " + orjson.dumps({"at": at, "pid": pid, "text": text}) + b"\n\n"
            for _index, report in items
            for at, pid, text in report.lines
        ]
        if not self._follow:
            self.is_complete = True
            events.append(_DONE)
        return b"".join(events)

    def keepalive(self) -> bytes:
        """A comment."""
        return b": keepalive\n\n"

    def error(self, failure: Failure) -> bytes:
        """The error object, then the last line."""
        return b"data: " + orjson.dumps(error_object(failure)) + b"\n\n" + _DONE


async def logs(request: Request[AppState]) -> Response:
    """What the processes of a model print; ?tail= how many of the last lines, ?follow=false for these alone. A model
    that has never run has none yet."""
    query = query_of(LogsQuery, request.query_params)
    model = await watched_model(request)
    call = await request.state["link"].call(logs_of(model, query.tail, follow=query.follow))
    opening = b": following\n\n" if query.follow else b""
    keepalive = request.state["settings"].keepalive_seconds
    return AnswerStream(call, LogEvents(follow=query.follow), keepalive, str, opening=opening)
