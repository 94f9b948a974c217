"""The same events as JSON, one object per line."""

import logging
from datetime import UTC, datetime

from pythonjsonlogger.core import LogData
from pythonjsonlogger.json import JsonFormatter as _JsonFormatter

from broker.wire.logs import fields_of, lines_of, message_of, trace_in


class JsonFormatter(_JsonFormatter):
    """`time` (ISO 8601, UTC), `level`, `process`, `logger`, `message`; where there are any `request_id`, the fields of
    the record, and `traceback`. hides: as of the TextFormatter."""

    def __init__(self, process: str, *, hides: bool) -> None:
        super().__init__(json_ensure_ascii=False)
        self._process = process
        self._hides = hides

    def format(self, record: logging.LogRecord) -> str:
        """The object, whose only keys are those that this file names."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        event: LogData = {"time": time, "level": record.levelname.lower(), "process": self._process}
        event |= {"logger": record.name, "message": message_of(record)}
        if trace := trace_in(record):
            event["request_id"] = trace
        event |= fields_of(record)
        if lines := lines_of(record, hides=self._hides):
            event["traceback"] = "\n".join(lines)
        return self.serialize_log_record(event)
