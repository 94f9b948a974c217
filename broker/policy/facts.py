"""What the pool knows, and what follows from it: questions only, nothing here changes anything.

Sizes, occupants and every point in time at which something becomes due are derived here from the records. The pool asks
the same question to act (`now >= due`) and to say when to be woken, so the two can never disagree.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from broker.policy import restart
from broker.policy.eviction import Hold, Occupant
from broker.policy.records import Model, PendingRequest, Phase, PoolLimits, Worker
from broker.policy.specs import ModelSpec

# The spare's imports take a core for a second; a model that has just become ready answers its first clients before.
SPARE_DELAY_SECONDS = 0.5
FOREVER = float("inf")


@dataclass(slots=True)
class Facts:
    """All mutable state of the pool. Changed by pool.py alone."""

    limits: PoolLimits
    models: dict[str, Model] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    requests: dict[bytes, PendingRequest] = field(default_factory=dict)
    spare_deaths: int = 0
    spare_restart_at: float = 0.0
    stopping: bool = False

    @property
    def queued(self) -> int:
        """Requests that wait in the broker, in no worker yet."""
        return sum(len(m.waiting) for m in self.models.values())

    def model_of(self, worker: Worker) -> Model:
        assert worker.model_id is not None
        return self.models[worker.model_id]

    def worker_of(self, model: Model | None) -> Worker | None:
        return self.workers[model.worker_id] if model is not None and model.worker_id is not None else None

    def spare(self) -> Worker | None:
        """The spare that is furthest with its imports."""
        spares = [w for w in self.workers.values() if w.phase is Phase.WAITING]
        return max(spares, key=lambda w: (w.imported, -w.started_at), default=None)

    def load_of(self, model: Model) -> int:
        worker = self.worker_of(model)
        return len(model.waiting) + (len(worker.in_flight) if worker is not None else 0)

    def estimate(self, spec: ModelSpec) -> int:
        return int(spec.weight_bytes * self.limits.estimate_factor)

    def need_of(self, model: Model) -> int:
        """Bytes to reserve: measured the last time it was loaded, else estimated from its files."""
        assert model.spec is not None
        return self.estimate(model.spec) if model.measured_bytes is None else model.measured_bytes

    def why_never(self, model: Model, need: int) -> str:
        pinned = sorted(m.model_id for m in self.models.values() if m.pinned and m.worker_id is not None)
        limits = self.limits
        return (
            f"{model.model_id} needs {need / 2**30:.2f} GiB and one place; the limits are "
            f"{limits.max_memory_bytes / 2**30:.2f} GiB and {limits.max_models} models"
            + (f", and these are pinned: {', '.join(pinned)}" if pinned else "")
        )

    def occupants(self, order: int, now: float) -> list[Occupant]:
        """Everything that holds memory, as seen by a model whose place in the queue is `order`: requests before it
        will be dispatched first, so they make a worker busy, and used now, already."""
        occupants = []
        for worker in self.workers.values():
            if worker.model_id is None:
                continue
            model = self.model_of(worker)
            older_wait = bool(model.waiting) and model.waiting[0].order < order
            if worker.phase is Phase.STOPPING or model.drain is not None:
                hold = Hold.LEAVING
            elif model.pinned:
                hold = Hold.PINNED
            elif worker.phase is Phase.LOADING or worker.busy or older_wait:
                hold = Hold.BUSY
            else:
                hold = Hold.IDLE
            last_used = now if older_wait and worker.phase is Phase.READY else worker.last_used
            occupants.append(Occupant(worker.worker_id, worker.reserved_bytes, hold, last_used))
        return occupants

    def ends(self, worker: Worker) -> Iterator[tuple[float, str]]:
        """When this worker will be killed unless it shows a sign of life, and why."""
        limits = self.limits
        if worker.phase is Phase.STOPPING:
            if not worker.killed and worker.stop_deadline is not None:
                yield worker.stop_deadline, "did not exit when asked"
            return
        if worker.connected:
            yield worker.last_seen + limits.heartbeat_timeout, f"no heartbeat for {limits.heartbeat_timeout:g} s"
        if worker.phase is Phase.LOADING or not worker.connected:
            yield worker.progressed_at + limits.load_stall_timeout, f"load stalled for {limits.load_stall_timeout:g} s"
        elif worker.busy:
            yield worker.progressed_at + limits.stall_timeout, f"hung: no progress for {limits.stall_timeout:g} s"

    def expiry(self, model: Model) -> float:
        """When the longest waiting request of this model gives up; a load in progress is waited for."""
        worker = self.worker_of(model)
        if worker is not None and worker.phase is Phase.LOADING:
            return FOREVER
        return model.waiting[0].waiting_since + self.limits.queue_timeout

    def idle_until(self, worker: Worker) -> float:
        """When an idle unpinned model leaves; never while it has anything to do."""
        if worker.phase is not Phase.READY or worker.busy:
            return FOREVER
        model = self.model_of(worker)
        assert model.spec is not None
        keep = self.limits.keep_alive if model.spec.keep_alive_seconds is None else model.spec.keep_alive_seconds
        if model.pinned or model.waiting or model.drain is not None or keep < 0:
            return FOREVER
        return worker.last_completed + keep

    def spare_due(self) -> float:
        """When to start a spare: after loads, so that it never competes with one for the processor."""
        spares = sum(w.phase is Phase.WAITING for w in self.workers.values())
        if spares >= self.limits.warm_spares or restart.gives_up(self.spare_deaths):
            return FOREVER
        if any(w.phase is Phase.LOADING for w in self.workers.values()):
            return FOREVER
        ready = [w.ready_at + SPARE_DELAY_SECONDS for w in self.workers.values() if w.ready_at is not None]
        return max([self.spare_restart_at, *ready])

    def deadlines(self, now: float) -> Iterator[float]:
        for worker in self.workers.values():
            for deadline, _ in self.ends(worker):
                yield deadline
        if self.stopping:
            return
        for worker in self.workers.values():
            if (idle_until := self.idle_until(worker)) < FOREVER:
                yield idle_until
        for model in self.models.values():
            if model.drain is not None:
                yield model.drain.deadline
            if model.waiting and (expiry := self.expiry(model)) < FOREVER:
                yield expiry
            if model.worker_id is None and model.restart_at > now:
                yield model.restart_at
        if (spare_due := self.spare_due()) < FOREVER:
            yield spare_due
