"""What an exception becomes: the status and error body of the dialect that the route carries.

Nothing here decides, logs or talks to the broker. `Retry-After` follows where the failure names a time.
"""

import asyncio
import contextlib
import math
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from broker.wire.failure import Code, Failure, FailureError
from gateway.core.dialect import Dialect
from gateway.core.failure import INTERNAL_ERROR
from gateway.core.served import CLIENT_LEFT
from gateway.link.call import CallClosedError

LINGER_SECONDS = 1.0


class Json(JSONResponse):
    """JSON by orjson."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return orjson.dumps(content)


class LingeringJson(Json):
    """Reads on for a moment after it is sent and drops what comes: closing the connection of a client that still writes
    its body would make it lose the answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def error_response(dialect: Dialect, failure: Failure, status: int | None = None) -> Response:
    """The response to a request that ends with `failure`. status: where it is not the dialect's."""
    status = status or dialect.status(failure)
    headers = {}
    if failure.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(failure.retry_after)))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 415:
        headers["accept-encoding"] = "gzip"
    content = dialect.error(failure)
    if status in (408, 413):  # the rest of the body does not come, or is not wanted
        return LingeringJson(content, status, headers | {"connection": "close"})
    return Json(content, status, headers)


class Answering:
    """Around all routes: answers what they raise, while no response has begun. default: the dialect where no route has
    been found. It raises what is a bug again, which the server logs, and what comes too late for an answer: then the
    server cuts the response off."""

    def __init__(self, app: ASGIApp, default: Dialect) -> None:
        self._app = app
        self._default = default

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app's answer, or that of its exception."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http" or scope["state"]["served"].status is not None:
                raise
            response = self._response(scope, error)
            await response(scope, receive, send)
            if not isinstance(error, _EXPECTED):
                raise

    def _response(self, scope: Scope, error: Exception) -> Response:
        if isinstance(error, (CallClosedError, ClientDisconnect)):  # the client has gone and does not read this
            scope["state"]["served"].outcome = CLIENT_LEFT
            return Response(status_code=499)
        failure = _failure_of(scope, error)
        scope["state"]["served"].outcome = failure.code
        answer = error_response(scope.get("dialect", self._default), failure)
        if isinstance(error, HTTPException):
            answer.headers.update(error.headers or {})
        elif not isinstance(error, FailureError):
            answer.headers["connection"] = "close"  # as uvicorn does: a client must not send its next request there
        return answer


_EXPECTED = (FailureError, HTTPException, CallClosedError, ClientDisconnect)


def _failure_of(scope: Scope, error: Exception) -> Failure:
    """An HTTPException is what the router raises: no such route, or not with this method."""
    if isinstance(error, FailureError):
        return error.failure
    if not isinstance(error, HTTPException):
        return INTERNAL_ERROR
    what = f"{scope['method']} {scope['path']}"
    if error.status_code == 405:
        return Failure(Code.METHOD_NOT_ALLOWED, f"{what}: this path has other methods")
    return Failure(Code.NOT_FOUND, f"{what}: there is no such path")
