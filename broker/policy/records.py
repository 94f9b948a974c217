"""What the pool remembers: models, worker processes, requests. Only facts; whatever can be derived from them is a
property. The pool alone changes them.

Times are seconds of the caller's monotonic clock (`now`), never read here.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from broker.policy.specs import UNLOADED, Exit, ModelSpec, Shown
from broker.wire.states import State


@dataclass(slots=True, frozen=True)
class PoolLimits:
    """The settings that the pool obeys. Bytes and seconds.

    estimate_factor: bytes a model needs per byte of its weight files, before it has been measured.
    memory_limit_factor: a worker may take this many times its estimate, plus memory_limit_floor_bytes, before it is
    killed, where the settings name no limit for its model.
    """

    max_models: int
    max_memory_bytes: int
    max_queue: int = 512
    max_requests_per_model: int = 256
    queue_timeout: float = 300.0
    drain_timeout: float = 30.0
    stop_grace: float = 2.0
    keep_alive: float = 1800.0
    heartbeat_timeout: float = 10.0
    stall_timeout: float = 120.0
    load_stall_timeout: float = 120.0
    estimate_factor: float = 1.25
    memory_limit_factor: float = 3.0
    memory_limit_floor_bytes: int = 2 << 30
    warm_spares: int = 1


class Phase(Enum):
    """The life of a worker process. A warm spare is WAITING until it gets a model."""

    WAITING = "waiting"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(slots=True)
class PendingRequest:
    """One inference request that has not ended. order: place in the queue; deaths: workers that died
    under it. waiting_since: the queue timeout counts from here; a load in progress stops its clock."""

    request_id: bytes
    model_id: str
    payload: bytes
    order: int
    waiting_since: float
    deaths: int = 0
    worker_id: str | None = None
    has_output: bool = False
    cancelled: bool = False


@dataclass(slots=True)
class AdminWait:
    """An administrative request that is answered later. order as for requests."""

    request_id: bytes
    order: int
    deaths: int = 0


@dataclass(slots=True)
class Drain:
    """An unload in progress: requests older than `order` are still served, until `deadline`."""

    order: int
    deadline: float
    force: bool


@dataclass(slots=True)
class Worker:
    """One process. model_id None: the warm spare. reserved_bytes: what counts against the budget."""

    worker_id: str
    model_id: str | None
    phase: Phase
    started_at: float
    pid: int | None = None
    connected: bool = False
    imported: bool = False
    stage: str | None = None
    fraction: float | None = None
    ready_at: float | None = None
    reserved_bytes: int = 0
    context_length: int = 0
    memory_limit_bytes: int = 0
    samples_over_limit: int = 0
    in_flight: dict[bytes, PendingRequest] = field(default_factory=dict)
    last_seen: float = 0.0
    progressed_at: float = 0.0
    steps: int = 0
    last_dispatched: float = 0.0
    last_completed: float = 0.0
    stop_deadline: float | None = None
    killed: bool = False
    end_reason: str | None = None  # why we end it; None when it ends by itself
    end_expected: bool = False  # somebody asked for this end: no death in the sense of the restart policy
    rss_bytes: int = 0
    footprint_bytes: int = 0
    cpu_percent: float = 0.0
    mlx_active_bytes: int = 0
    mlx_cache_bytes: int = 0
    mlx_peak_bytes: int = 0

    @property
    def busy(self) -> bool:
        return bool(self.in_flight)

    @property
    def last_used(self) -> float:
        """Orders victims: a busy worker by its last new work (which stands still once it gets none), an idle one by
        its last completion."""
        return self.last_dispatched if self.busy else max(self.last_completed, self.ready_at or self.started_at)


@dataclass(slots=True)
class Model:
    """One model that somebody has asked for. worker_id: its process, until that has exited."""

    model_id: str
    spec: ModelSpec | None = None
    pinned: bool = False
    pin_order: int = 0
    worker_id: str | None = None
    waiting: deque[PendingRequest] = field(default_factory=deque)
    loads: list[AdminWait] = field(default_factory=list)
    unloads: list[AdminWait] = field(default_factory=list)
    kills: list[AdminWait] = field(default_factory=list)
    pinned_by_load: bool = False
    drain: Drain | None = None
    deaths: int = 0
    restarts: int = 0
    restart_at: float = 0.0
    failure: str | None = None
    last_exit: Exit | None = None
    last_reason: str | None = None
    measured_bytes: int | None = None
    last_used: float | None = None
    since: float = 0.0
    announced: Shown = UNLOADED

    @property
    def wanted(self) -> bool:
        """Whether somebody is waiting for this model, or it is to be kept loaded."""
        return bool(self.waiting or self.loads or self.pinned) and self.failure is None

    @property
    def order(self) -> int:
        """Place in the queue of models: that of whoever has waited longest."""
        orders = [w.order for w in self.loads]
        if self.waiting:
            orders.append(self.waiting[0].order)
        if self.pinned:
            orders.append(self.pin_order)
        return min(orders)


def state_of(model: Model, worker: Worker | None, now: float) -> tuple[State, str | None]:
    """The state shown to people and, where there is one, its reason."""
    if worker is not None:
        if worker.phase is Phase.STOPPING:
            return State.STOPPING, worker.end_reason
        if worker.phase is Phase.READY:
            return (State.DRAINING, "unload") if model.drain else (State.READY, None)
        return State.LOADING, model.last_reason if model.deaths else None
    if model.failure is not None:
        return State.FAILED, model.failure
    if model.restart_at > now:
        return State.COOLDOWN, model.last_reason
    if model.wanted:
        return State.QUEUED, "waiting for room"
    return State.UNLOADED, model.last_reason
