"""What a failure means over HTTP: one table from code to status, and names of fields in the client's words. Pure.

The failure itself, its codes and its exception are the wire's (broker/wire/failure.py). How a dialect writes one is the
dialect's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from broker.wire.failure import Code, Failure

STATUS: dict[Code, int] = {
    Code.INVALID_REQUEST: 400,
    Code.CONTEXT_LENGTH_EXCEEDED: 400,
    Code.INVALID_API_KEY: 401,
    Code.FOREIGN_ORIGIN: 403,
    Code.NOT_FOUND: 404,
    Code.MODEL_NOT_FOUND: 404,
    Code.NOT_LOADED: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.REQUEST_TIMEOUT: 408,
    Code.DRAIN_TIMEOUT: 409,
    Code.MODEL_IN_USE: 409,
    Code.REQUEST_TOO_LARGE: 413,
    Code.UNSUPPORTED_ENCODING: 415,
    Code.LOAD_FAILED: 422,
    Code.RATE_LIMIT_EXCEEDED: 429,
    Code.HEADERS_TOO_LARGE: 431,
    Code.CANCELLED: 499,
    Code.INTERNAL_ERROR: 500,
    Code.NOT_IMPLEMENTED: 501,
    Code.INSUFFICIENT_MEMORY: 503,
    Code.MODEL_UNAVAILABLE: 503,
    Code.BROKER_UNAVAILABLE: 503,
    Code.WORKER_DIED: 503,
    Code.INSUFFICIENT_STORAGE: 507,
}

# OpenAI's types of errors. Invalid requests are the rule.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    507: "server_error",
}

INTERNAL_ERROR = Failure(Code.INTERNAL_ERROR, "the gateway failed; its log says why")


class ErrorFields(BaseModel):
    """What went wrong. param: the field or parameter at fault; retryable: whether the same request may work later."""

    model_config = ConfigDict(strict=True, extra="forbid")

    message: str
    type: str
    param: str | None
    code: Code
    retryable: bool


class ErrorAnswer(BaseModel):
    """An error as clients of OpenAI's API know it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    error: ErrorFields


def error_object(failure: Failure) -> dict[str, object]:
    """OpenAI's error object, which the event streams of administration end with, too."""
    return {
        "error": {
            "message": failure.message,
            "type": _TYPES.get(STATUS[failure.code], "invalid_request_error"),
            "param": failure.param,
            "code": failure.code,
            "retryable": failure.retryable,
        }
    }


# The wire's name of a field -> the client's: `json_schema` -> `response_format`.
FieldNames = Callable[[str], str]


def root_of(name: str) -> str:
    """Clients name parts of a field too: `languages[]`, `chunking_strategy[type]`."""
    return name.partition("[")[0]


def in_words_of(names: FieldNames, failure: Failure) -> Failure:
    """The failure with the client's name of the field, also where its message begins with that name."""
    if failure.param is None:
        return failure
    name = names(failure.param)
    message = failure.message
    if message.startswith(failure.param):
        message = name + message[len(failure.param) :]
    return replace(failure, param=name, message=message)


# Names the parts of the request that the answer does without.
IGNORED_HEADER = "x-mlx-broker-ignored"
# Proxies refuse longer headers.
_MAX_HEADER = 2000


def ignored_header(names: FieldNames, ignored: Sequence[str]) -> str:
    """Its value, empty if nothing is ignored. ignored: names of the wire, `json_schema.uniqueItems`."""
    if not ignored:
        return ""
    named: dict[str, None] = {}
    length = 0
    for field in ignored:
        if (name := _in_words_of(names, field)) not in named:
            named[name] = None
            length += len(name) + 2
        if length > _MAX_HEADER + 2:  # more do not fit
            break
    whole = ", ".join(named)
    safe = "".join(letter if " " <= letter <= "~" else "?" for letter in whole)
    return safe if len(safe) <= _MAX_HEADER else safe[:_MAX_HEADER].rpartition(", ")[0] + ", ..."


def _in_words_of(names: FieldNames, field: str) -> str:
    name = names(field)
    if name != field:
        return name
    root, dot, part = field.partition(".")
    return names(root) + dot + part
