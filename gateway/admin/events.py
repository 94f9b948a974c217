"""/admin/events and /admin/models/{id}/progress: every change of a model's state as a server-sent event, as it happens.

The first events are the states at the moment of asking, so that a dashboard needs no other call. The stream has no end
of its own; it ends with the client or, framed, with the broker.
"""

from collections.abc import Sequence

import orjson
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.from_gateways import Watch
from gateway.http.inference import State
from gateway.http.streaming import EventStream
from gateway.link.call import Item

_OPENING = b": watching\n\n"


class _Changes:
    """Each body as it came: `{model_id, state, reason, stage, fraction, at}`."""

    is_complete = False

    def render(self, items: Sequence[Item]) -> bytes:
        return b"".join(b"data: " + orjson.dumps(body) + b"\n\n" for _index, _kind, body in items)


async def events(request: Request[State]) -> Response:
    """Of all models, or of the one that the path names."""
    call = await request.state["broker"].call(Watch(request.path_params.get("model_id")))
    return EventStream(call, _Changes(), request.state["settings"].keepalive_seconds, opening=_OPENING)
