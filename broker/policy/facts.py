"""What the pool knows, and what follows from it: questions only, nothing here changes anything.

Sizes, occupants and every point in time at which something becomes due are derived here from the records. The pool asks
the same question to act (`now >= due`) and to say when to be woken, so the two can never disagree.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from broker.policy import restart
from broker.policy.actions import Action, AnnounceMemory
from broker.policy.budget import Budget, budget_of
from broker.policy.eviction import Hold, Occupant
from broker.policy.limits import PoolLimits
from broker.policy.noted import Noted
from broker.policy.pressure import (
    FIRST_LOAD_PAUSE_SECONDS,
    LOAD_PAUSE_SECONDS,
    RETURN_SECONDS,
    Pressure,
    keep_seconds,
    missing_bytes,
)
from broker.policy.records import Instance, Model, PendingRequest, Phase, Worker
from broker.policy.specs import ModelSpec
from broker.policy.suspects import careful_until, holds_back

# The spare's imports take a core for a second; a model that has just become ready answers its first clients before.
SPARE_DELAY_SECONDS = 0.5
SAMPLES_OVER_LIMIT = 3

# The margin over its share, while all models together take more than the budget: a quarter, and this much.
TIGHT_DIVISOR = 4
TIGHT_BYTES = 512 << 20

# A worker has so long to answer SHRINK, and to use what it was granted; if it gives nothing back, it is asked again
# after a while.
SHRINK_SECONDS = 5.0
ASK_AGAIN_SECONDS = 30.0
# About thirty years. A model that may stay idle for so long never leaves.
ALWAYS_SECONDS = 1e9
# A process that should be replaced and cannot be, or again and again, is left alone for so long.
RECYCLE_PAUSE_SECONDS = 60.0
FOREVER = float("inf")
LONG_AGO = float("-inf")


class KillDue(NamedTuple):
    """When a process will be killed, and why. after: seconds without a sign of life, None for another reason.
    for_memory: it takes too much."""

    due: float
    why: str
    after: float | None = None
    for_memory: bool = False

    @property
    def reason(self) -> str:
        """For people. Most ends never come, so it is not made before."""
        return self.why if self.after is None else f"{self.why} for {self.after:g} s"

    @property
    def has_stalled(self) -> bool:
        """Whether it makes no progress."""
        return self.after is not None


@dataclass(slots=True)
class Facts:
    """All mutable state of the pool. run_id: makes worker ids unique among all starts of the broker.

    actions: what the event that is being handled has led to so far. noted: what metrics has not been told yet. order,
    started: the last numbers given to a request and to a worker. claimed: instances that get no new work because the
    head of the queue needs their room. claim_order: the place of that head. measured: what models took when they were
    loaded last, by the fingerprints of their files. wired_bytes: of the whole system. buried_at: when a model's last
    process exited.
    """

    limits: PoolLimits
    run_id: str
    models: dict[str, Model] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    requests: dict[bytes, PendingRequest] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    noted: list[Noted] = field(default_factory=list)
    order: int = 0
    started: int = 0
    claimed: tuple[str, ...] = ()
    claim_order: int = 0
    measured: dict[str, int] = field(default_factory=dict)
    working_set_bytes: int | None = None
    pressure: Pressure = Pressure.NORMAL
    pressure_since: float = 0.0
    wired_bytes: int | None = None
    buried_at: float = LONG_AGO
    announced: AnnounceMemory | None = None
    spare_deaths: int = 0
    spare_restart_at: float = 0.0
    stopping: bool = False

    def next_order(self) -> int:
        self.order += 1
        return self.order

    # ---- models, instances, processes -----------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Requests that wait in the broker, in no worker yet."""
        return sum(len(m.waiting) for m in self.models.values())

    @property
    def serving(self) -> list[tuple[Model, Instance]]:
        """Every model that has an instance, with it."""
        return [(m, m.serving) for m in self.models.values() if m.serving is not None]

    @property
    def instances(self) -> list[tuple[Model, Instance]]:
        """Every instance, with its model: also those that come and go beside one that serves."""
        models = self.models.values()
        return [(m, i) for m in models for i in (m.serving, m.incoming, m.outgoing) if i is not None]

    @property
    def spares(self) -> list[Worker]:
        """Those that are furthest with their imports first."""
        return sorted((w for w in self.workers.values() if w.is_spare), key=lambda w: (not w.imported, w.started_at))

    def load_of(self, model: Model) -> int:
        """Requests that wait or run."""
        return len(model.waiting) + sum(len(instance.in_flight) for instance in model.instances)

    def serves_at_once(self, model: Model) -> bool:
        instance = model.serving
        ready = instance is not None and instance.phase is Phase.READY and instance.name not in self.claimed
        return ready and not model.leaves

    # ---- memory ---------------------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        return budget_of(self.limits.machine, self.working_set_bytes)

    @property
    def asks_metal(self) -> bool:
        """Whether a spare is needed to say what Metal may use."""
        machine = self.limits.machine
        decides = machine.has_metal and (machine.wires or not machine.setting_bytes)
        return decides and self.working_set_bytes is None and not restart.gives_up(self.spare_deaths)

    @property
    def missing_bytes(self) -> int:
        if self.wired_bytes is None:
            return 0
        ours = sum(worker.footprint_bytes for worker in self.workers.values())
        return missing_bytes(self.wired_bytes, ours, self.limits.machine.reserve_bytes)

    def returning_bytes(self, now: float) -> int:
        """What is missing, as long as it may still come back by itself."""
        return self.missing_bytes if now < self.buried_at + RETURN_SECONDS else 0

    @property
    def room_bytes(self) -> int:
        """What all models together may take now."""
        return self.budget.size_bytes - self.missing_bytes

    @property
    def ever_bytes(self) -> int:
        """What they may take once all that is missing has returned and Metal has been asked."""
        return self.budget.most_bytes if self.asks_metal else self.budget.size_bytes

    @property
    def free_bytes(self) -> int:
        """Negative while models take more than they may."""
        return self.room_bytes - sum(instance.reserved_bytes for _, instance in self.instances)

    @property
    def memory(self) -> AnnounceMemory:
        """What people should know of it."""
        budget = self.budget
        known = (self.working_set_bytes, self.pressure, self.missing_bytes)
        return AnnounceMemory(budget.size_bytes, budget.origin, *known)

    def estimate(self, spec: ModelSpec) -> int:
        return int(spec.weight_bytes * self.limits.estimate_factor)

    def share_of(self, model: Model, spec: ModelSpec) -> int:
        """The share of each rank when it is loaded: what was measured the last time, else an estimate from the files;
        and a block to work with."""
        limits = self.limits
        need = self.measured.get(spec.fingerprint) or model.measured_bytes or self.estimate(spec)
        return limits.blocks(-(-need // spec.ranks)) + limits.block_bytes

    def most_of(self, instance: Instance) -> int:
        """The largest share that a process of this instance can ever get."""
        return self.limits.whole_blocks(min(instance.spec.memory_limit_bytes or self.ever_bytes, self.ever_bytes))

    def kill_limit(self, worker: Worker) -> int:
        """Bytes past which this process is killed: its share and a margin, for what no share can foresee. The margin is
        small while all models together take more than the budget. 0 for none."""
        if worker.instance is None:
            return 0
        taken = sum(w.footprint_bytes for w in self.workers.values() if w.instance is not None)
        return self._kill_limit(worker, worker.instance, is_tight=taken > self.budget.size_bytes)

    def _kill_limit(self, worker: Worker, instance: Instance, *, is_tight: bool) -> int:
        spec, limits, budget = instance.spec, self.limits, self.budget.size_bytes
        if spec.memory_limit_bytes:
            return min(spec.memory_limit_bytes, budget)
        share = worker.due_bytes
        if is_tight:
            limit = share + share // TIGHT_DIVISOR + min(TIGHT_BYTES, limits.memory_limit_floor_bytes)
        else:
            limit = int(share * limits.memory_limit_factor) + limits.memory_limit_floor_bytes
        return min(limit, budget)

    def takes_too_much(self, worker: Worker) -> bool:
        """Whether to kill this process for the memory that it takes. Where all models together take too much, only the
        one furthest over its share dies, and only if earlier kills do not free enough."""
        instance, taken = worker.instance, worker.footprint_bytes
        if instance is None or worker.samples_over_limit < SAMPLES_OVER_LIMIT or taken <= self.kill_limit(worker):
            return False
        if taken > self._kill_limit(worker, instance, is_tight=False):
            return True
        others = [w for w in self.workers.values() if w.instance is not None and w.instance is not instance]
        too_much = [w.footprint_bytes - w.due_bytes for w in others if w.samples_over_limit]
        return not any(w.killed for w in others) and taken - worker.due_bytes >= max(too_much, default=0)

    def why_never(self, model: Model, need: int) -> str:
        pinned = sorted(m.model_id for m in self.models.values() if m.pinned and m.serving is not None)
        limits = self.limits
        return (
            f"{model.model_id} needs {need / 2**30:.2f} GiB and one place; the limits are "
            f"{self.ever_bytes / 2**30:.2f} GiB and {limits.max_models} models"
            + (f", and these are pinned: {', '.join(pinned)}" if pinned else "")
        )

    def occupants(self, order: int, now: float, asking: Model | None = None) -> list[Occupant]:
        """Everything that holds memory, as seen by what has the place `order` in the queue: requests before it will be
        dispatched first, so they make an instance busy, and used now, already. asking: the place of this model is its
        own, and instances of one model take one place together."""
        occupants = []
        for model, instance in self.instances:
            is_served = instance is model.serving
            older_wait = is_served and bool(model.waiting) and model.waiting[0].order < order
            if instance.phase is Phase.STOPPING or model.leaves or instance is model.outgoing:
                hold = Hold.LEAVING
            elif model.pinned and is_served:
                hold = Hold.PINNED
            elif instance.phase is Phase.LOADING or instance.busy or older_wait or model.incoming is not None:
                hold = Hold.BUSY
            else:
                hold = Hold.IDLE
            last_used = now if older_wait and instance.phase is Phase.READY else instance.last_used
            least, idle = (sum(getattr(w, n) for w in instance.living) for n in ("least_bytes", "idle_bytes"))
            places = int(instance is model.instances[0] and model is not asking)
            occupants.append(Occupant(instance.name, instance.reserved_bytes, hold, last_used, least, idle, places))
        return occupants

    def loads_from(self, now: float) -> tuple[float, str]:
        """From when on loads may start, and what they wait for until then."""
        if self.missing_bytes and now < self.buried_at + RETURN_SECONDS:
            return self.buried_at + RETURN_SECONDS, "waiting for the memory of the process before it"
        if self.pressure is not Pressure.CRITICAL:
            return LONG_AGO, ""
        started = [instance.started_at for _, instance in self.instances]
        pause = LOAD_PAUSE_SECONDS if started else FIRST_LOAD_PAUSE_SECONDS
        return max([self.pressure_since, *started]) + pause, "the system is short of memory"

    def waits_for(self, now: float) -> str:
        """What queued models wait for."""
        due, why = self.loads_from(now)
        return why if now < due else "waiting for room"

    # ---- when something becomes due -------------------------------------------------------------------------------

    def ends(self, worker: Worker) -> Iterator[KillDue]:
        """When this process will be killed unless it shows a sign of life, and why."""
        limits, instance = self.limits, worker.instance
        if worker.killed:
            return
        if worker.stop_deadline is not None:
            yield KillDue(worker.stop_deadline, "did not exit when asked")
            return
        if self.takes_too_much(worker):
            taken, limit = worker.footprint_bytes / 2**30, self.kill_limit(worker) / 2**30
            yield KillDue(0.0, f"memory_limit: took {taken:.2f} GiB, limit {limit:.2f} GiB", for_memory=True)
        if worker.connected:
            yield KillDue(worker.last_seen + limits.heartbeat_timeout, "no heartbeat", limits.heartbeat_timeout)
        if not worker.connected or (instance is not None and worker.measured_bytes is None):
            yield KillDue(worker.progressed_at + limits.load_stall_timeout, "load stalled", limits.load_stall_timeout)
        elif instance is not None and instance.busy:
            yield KillDue(worker.progressed_at + limits.stall_timeout, "hung: no progress", limits.stall_timeout)

    def expiry(self, model: Model) -> float:
        """When the longest waiting request of this model gives up. A load in progress is waited for, and so is the turn
        of a request that is held back for the sake of others (suspects.py)."""
        if model.serving is not None and model.serving.phase is Phase.LOADING:
            return FOREVER
        if model.serving is not None and model.drain is None and holds_back(model, model.serving):
            return FOREVER
        return model.waiting[0].waiting_since + self.limits.queue_timeout

    def idle_until(self, model: Model) -> float:
        """When an idle unpinned model leaves; never while it has anything to do."""
        instance = model.serving
        if instance is None or instance.phase is not Phase.READY or instance.busy:
            return FOREVER
        is_leaving = model.drain is not None or (model.reload is not None and model.reload.holds)
        if model.pinned or model.waiting or is_leaving:
            return FOREVER
        keep = None if instance.keep_alive is None else instance.keep_alive.seconds
        if keep is None:
            keep = instance.spec.keep_alive_seconds
        keep = keep_seconds(self.limits.keep_alive if keep is None else keep, self.pressure)
        return instance.last_completed + keep if 0 <= keep < ALWAYS_SECONDS else FOREVER

    def recycles_at(self, model: Model, now: float) -> float:
        """When another process takes the place of the one that serves, because it has served enough or grown too
        large; where there is no room for both, it must be idle."""
        serving = model.serving
        if serving is None or not serving.is_worn or len(model.instances) > 1:
            return FOREVER
        if model.drain is not None or model.reload is not None:
            return FOREVER
        if serving.busy and self.share_of(model, serving.spec) * serving.spec.ranks > self.free_bytes:
            return FOREVER
        return max(model.recycled_at + RECYCLE_PAUSE_SECONDS, self.loads_from(now)[0])

    def spare_due(self) -> float:
        """When to start a spare: after loads, so that it never competes with one for the processor."""
        wanted = max(self.limits.warm_spares, self.asks_metal)
        if sum(worker.is_spare for worker in self.workers.values()) >= wanted or restart.gives_up(self.spare_deaths):
            return FOREVER
        instances = [instance for _, instance in self.instances]
        if any(instance.phase is Phase.LOADING for instance in instances):
            return FOREVER
        ready = [i.ready_at + SPARE_DELAY_SECONDS for i in instances if i.ready_at is not None]
        return max([self.spare_restart_at, *ready])

    def deadlines(self, now: float) -> Iterator[float]:
        for worker in self.workers.values():
            for coming in self.ends(worker):
                yield coming.due
        if self.stopping:
            return
        if self.missing_bytes and (returned := self.buried_at + RETURN_SECONDS) > now:
            yield returned
        for worker in self.workers.values():
            if worker.lease.asked_at is not None:
                yield worker.lease.asked_at + SHRINK_SECONDS
            if worker.lease.kept_until:
                yield worker.lease.kept_until
        for model in self.models.values():
            if model.serving is not None:
                if (idle_until := self.idle_until(model)) < FOREVER:
                    yield idle_until
                if now < (recycles_at := self.recycles_at(model, now)) < FOREVER:
                    yield recycles_at
            if model.drain is not None:
                yield model.drain.deadline
            if model.memory_part and (until := careful_until(model)) < FOREVER:
                yield until
            if model.waiting and (expiry := self.expiry(model)) < FOREVER:
                yield expiry
            if model.serving is None and model.restart_at > now:
                yield model.restart_at
            if model.wants_processes and (loads_from := self.loads_from(now)[0]) > now:
                yield loads_from
        if (spare_due := self.spare_due()) < FOREVER:
            yield spare_due
