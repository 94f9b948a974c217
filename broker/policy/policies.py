"""The pure policies as one: which of them sees an event, and all their answers. No clock, no I/O."""

from itertools import chain
from typing import Any

from broker.policy.actions import Action, ForwardOutputs
from broker.policy.downloads import Downloads
from broker.policy.events import Event, OutputsArrived, PrefillWanted
from broker.policy.flow import Flow
from broker.policy.flow_events import FlowEvent
from broker.policy.metrics import Metrics
from broker.policy.pool import Pool
from broker.policy.prefill_turns import PrefillTurns
from broker.policy.snapshot import status
from broker.policy.specs import ModelSpec, Shown
from broker.wire.frames import gateway_of


class Policies:
    """`handle(event, now) -> actions` and `next_deadline()`, as each of the policies has them."""

    def __init__(self, pool: Pool, downloads: Downloads, flow: Flow) -> None:
        self._pool = pool
        self._downloads = downloads
        self._flow = flow
        self._prefill = PrefillTurns()
        self._metrics = Metrics()

    def handle(self, event: Event, now: float, then: Event | None = None) -> list[Action]:
        """What to do now that `event` has happened. now: seconds, monotonic. then: what will be handled next, if that
        is known."""
        if isinstance(event, OutputsArrived):
            return self._outputs_arrived(event, now)
        if isinstance(event, FlowEvent):
            return [*self._flow.handle(event, now)]
        if isinstance(event, PrefillWanted):
            return [*self._prefill.handle(event, now)]
        actions = [] if self._downloads.takes(event) else self._pool.handle(event, now, then)
        others = (policy.handle(event, now) for policy in (self._downloads, self._flow, self._prefill))
        self._metrics.handle(event, now)
        self._count(now)
        return [*actions, *chain.from_iterable(others)]

    def _count(self, now: float) -> None:
        """What the pool has done. First outputs stay with it until the next event: no token waits for a count."""
        for noted in self._pool.take_noted():
            self._metrics.handle(noted, now)

    def _outputs_arrived(self, event: OutputsArrived, now: float) -> list[Action]:
        """The hot path: nearly every event is one of these, and no download has any."""
        actions = self._pool.handle(event, now)
        if isinstance(actions[0], ForwardOutputs):
            read = self._flow.sent(gateway_of(event.entries[0][0]), event.worker_id, now)
        else:
            read = self._flow.dropped(event.worker_id)
        return [*actions, *read] if read else actions

    def next_deadline(self) -> float | None:
        """When to call `handle(TimePassed(), now)` at the latest; None: only when something happens."""
        policies = (self._pool, self._downloads, self._flow, self._prefill)
        deadlines = [policy.next_deadline() for policy in policies]
        return min([d for d in deadlines if d is not None], default=None)

    @property
    def is_busy(self) -> bool:
        """Whether anybody waits for anything: an answer, a load, a download."""
        return self._pool.is_busy or bool(self._downloads.all)

    def running(self, model_id: str) -> ModelSpec | None:
        """The model as it was when its process was started, if it has one that goes on."""
        return self._pool.running(model_id)

    def pinned(self) -> set[str]:
        """The ids of the models that are pinned."""
        return {model.model_id for model in self._pool.models if model.pinned}

    def announced(self) -> dict[str, Shown]:
        """Model id -> what people see of it, as last announced."""
        states = {model.model_id: model.announced for model in self._pool.models}
        return states | {d.model_id: d.shown for d in self._downloads.all}

    def status(self, now: float, started_at: float, wall_offset: float) -> dict[str, Any]:
        """What the policies know of the FINAL of STATUS, see snapshot.py and metrics.py."""
        self._count(now)
        whole = status(self._pool, now, started_at, wall_offset, self._downloads.all)
        models = [model | self._metrics.of(model["model_id"], now) for model in whole["models"]]
        return whole | {"models": models}

    @property
    def working_set_bytes(self) -> int | None:
        """What Metal may use on this machine, as far as that is known."""
        return self._pool.memory.working_set_bytes
