"""Failures of requests: one dataclass, one exception, one enumeration of codes for all processes.

A message names fields of the wire (`json_schema`, `messages[0]`), never a field or route of HTTP: the gateway's dialect
translates. docs/errors.md says what each code means to a client.
"""

from dataclasses import dataclass
from enum import StrEnum

from broker.wire.body import Body

# The exit code of a worker that ends because of an error of the GPU: os.EX_OSERR, "a system error".
DEVICE_EXIT_CODE = 71


class Code(StrEnum):
    """The kinds of failure. Clients see this word; the HTTP status follows from it."""

    INVALID_REQUEST = "invalid_request"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    INVALID_API_KEY = "invalid_api_key"
    FOREIGN_ORIGIN = "foreign_origin"
    NOT_FOUND = "not_found"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_LOADED = "not_loaded"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    DRAIN_TIMEOUT = "drain_timeout"
    MODEL_IN_USE = "model_in_use"
    REQUEST_TOO_LARGE = "request_too_large"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    LOAD_FAILED = "load_failed"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    HEADERS_TOO_LARGE = "headers_too_large"
    CANCELLED = "cancelled"
    INTERNAL_ERROR = "internal_error"
    NOT_IMPLEMENTED = "not_implemented"
    INSUFFICIENT_MEMORY = "insufficient_memory"
    MODEL_UNAVAILABLE = "model_unavailable"
    BROKER_UNAVAILABLE = "broker_unavailable"
    WORKER_DIED = "worker_died"
    INSUFFICIENT_STORAGE = "insufficient_storage"


@dataclass(slots=True, frozen=True)
class Failure(Body):
    """Why a request ends without an answer; the body of an ERROR.

    param: the field of the wire at fault; retry_after: seconds; retryable: whether the same request may succeed later
    unchanged.
    """

    code: Code
    message: str
    param: str | None = None
    retry_after: float | None = None
    retryable: bool = False


class FailureError(Exception):
    """Raised where a request cannot be served; the request ends with `failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def invalid(message: str, param: str | None = None) -> FailureError:
    """The client's mistake, in the field `param`."""
    return FailureError(Failure(Code.INVALID_REQUEST, message, param))


def one_line(error: object, limit: int = 500) -> str:
    """An error's text as one line of at most `limit` characters."""
    return " ".join(str(error).split())[:limit]


def named_line(error: Exception) -> str:
    """The same, after the name of the error's class: for errors whose text alone says too little."""
    return f"{type(error).__name__}: {one_line(error)}".rstrip(": ")
