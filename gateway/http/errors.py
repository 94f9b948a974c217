"""One table: what went wrong -> HTTP status and error body. Nothing here decides, logs or talks to the broker.

/v1/* answers OpenAI's object `{"error": {message, type, param, code, retryable}}`, the admin paths answer
`{"detail": message}`. `Retry-After` follows where the failure names a time.
"""

import asyncio
import contextlib
import math
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from broker.wire.body import ProtocolError, from_map
from broker.wire.failure import Code, Failure
from gateway.link.client import BrokerUnavailableError

# Failure.code -> status, OpenAI's type. docs/errors.md lists the codes.
_BAD_REQUEST = "invalid_request_error"
_TABLE = {
    "invalid_request": (400, _BAD_REQUEST),
    "context_length_exceeded": (400, _BAD_REQUEST),
    "invalid_api_key": (401, "authentication_error"),
    "foreign_origin": (403, "permission_error"),
    "not_found": (404, _BAD_REQUEST),
    "model_not_found": (404, _BAD_REQUEST),
    "not_loaded": (404, _BAD_REQUEST),
    "method_not_allowed": (405, _BAD_REQUEST),
    "drain_timeout": (409, _BAD_REQUEST),
    "request_too_large": (413, _BAD_REQUEST),
    "load_failed": (422, _BAD_REQUEST),
    "rate_limit_exceeded": (429, "rate_limit_error"),
    "cancelled": (499, _BAD_REQUEST),
    "insufficient_memory": (503, "server_error"),
    "model_unavailable": (503, "server_error"),
    "broker_unavailable": (503, "server_error"),
    "worker_died": (503, "server_error"),
}
_INTERNAL = (500, "server_error")
_LINGER_SECONDS = 1.0

INTERNAL_ERROR = Failure(Code.INTERNAL_ERROR, "the gateway failed; its log says why")


class ApiError(Exception):
    """This request ends with `failure`. `status` where the endpoint's contract has another one than the table."""

    def __init__(self, failure: Failure, status: int | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.status = status or _TABLE.get(failure.code, _INTERNAL)[0]


class Json(JSONResponse):
    """JSON by orjson."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return orjson.dumps(content)


class LingeringJson(Json):
    """Reads on for a moment after it is sent, to lose what comes: closing on a client that still writes its body would
    make it lose the answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def invalid(message: str, param: str | None = None) -> ApiError:
    """The client's mistake, in the field `param`."""
    return ApiError(Failure(Code.INVALID_REQUEST, message, param))


def failure_of(body: dict[str, Any]) -> Failure:
    """The failure in the body of an ERROR; one that cannot be read is a failure too."""
    try:
        return from_map(Failure, body)
    except ProtocolError as error:
        return Failure(Code.INTERNAL_ERROR, f"the broker sent an error that cannot be read: {error}")


def error_object(failure: Failure) -> dict[str, Any]:
    """OpenAI's error object, for a response or a frame of a stream."""
    return {
        "error": {
            "message": failure.message,
            "type": _TABLE.get(failure.code, _INTERNAL)[1],
            "param": failure.param,
            "code": failure.code,
            "retryable": failure.retryable,
        }
    }


def error_response(path: str, error: ApiError) -> Response:
    """The response to a request for `path` that ends with `error`."""
    headers = {}
    if error.failure.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.failure.retry_after)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    is_openai = not path.startswith(("/admin", "/health"))
    content = error_object(error.failure) if is_openai else {"detail": error.failure.message}
    if error.status == 413:
        return LingeringJson(content, 413, headers | {"connection": "close"})
    return Json(content, error.status, headers)


async def on_api_error(request: Request, error: Exception) -> Response:
    """ApiError: what the table says."""
    assert isinstance(error, ApiError)  # registered for this class only
    return error_response(request.scope["path"], error)


async def on_broker_unavailable(request: Request, error: Exception) -> Response:
    """BrokerUnavailableError: no request can be served now."""
    assert isinstance(error, BrokerUnavailableError)  # registered for this class only
    return error_response(request.scope["path"], ApiError(error.failure))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What the router raises: no such route, or not with this method."""
    assert isinstance(error, HTTPException)  # registered for this class only
    what = f"{request.method} {request.scope['path']}"
    if error.status_code == 405:
        failure = Failure(Code.METHOD_NOT_ALLOWED, f"{what}: this path has other methods")
    else:
        failure = Failure(Code.NOT_FOUND, f"{what}: there is no such path")
    response = error_response(request.scope["path"], ApiError(failure))
    response.headers.update(error.headers or {})
    return response


async def on_gone(_request: Request, _error: Exception) -> Response:
    """The client has gone: nobody reads this."""
    return Response(status_code=499)


async def on_bug(request: Request, _error: Exception) -> Response:
    """Any other exception; the server logs it with its traceback."""
    response = error_response(request.scope["path"], ApiError(INTERNAL_ERROR))
    response.headers["connection"] = "close"  # which uvicorn does: a client must not send its next request there
    return response
