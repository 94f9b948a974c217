"""The id of the HTTP request that a task serves, for its log lines and for what it asks of the broker.

The client's own (`x-request-id`), if it can be kept, else a fresh one; every answer returns it.
"""

import secrets
from collections.abc import Iterable
from contextvars import ContextVar

from broker.wire.log_text import trace_of

HEADER = b"x-request-id"

_current: ContextVar[str] = ContextVar("trace", default="")


def trace_for(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id for a request with these headers, whose names are in lower case."""
    given = next((value for name, value in headers if name == HEADER), b"")
    return trace_of(given) or f"req_{secrets.token_hex(12)}"


def current_trace() -> str:
    """Of the request that this task serves; empty if it serves none."""
    return _current.get()


def set_trace(trace: str) -> None:
    """From now on, for this task and those that it starts."""
    _current.set(trace)
