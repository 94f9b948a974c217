"""The pure policies as one: which of them sees an event, and what all of them say is to be done. No clock, no I/O."""

from typing import Any

from broker.policy.actions import Action
from broker.policy.downloads import Downloads
from broker.policy.events import (
    Event,
    OutputsArrived,
    WorkerExited,
    WorkerStarted,
)
from broker.policy.flow import Flow
from broker.policy.pool import Pool
from broker.policy.snapshot import status
from broker.policy.specs import ModelSpec, Shown


class Policies:
    """`handle(event, now) -> actions` and `next_deadline()`, as each of the policies has them."""

    def __init__(self, pool: Pool, downloads: Downloads, flow: Flow) -> None:
        self._pool = pool
        self._downloads = downloads
        self._flow = flow

    def handle(self, event: Event, now: float) -> list[Action]:
        """What to do now that `event` has happened. now: seconds, monotonic."""
        if isinstance(event, OutputsArrived):  # nearly every event is one of these, and no download has any
            return self._pool.handle(event, now)
        if isinstance(event, WorkerStarted):
            self._flow.started(event.worker_id)
        elif isinstance(event, WorkerExited):
            self._flow.exited(event.worker_id)
        actions = [] if self._downloads.takes(event) else self._pool.handle(event, now)
        return [*actions, *self._downloads.handle(event, now)]

    def next_deadline(self) -> float | None:
        """When to call `handle(TimePassed(), now)` at the latest; None: only when something happens."""
        deadlines = (self._pool.next_deadline(), self._downloads.next_deadline())
        return min((d for d in deadlines if d is not None), default=None)

    def running(self, model_id: str) -> ModelSpec | None:
        """The model as it was when its process was started, if it has one that goes on."""
        return self._pool.running(model_id)

    def announced(self) -> dict[str, Shown]:
        """Model id -> what people see of it, as last announced."""
        states = {model.model_id: model.announced for model in self._pool.models}
        return states | {d.model_id: d.shown for d in self._downloads.all}

    def status(self, now: float, started_at: float, wall_offset: float) -> dict[str, Any]:
        """The FINAL of STATUS, see snapshot.py."""
        return status(self._pool, now, started_at, wall_offset, self._downloads.all)
