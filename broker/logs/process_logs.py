"""What processes say, and what is done to them, as the broker's log and as one log per model that can be read and
followed, also when its process has died.

A spare belongs to no model yet; its lines join the model that it is given. A reader who is slower than a process loses
lines, which it is told: nothing waits for readers, and nothing is queued for them here.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from broker.logs.ring import Line, Ring
from broker.processes.lines import LogEvent
from broker.wire.failure import Code, Failure, FailureError
from broker.wire.log_text import harmless, shown_trace

logger = logging.getLogger(__name__)

MAX_FOLLOWERS = 256
_MAX_MODELS = 256  # whose lines are kept
_MESSAGE_BYTES = 65_536  # of lines in one output
_BURST = 20.0  # outputs to one follower at once, and in each second
_PER_SECOND = 10.0

# Sends one PARTIAL to the request of this id.
Send = Callable[[bytes, dict[str, Any]], None]


@dataclass(slots=True)
class _Printing:
    """ring: that of its model, or its own as long as it has none."""

    pid: int
    ring: Ring
    model_id: str | None = None


@dataclass(slots=True)
class _Follower:
    """next: the number of the line that it gets next. budget: outputs that it may get now."""

    ring: Ring
    next: int
    budget: float = _BURST
    budget_at: float = 0.0


@dataclass(slots=True)
class ProcessLogs:
    """send: an output for a follower. now: monotonic seconds."""

    now: Callable[[], float] = time.monotonic
    send: Send | None = None
    _rings: dict[str, Ring] = field(default_factory=dict)  # the one that was written last is the last
    _processes: dict[str, _Printing] = field(default_factory=dict)
    _followers: dict[bytes, _Follower] = field(default_factory=dict)

    # ---- processes --------------------------------------------------------------------------------------------------

    def started(self, worker_id: str, pid: int | None, model_id: str | None = None) -> None:
        """A process runs: a spare or one that has to be told its model, or a download of `model_id`."""
        ring = Ring() if model_id is None else self._ring_of(model_id)
        self._processes[worker_id] = _Printing(pid or 0, ring, model_id)
        if model_id is not None:
            self.note(worker_id, "started")

    def assigned(self, worker_id: str, model_id: str) -> None:
        """A process has been given a model: what it has said joins the model's log."""
        process = self._processes.get(worker_id)
        if process is None:
            return
        ring = self._ring_of(model_id)
        for line in process.ring.since(0):
            ring.add(line)
        process.ring, process.model_id = ring, model_id
        self.note(worker_id, f"loads {model_id}")

    def said(self, worker_id: str, said: LogEvent) -> None:
        """Log what a process has said, and keep it."""
        process = self._processes.get(worker_id)
        about: dict[str, Any] = {"worker": worker_id, "request_id": said.trace, "lines": said.lines}
        if process is not None:
            about |= {"pid": process.pid or None, "model": process.model_id}
            suffix = f" request_id={shown_trace(said.trace)}" if said.trace else ""
            self._add(process, said.text + suffix, *said.lines)
        logger.log(said.level, "%s: %s", worker_id, said.text, extra=about)

    def note(self, worker_id: str, text: str) -> None:
        """Keep what the broker has done to a process; it has its own line in the broker's log."""
        if (process := self._processes.get(worker_id)) is not None:
            self._add(process, harmless(f"broker: {text}"))

    def ready(self, model_id: str) -> None:
        """The processes of this model have loaded it."""
        for process in self._processes.values():
            if process.model_id == model_id:
                self._add(process, harmless(f"broker: {model_id} is ready"))

    def exited(self, worker_id: str, how: str) -> None:
        """A process has ended, and all that it has said is here."""
        self.note(worker_id, f"exited: {how}")
        self._processes.pop(worker_id, None)

    def _add(self, process: _Printing, *texts: str) -> None:
        at = time.time()
        for text in texts:
            process.ring.add(Line(at, process.pid, text))

    def _ring_of(self, model_id: str) -> Ring:
        ring = self._rings.pop(model_id, None) or Ring()
        self._rings[model_id] = ring
        if len(self._rings) > _MAX_MODELS:
            in_use = {id(p.ring) for p in self._processes.values()} | {id(f.ring) for f in self._followers.values()}
            idle = next((m for m, r in self._rings.items() if id(r) not in in_use and r is not ring), None)
            if idle is not None:
                del self._rings[idle]
        return ring

    # ---- readers ----------------------------------------------------------------------------------------------------

    def tail(self, model_id: str, count: int) -> dict[str, Any]:
        """The last `count` lines, as an output."""
        ring = self._rings.get(model_id)
        return _output(list(ring.since(ring.end - count))) if ring is not None else _output([])

    def follow(self, request_id: bytes, model_id: str, tail: int) -> None:
        """Send the last `tail` lines and all that come from now on. Raises FailureError if too many do that."""
        if len(self._followers) >= MAX_FOLLOWERS:
            why = f"{MAX_FOLLOWERS} readers follow logs already, the limit"
            raise FailureError(Failure(Code.RATE_LIMIT_EXCEEDED, why, retry_after=1.0, retryable=True))
        ring = self._ring_of(model_id)
        follower = _Follower(ring, max(ring.end - tail, ring.start), budget_at=self.now())
        self._followers[request_id] = follower
        self._send_new(request_id, follower, follower.budget_at)  # the others get theirs when it is their turn

    def leave(self, request_id: bytes) -> bool:
        """Whether this request followed a log; it does no longer."""
        return self._followers.pop(request_id, None) is not None

    def gateway_left(self, gateway_id: bytes) -> None:
        """So have all its followers."""
        for request_id in [r for r in self._followers if r.startswith(gateway_id)]:
            del self._followers[request_id]

    def flush(self) -> None:
        """Send what is new to those who follow. Call it after new lines, and about once a second for the rest."""
        now = self.now()
        for request_id, follower in list(self._followers.items()):
            self._send_new(request_id, follower, now)

    def _send_new(self, request_id: bytes, follower: _Follower, now: float) -> None:
        while follower.next < follower.ring.end and _may_send(follower, now):
            lines = _next_lines(follower)
            assert self.send is not None
            self.send(request_id, _output(lines))
            if request_id not in self._followers:  # its gateway has gone, which sending has shown
                break


def _may_send(follower: _Follower, now: float) -> bool:
    follower.budget = min(_BURST, follower.budget + (now - follower.budget_at) * _PER_SECOND)
    follower.budget_at = now
    if follower.budget < 1:
        return False
    follower.budget -= 1
    return True


def _next_lines(follower: _Follower) -> list[Line]:
    ring = follower.ring
    lines: list[Line] = []
    if follower.next < ring.start:
        missed = ring.start - follower.next
        first = next(ring.since(ring.start))
        lines.append(Line(first.at, 0, f"broker: ({missed} lines left out: this reader is too slow)"))
        follower.next = ring.start
    size = 0
    for line in ring.since(follower.next):
        lines.append(line)
        follower.next += 1
        size += line.size
        if size >= _MESSAGE_BYTES:
            break
    return lines


def _output(lines: list[Line]) -> dict[str, Any]:
    return {"lines": [list(line) for line in lines]}
