"""What this process logs, as events that its broker reads from the pipe: one line each, traceback included.

A line is the character RS and a JSON object (RFC 7464), so that the broker tells events from what libraries print:
`level`, `message`, and where there are any `request_id` and `lines`. broker/processes/lines.py reads them.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from broker.wire.log_errors import error_lines
from broker.wire.log_text import harmless
from broker.wire.logs import log_everything, message_of

RECORD_SEPARATOR = "\x1e"
_MAX_LINES = 120  # of a traceback: its beginning and its end
_MAX_LINE = 400  # characters

# Mutable state of the process. The request ids of the wire -> the ids that people know; and the request that the main
# thread is busy with.
_traces: dict[bytes, str] = {}
_now: list[bytes] = []


def begins(request_id: bytes, trace: str) -> None:
    """A request has come."""
    if trace:
        _traces[request_id] = trace


def ends(request_id: bytes) -> None:
    """A request has ended."""
    _traces.pop(request_id, None)


@contextmanager
def concerning(request_id: bytes | None) -> Iterator[None]:
    """What is logged inside concerns this request; None: no particular one. Not for what happens for every token."""
    if request_id is not None:
        _now.append(request_id)
    try:
        yield
    finally:
        if request_id is not None:
            _now.pop()


def concerned() -> bytes | None:
    """The request that what happens now concerns."""
    return _now[-1] if _now else None


class EventFormatter(logging.Formatter):
    """A record as one line. The request that it concerns is `about` among its attributes (`extra`), else the one that
    is `concerned`. hides: messages of errors may quote requests and are left out."""

    def __init__(self, *, hides: bool) -> None:
        super().__init__()
        self._hides = hides

    def format(self, record: logging.LogRecord) -> str:
        """RS and the JSON of the event."""
        event: dict[str, object] = {"level": record.levelname, "message": message_of(record)}
        request_id = getattr(record, "about", None) or concerned()
        if request_id is not None and (trace := _traces.get(request_id)):
            event["request_id"] = trace
        if record.exc_info and (error := record.exc_info[1]) is not None:
            lines = error_lines(error, hides=self._hides and not getattr(record, "shows_errors", False))
            if len(lines) > _MAX_LINES:
                half = _MAX_LINES // 2
                lines = [*lines[:half], f"… {len(lines) - 2 * half} lines", *lines[-half:]]
            event["lines"] = [harmless(line)[:_MAX_LINE] for line in lines]
        return RECORD_SEPARATOR + json.dumps(event, ensure_ascii=False)


def send_events(level: str) -> None:
    """Let everything that this process logs go to the broker, from this level on. Of libraries only warnings: some log
    at lower levels what they fetch, with the secrets of its address."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter(hides=level != "debug"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("worker").setLevel(level.upper())
    log_everything()
