"""/admin/events and /admin/models/{id}/progress: every change of a model's state as a server-sent event, as it happens.

The first events are the present states, so that a dashboard needs no other call. The stream has no end of its own; it
ends with the client or, framed, with the broker.
"""

from collections.abc import Sequence

import orjson
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import Code, Failure, FailureError
from broker.wire.model_names import is_model_name
from gateway.core.administration import StateChange
from gateway.core.failure import error_object
from gateway.http.inference import AppState
from gateway.http.streaming import AnswerStream

_OPENING = b": watching\n\n"


class Changes:
    """The Renderer of both: each change as the broker tells it, `{model_id, state, reason, stage, fraction, at}`, which
    `event_of` has rendered for all who listen."""

    content_type = "text/event-stream; charset=utf-8"
    is_complete = False

    def render(self, items: Sequence[tuple[int, bytes]]) -> bytes:
        """One event each."""
        return b"".join(event for _index, event in items)

    def keepalive(self) -> bytes:
        """A comment."""
        return b": keepalive\n\n"

    def error(self, failure: Failure) -> bytes:
        """The error object, then the same last line as of other streams."""
        return b"data: " + orjson.dumps(error_object(failure)) + b"\n\ndata: [DONE]\n\n"


def event_of(change: StateChange) -> bytes:
    """The event of a change."""
    return b"data: " + orjson.dumps(change.model_dump()) + b"\n\n"


async def events(request: Request[AppState]) -> Response:
    """Every change of state of all models, or of the one that the path names. Raises FailureError for what can never be
    a model's name: the stream of a model that is not here yet waits for it."""
    model = await watched_model(request) if "model_id" in request.path_params else None
    call = await request.state["feed"].listen(model)
    return AnswerStream(call, Changes(), request.state["settings"].keepalive_seconds, str, opening=_OPENING)


async def watched_model(request: Request[AppState]) -> str:
    """The model that the path names, which need not be here yet. Raises FailureError for what can never be a name."""
    model: str = request.path_params["model_id"]
    if not is_model_name(model):
        raise FailureError(
            Failure(Code.MODEL_NOT_FOUND, f"{model!r:.80} is not a model name: one is `name` or `org/name`")
        )
    return (await request.state["directory"].find(model)).model
