"""Anthropic's dialect: its errors, the frames of its streams, and its paths of fields. Pure."""

import re
from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict

from broker.wire.failure import Code, Failure, FailureError
from gateway.core.dialect import Json
from gateway.core.failure import STATUS, in_words_of

STREAM_TYPE = "text/event-stream; charset=utf-8"
PING = b'event: ping\ndata: {"type":"ping"}\n\n'

# Anthropic's types of errors. Invalid requests are the rule.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    501: "api_error",
}
# By the field at fault: what clients know of it, where they know more than our code says. After this one they send the
# whole conversation.
_ERROR_CODES = {"thread": "thread_unsupported_request"}
_BRACKETS = re.compile(r"\[(\d+)\]")


class AnthropicErrorDetails(BaseModel):
    """error_code: what clients know of the field at fault, or else our code."""

    model_config = ConfigDict(strict=True, extra="forbid")

    error_code: str


class AnthropicErrorFields(BaseModel):
    """What went wrong. param: the field at fault; retryable: whether the same request may succeed later."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: str
    message: str
    details: AnthropicErrorDetails
    code: Code
    param: str | None
    retryable: bool


class AnthropicError(BaseModel):
    """An error as clients of Anthropic's API know it; also the last event of a stream that fails."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["error"]
    error: AnthropicErrorFields


class AnthropicDialect:
    """A Dialect."""

    name = "Anthropic"
    error_answer = AnthropicError

    def status(self, failure: Failure) -> int:
        """That of the common table."""
        return STATUS[failure.code]

    def error(self, failure: Failure) -> Json:
        """`{"type": "error", "error": {type, message, details, code, param, retryable}}`: the first three are
        Anthropic's."""
        error = {
            "type": _type_of(failure),
            "message": _message_of(failure),
            "details": {"error_code": _ERROR_CODES.get(failure.param or "", failure.code)},
            "code": failure.code,
            "param": failure.param,
            "retryable": failure.retryable,
        }
        return {"type": "error", "error": error}


ANTHROPIC = AnthropicDialect()


def frame(kind: str, fields: Json) -> bytes:
    """One event of a stream."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def framed_error(failure: Failure) -> bytes:
    """The end of a stream that fails after its start."""
    return frame("error", ANTHROPIC.error(failure))


def dotted(path: str) -> str:
    """`messages[2].content[0]` -> `messages.2.content.0`."""
    return _BRACKETS.sub(r".\1", path).lstrip(".")


def in_dots(error: FailureError) -> FailureError:
    """The same failure with the path in dots."""
    return FailureError(in_words_of(dotted, error.failure))


def _type_of(failure: Failure) -> str:
    status = STATUS[failure.code]
    if status == 503:  # clients try again after overloaded_error
        return "overloaded_error" if failure.retryable else "api_error"
    return _TYPES.get(status, "invalid_request_error")


def _message_of(failure: Failure) -> str:
    """Agents know by these words that they have to shorten the conversation."""
    if failure.code is Code.CONTEXT_LENGTH_EXCEEDED and failure.param != "max_tokens":
        return f"prompt is too long: {failure.message}"
    return failure.message
