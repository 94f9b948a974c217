"""What a process prints: bytes of its pipe to lines, bounded in length, number and memory. Pure: time is an argument.

A line that begins with RS is an event of the process's own log (worker/process/log_events.py), any other one was
printed by a library. A process that floods its pipe is read on, or it would stand still, but most of that is left out.
"""

import json
from collections import deque
from typing import NamedTuple

from broker.wire.log_text import MAX_TRACE, harmless

TAIL_LINES = 20
MAX_CHARACTERS = 2000  # of a line that is passed on
_TAIL_CHARACTERS = 500
_LINE_BYTES = 131_072  # of a line that is kept until it ends: an event may have a traceback

# Lines that a process may print at once, and in each second: 200 bytes count as a line.
_BURST = 1000.0
_PER_SECOND = 200.0
_COUNTED_BYTES = 200
_MAX_WAITING = 2000  # lines of one reading

_RS = b"\x1e"

# As `logging` has them, which this file does not need.
INFO, WARNING = 20, 30
_LEVELS = {"DEBUG": 10, "INFO": INFO, "WARNING": WARNING, "ERROR": 40, "CRITICAL": 50}


class LogEvent(NamedTuple):
    """One event. level: as `logging` has it. trace: the request that it concerns. lines: what stands below it."""

    text: str
    level: int = INFO
    trace: str = ""
    lines: tuple[str, ...] = ()


class _Line(NamedTuple):
    data: bytes
    left_out: int  # bytes at its end


class Printed:
    """Of one process. Mutable state: the line that has not ended, the lines that wait to be taken."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._left_out = 0
        self._waiting: deque[_Line] = deque()
        self._lines_left_out = 0
        self._budget = _BURST
        self._budget_at = 0.0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    @property
    def waits(self) -> bool:
        """Whether `take` may have something."""
        return bool(self._waiting)

    @property
    def tail(self) -> str:
        """The last lines of what was taken."""
        return "\n".join(self._tail)

    def feed(self, data: bytes) -> None:
        """What was read from the pipe."""
        data = data.replace(_RS, b"\n" + _RS)  # an event ends what a library has begun
        first, *others = data.rsplit(b"\n", _MAX_WAITING)
        if b"\n" in first:  # more lines than are looked at
            _, _, last = first.rpartition(b"\n")
            self._lines_left_out += first.count(b"\n")
            self._line.clear()
            self._left_out, first = 0, last
        self._add(first)
        for piece in others:
            self._end_line()
            self._add(piece)

    def _add(self, piece: bytes) -> None:
        """Of a progress bar, which is one line with many carriage returns, a terminal shows what follows the last."""
        returned = piece.rfind(b"\r", 0, max(len(piece) - 1, 0))  # at its end one may belong to the end of the line
        if returned >= 0 or (piece and self._line.endswith(b"\r")):
            self._line.clear()
            self._left_out = 0
            piece = piece[returned + 1 :]
        kept = piece[: _LINE_BYTES - len(self._line)]
        self._line += kept
        self._left_out += len(piece) - len(kept)

    def _end_line(self) -> None:
        data = bytes(self._line.rstrip())
        if data:
            self._waiting.append(_Line(data, self._left_out))
            self._skip(len(self._waiting) - _MAX_WAITING)
        self._line.clear()
        self._left_out = 0

    def take(self, now: float) -> list[LogEvent]:
        """What may be passed on now. now: seconds, monotonic."""
        self._budget = min(_BURST, self._budget + (now - self._budget_at) * _PER_SECOND)
        self._budget_at = now
        taken: list[LogEvent] = []
        while self._waiting and self._budget >= 1:
            taken += self._note()
            line = self._waiting.popleft()
            self._budget -= 1 + len(line.data) // _COUNTED_BYTES
            taken += said_by(*line)
        self._skip(len(self._waiting) - TAIL_LINES)
        return self._noted(taken)

    def take_rest(self) -> list[LogEvent]:
        """The process has ended: its last lines, of which the very last may lack its end."""
        self._end_line()
        self._skip(len(self._waiting) - TAIL_LINES)
        taken = self._note()
        while self._waiting:
            taken += said_by(*self._waiting.popleft())
        return self._noted(taken)

    def _skip(self, count: int) -> None:
        for _ in range(count):
            self._waiting.popleft()
            self._lines_left_out += 1

    def _note(self) -> list[LogEvent]:
        count, self._lines_left_out = self._lines_left_out, 0
        return [LogEvent(f"({count} lines left out: it prints too much)", WARNING)] if count else []

    def _noted(self, taken: list[LogEvent]) -> list[LogEvent]:
        for said in taken:
            self._tail += [line[:_TAIL_CHARACTERS] for line in (said.text, *said.lines)]
        return taken


def said_by(data: bytes, left_out: int = 0) -> list[LogEvent]:
    """A line as an event; none if nothing of it can be seen."""
    if data.startswith(_RS):
        event = None if left_out else _event(data[1:])
        if event is not None:
            return [event]
        data = data[1:]
    # Cut last: what is escaped is longer, and of a URL in two pieces the password would be left.
    text = harmless(data[: 4 * MAX_CHARACTERS].decode(errors="replace").rstrip())
    if len(text) > MAX_CHARACTERS or len(data) > 4 * MAX_CHARACTERS or left_out:
        text = f"{text[:MAX_CHARACTERS]}… ({len(data) + left_out} bytes)"
    return [LogEvent(text)] if text else []


def _event(data: bytes) -> LogEvent | None:
    """What a worker's log says; None for what only looks like it."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return None
    match event:
        case {"level": str(name), "message": str(message), **more}:
            trace, lines = more.get("request_id", ""), more.get("lines", [])
            level = _LEVELS.get(name)
            if level is None or not isinstance(trace, str) or not isinstance(lines, list):
                return None
            below = tuple(harmless(str(line))[:MAX_CHARACTERS] for line in lines)
            return LogEvent(harmless(message)[:MAX_CHARACTERS], level, harmless(trace)[:MAX_TRACE], below)
    return None
