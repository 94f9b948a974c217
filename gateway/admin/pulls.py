"""Downloads by hand: POST /admin/models/pull/{id}, whole or with its progress as server-sent events, and its end."""

from collections.abc import Sequence

import orjson
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import Failure
from gateway.core import ask
from gateway.core.administration import PullProgress, PullReport, gib
from gateway.core.dialect import Json as JsonMap
from gateway.core.failure import error_object
from gateway.core.query import Flag, Query, query_of
from gateway.http.errors import Json
from gateway.http.inference import AppState, finish
from gateway.http.streaming import AnswerStream

_DONE = b"data: [DONE]\n\n"


class PullQuery(Query):
    """The parameters of pull."""

    stream: Flag = Field(False, description="Whether to answer with a stream of the progress.")


class PullEvents:
    """The Renderer of a download's progress."""

    content_type = "text/event-stream; charset=utf-8"
    is_complete = False

    def render(self, items: Sequence[tuple[int, PullProgress | PullReport]]) -> bytes:
        """One event each, and the last line after the end."""
        parts = []
        for _index, step in items:
            if isinstance(step, PullReport):
                self.is_complete = True
                parts += [_event(pulled(step)), _DONE]
            else:
                parts.append(_event(step.model_dump()))
        return b"".join(parts)

    def keepalive(self) -> bytes:
        """A comment."""
        return b": keepalive\n\n"

    def error(self, failure: Failure) -> bytes:
        """The error object, then the same last line as of other streams."""
        return _event(error_object(failure)) + _DONE


async def pull(request: Request[AppState]) -> Response:
    """Download a model. The answer comes when it is there, with ?stream=true also the progress until then."""
    model = request.state["directory"].to_fetch(request.path_params["model_id"])
    if query_of(PullQuery, request.query_params).stream:
        call = await request.state["link"].call(ask.pull(model))
        return AnswerStream(call, PullEvents(), request.state["settings"].keepalive_seconds, str)
    return Json(pulled(await finish(request, ask.pull_whole(model))))


async def cancel(request: Request[AppState]) -> Response:
    """End a download. What has arrived stays for the next one."""
    model = request.state["directory"].to_fetch(request.path_params["model_id"])
    report = await finish(request, ask.cancel_pull(model))
    return Json({"status": "cancelled", "model_id": report.model_id})


def pulled(report: PullReport) -> JsonMap:
    """The answer of a download that has succeeded."""
    return {"status": "pulled", "model_id": report.model_id, "size_gb": gib(report.size_bytes)}


def _event(content: JsonMap) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"
