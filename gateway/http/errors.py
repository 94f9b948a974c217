"""What an exception becomes: the status and error body of the dialect that the route carries.

Nothing here decides, logs or talks to the broker. `Retry-After` follows where the failure names a time.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from broker.wire.failure import Code, Failure, FailureError
from gateway.core.dialect import Dialect
from gateway.core.failure import INTERNAL_ERROR
from gateway.core.served import CLIENT_LEFT
from gateway.link.call import CallClosedError

LINGER_SECONDS = 1.0

ExceptionHandler = Callable[[Request, Exception], Awaitable[Response]]


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


def exception_handlers(default: Dialect) -> dict[type[Exception], ExceptionHandler]:
    """For Starlette. default: the dialect where no route has been found."""

    def response(request: Request, failure: Failure) -> Response:
        request.state["served"].outcome = failure.code
        return error_response(request.scope.get("dialect", default), failure)

    async def on_failure(request: Request, error: Exception) -> Response:
        assert isinstance(error, FailureError)  # registered for this class only
        return response(request, error.failure)

    async def on_http_exception(request: Request, error: Exception) -> Response:
        """What the router raises: no such route, or not with this method."""
        assert isinstance(error, HTTPException)  # registered for this class only
        what = f"{request.method} {request.scope['path']}"
        if error.status_code == 405:
            failure = Failure(Code.METHOD_NOT_ALLOWED, f"{what}: this path has other methods")
        else:
            failure = Failure(Code.NOT_FOUND, f"{what}: there is no such path")
        answer = response(request, failure)
        answer.headers.update(error.headers or {})
        return answer

    async def on_gone(request: Request, _error: Exception) -> Response:
        """The client has gone and does not read this."""
        request.state["served"].outcome = CLIENT_LEFT
        return Response(status_code=499)

    async def on_bug(request: Request, _error: Exception) -> Response:
        """Any other exception; the server logs it with its traceback."""
        answer = response(request, INTERNAL_ERROR)
        answer.headers["connection"] = "close"  # which uvicorn does: a client must not send its next request there
        return answer

    return {
        FailureError: on_failure,
        CallClosedError: on_gone,
        ClientDisconnect: on_gone,
        HTTPException: on_http_exception,
        Exception: on_bug,
    }
