"""How a process logs: one line per event, for people or as JSON, with the id of the request that it concerns.

All text goes through `harmless`: nothing that a client, a model or a file name says reaches a terminal raw. Attributes
of a record (`extra`) that are shown: `request_id`, and in JSON those of `FIELDS` too. `lines`: what stands below the
message, a traceback say. `shows_errors`: the messages of its errors quote no request.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from broker.wire.log_errors import error_lines
from broker.wire.log_text import harmless, shown_trace

# Attributes of a record that JSON has as fields.
FIELDS = (
    *("worker", "model", "pid", "method", "path", "status", "outcome"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "ttft_seconds", "duration_seconds"),
)
_MAX_MESSAGE = 8000  # characters


class TextFormatter(logging.Formatter):
    """`time process LEVEL message request_id=ID`; below it the lines of a traceback. hides: messages of errors may
    quote requests and are left out. process: None where something else writes time and process before each line."""

    def __init__(self, process: str | None, *, hides: bool) -> None:
        super().__init__(f"%(asctime)s {process} %(levelname)s %(message)s" if process else "%(levelname)s %(message)s")
        self._hides = hides
        self._second, self._time = -1, ""  # the last one that was written

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 # logging's name
        """The line, before tracebacks."""
        record.message = message_of(record)
        trace = trace_in(record)
        return super().formatMessage(record) + (f" request_id={shown_trace(trace)}" if trace else "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 # logging's name
        """The time with milliseconds. Lines of one second have all but those in common."""
        if (second := int(record.created)) != self._second:
            self._time = time.strftime(datefmt or self.default_time_format, time.localtime(second))
            self._second = second
        return f"{self._time}.{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        """All of the event."""
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        return "\n".join([self.formatMessage(record), *lines_of(record, hides=self._hides)])


def message_of(record: logging.LogRecord) -> str:
    """The message as one harmless line of a bounded length."""
    try:
        message = record.getMessage().strip("\n")
    except Exception:  # noqa: BLE001 # arguments that do not fit: say so, and not on stderr as logging does
        message = f"{record.msg!r} with arguments that do not fit it"
    if len(message) > _MAX_MESSAGE:
        message = f"{message[:_MAX_MESSAGE]}… ({len(message)} characters)"
    return harmless(message)


def lines_of(record: logging.LogRecord, *, hides: bool) -> list[str]:
    """What stands below the message: what the record has as `lines`, or its traceback."""
    lines: list[str] = list(getattr(record, "lines", ()))
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        lines += error_lines(error, hides=hides and not getattr(record, "shows_errors", False))
    if record.stack_info:
        lines += record.stack_info.split("\n")
    return [harmless(line) for line in lines]


def trace_in(record: logging.LogRecord) -> str:
    """The id of the request that the record concerns; empty for none."""
    return getattr(record, "request_id", "") or ""


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The record's own fields that are there, texts harmless."""
    values = ((name, getattr(record, name, None)) for name in FIELDS)
    return {name: harmless(v) if isinstance(v, str) else v for name, v in values if v is not None}


def configure(
    process: str,
    level: str,
    form: str,
    *,
    hides_errors: bool = False,
    current: Callable[[], str] | None = None,
) -> None:
    """Let everything that this process logs go to stderr. form: text or json. hides_errors: messages of errors may
    quote requests; only the level debug shows them. current: the id of the request that is being served now."""
    hides = hides_errors and level != "debug"
    formatter: logging.Formatter
    if form == "json":
        from broker.wire.log_json import JsonFormatter  # noqa: PLC0415 # a library that text needs not

        formatter = JsonFormatter(process, hides=hides)
    else:
        # honcho writes time and process before every line
        formatter = TextFormatter(None if "HONCHO_PROCESS_NAME" in os.environ else process, hides=hides)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    if current is not None:
        handler.addFilter(_naming(current))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # No line shows where in the code it was written, nor in which thread and process: not finding that out saves a
    # fifth of what a line takes. As Python's documentation has it.
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    log_everything()


def _naming(current: Callable[[], str]) -> Callable[[logging.LogRecord], bool]:
    def name(record: logging.LogRecord) -> bool:
        if not trace_in(record) and (trace := current()):
            record.request_id = trace
        return True

    return name


def log_everything() -> None:
    """Warnings of Python, and errors that nothing catches, are events like all others."""
    logging.captureWarnings(capture=True)
    log = logging.getLogger("errors")

    def on_error(kind: type[BaseException], error: BaseException, tb: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, tb)
        else:
            log.critical("an error that nothing catches", exc_info=error)

    def on_thread_error(what: threading.ExceptHookArgs) -> None:
        log.critical("an error that nothing catches, in a thread", exc_info=what.exc_value)

    sys.excepthook = on_error
    threading.excepthook = on_thread_error
