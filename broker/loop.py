"""The one loop: waits for sockets, processes, signals and deadlines, hands events to the policies and their actions to
the performer. It knows what it calls by interface only, and decides nothing.

One thread, no locks: everything that can happen is a file descriptor in one poll set or a deadline.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from broker.policy.actions import Action
from broker.policy.events import (
    Event,
    PauseEnded,
    ShutdownRequested,
    SystemSampled,
    TimePassed,
    WorkerExited,
    WorkerSampled,
)
from broker.processes.launcher import Launcher
from broker.processes.lines import LogEvent
from broker.processes.system import System, SystemMemory
from broker.sockets import PollSet, Router
from broker.wire.clock import Clock

logger = logging.getLogger(__name__)

# Messages taken from one socket before the others get their turn.
_BURST = 256
_TURN_SECONDS = 1.0


class Policy(Protocol):
    """Decides. Times are monotonic seconds. then: the event that will be handled next, if that is known."""

    def handle(self, event: Event, now: float, then: Event | None = None) -> list[Action]: ...

    def next_deadline(self) -> float | None: ...


class Performs(Protocol):
    """Does what was decided. is_finished: nothing is left to do."""

    is_finished: bool

    def perform(self, action: Action) -> None: ...


class FromWorkers(Protocol):
    """Worker messages as events."""

    router: Router

    def receive(self, limit: int) -> Iterator[Event]: ...


class FromGateways(Protocol):
    """Gateway messages, whose events go to the inbox. keep_time is called once a second."""

    router: Router

    def receive(self, limit: int) -> None: ...

    def keep_time(self, now: float) -> None: ...


class Listens(Protocol):
    """Gets what processes say. flush is called after that, and about once a second."""

    def said(self, worker_id: str, said: LogEvent) -> None: ...

    def exited(self, worker_id: str, how: str) -> None: ...

    def flush(self) -> None: ...


class Stop(Protocol):
    """Readable when the broker must end: call `take`."""

    def fileno(self) -> int: ...

    def take(self) -> None: ...


class Loop:
    """inbox: events of all kinds, handled in order. stop: readable when the broker must end; must_end: the same, asked
    once a second."""

    def __init__(
        self,
        *,
        inbox: deque[Event],
        policy: Policy,
        performer: Performs,
        workers: FromWorkers,
        gateways: FromGateways,
        launcher: Launcher,
        logs: Listens,
        system: System,
        stop: Stop,
        must_end: Callable[[], bool],
        clock: Clock,
        sample_seconds: float,
    ) -> None:
        self._inbox = inbox
        self._policy = policy
        self._performer = performer
        self._workers = workers
        self._gateways = gateways
        self._launcher = launcher
        self._logs = logs
        self._system = system
        self._system_memory: SystemMemory | None = None
        self._stop = stop
        self._must_end = must_end
        self._is_ending = False
        self._clock = clock
        self._sample_seconds = sample_seconds
        self._next_turn = self._next_sample = clock.now()
        self._polled_outputs: dict[int, str] | None = None

    def run(self) -> None:
        """Serve until `stop` is readable and nothing is left to do."""
        self._step(TimePassed())
        while not self._performer.is_finished:
            self._wait()
            self._take_inbox()

    def _take_inbox(self) -> None:
        inbox = self._inbox
        while inbox:
            event = inbox.popleft()
            self._step(event, inbox[0] if inbox else None)

    def _step(self, event: Event, then: Event | None = None) -> None:
        for action in self._policy.handle(event, self._clock.now(), then):
            self._performer.perform(action)

    # ---- waiting --------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Sleep until something happens or a deadline comes; put what happened into the inbox."""
        outputs = self._launcher.output_fds
        if outputs != self._polled_outputs:  # seldom, and a poll set takes as long to make as to ask
            self._polled_outputs, self._poll_set = outputs, self._make_poll_set(outputs)
        deadline = self._policy.next_deadline()
        due = min(self._next_turn, self._next_sample, math.inf if deadline is None else deadline)
        self._poll_set.wait(due - self._clock.now())
        if self._clock.now() >= due:
            self._keep_time()
        if pause := self._clock.take_pause():
            logger.info("nothing ran here for %.0f s; no timeout counts that time", pause)
            self._inbox.append(PauseEnded())

    def _make_poll_set(self, outputs: dict[int, str]) -> PollSet:
        """Everything that can happen, in the order in which it is taken. outputs: descriptor -> worker id."""
        return PollSet(
            {
                self._workers.router: partial(self._take_worker_messages, _BURST),
                **{fd: partial(self._take_output, worker_id) for fd, worker_id in outputs.items()},
                self._launcher.exits_fd: self._take_exits,
                self._gateways.router: partial(self._gateways.receive, _BURST),
                self._stop.fileno(): self._take_stop,
            }
        )

    def _take_worker_messages(self, limit: int) -> None:
        for event in self._workers.receive(limit):
            self._step(event)

    def _take_output(self, worker_id: str) -> None:
        self._launcher.read_output(worker_id)
        self._take_lines()

    def _take_lines(self) -> None:
        for worker_id, said in self._launcher.take_lines():
            self._logs.said(worker_id, said)
        self._logs.flush()

    def _take_exits(self) -> None:
        # What a worker sent before it died counts: a request it has answered must not be replayed.
        # Bounded, because a worker that floods this socket must not delay the exits of others.
        self._take_worker_messages(8 * _BURST)
        exits = self._launcher.take_exits()
        self._take_lines()
        for worker_id, exit_ in exits:
            how = exit_.describe()
            logger.info("%s exited: %s", worker_id, how, extra={"worker": worker_id})
            self._logs.exited(worker_id, how)
            self._inbox.append(WorkerExited(worker_id, exit_))

    def _take_stop(self) -> None:
        self._stop.take()
        self._inbox.append(ShutdownRequested())

    def _keep_time(self) -> None:
        """Deadlines that have come. Everything heard in this turn is in the inbox before them: after a pause of the
        whole machine, a worker whose messages are already here must not be taken for dead."""
        now = self._clock.now()
        if now >= self._next_sample:
            self._next_sample = now + self._sample_seconds
            self._take_samples()
        if now >= self._next_turn:
            self._next_turn = now + _TURN_SECONDS
            self._gateways.keep_time(now)
            self._take_lines()
            if not self._is_ending and self._must_end():
                self._is_ending = True
                self._inbox.append(ShutdownRequested())
        deadline = self._policy.next_deadline()
        if deadline is not None and now >= deadline:
            self._inbox.append(TimePassed())

    def _take_samples(self) -> None:
        """The footprints of workers come first: else memory that they just got would count as missing."""
        memory = self._system.sample()
        for worker_id in self._launcher.worker_ids:
            sample = self._launcher.sample(worker_id)
            if sample is not None:
                event = WorkerSampled(worker_id, sample.rss_bytes, sample.footprint_bytes, sample.cpu_percent)
                self._inbox.append(event)
        if memory != self._system_memory:
            self._system_memory = memory
            self._inbox.append(SystemSampled(memory.pressure, memory.wired_bytes))
