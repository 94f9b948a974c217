"""What the pool remembers: models, their instances, processes and requests. Only facts; whatever can be derived from
them is a property. The modules that pool.py names change them.

Times are seconds of the caller's monotonic clock (`now`), never read here.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from broker.policy.actions import GrantShare, ShrinkShare
from broker.policy.specs import UNLOADED, Exit, KeepAlive, ModelSpec, Shown


class Phase(Enum):
    """The life of an instance, from the moment it gets its processes."""

    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(slots=True)
class PendingRequest:
    """One inference request that has not ended. order: place in the queue; deaths: workers that died
    under it. waiting_since: the queue timeout counts from here; a load in progress stops its clock. origin: equal for
    requests that a process takes in alike. payload, task: for the worker; payload None if there is no work, and the
    request ends when the model is ready. keep_alive: what it states. arrived_at: in the pool. is_replay: the process
    that it was sent to has ended. trace: its id in the logs.

    resume_limit: how often it may go on in another process. has_output: of the process that it is in. has_begun: of any
    one. is_lost: its process has ended in mid-answer, and the payload to go on with has not come yet. What follows is
    for suspects.py: is_suspect: its process died before its output, and why is not known; memory_part: of the memory to
    fill with such requests, what it takes, as its process was killed for its memory; 0 if none was; decode_deaths:
    processes that died in mid-answer."""

    request_id: bytes
    model_id: str
    payload: bytes | None
    origin: bytes
    order: int
    waiting_since: float
    keep_alive: KeepAlive | None = None
    task: str = "generate"
    trace: str = ""
    resume_limit: int = 0
    deaths: int = 0
    worker_id: str | None = None
    has_output: bool = False
    cancelled: bool = False
    is_replay: bool = False
    has_begun: bool = False
    is_lost: bool = False
    is_suspect: bool = False
    memory_part: float = 0.0
    decode_deaths: int = 0
    arrived_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.arrived_at = self.waiting_since

    @property
    def deaths_survived(self) -> int:
        """How many processes may die under it before its output."""
        return max(1, self.resume_limit)


@dataclass(slots=True)
class AdminWait:
    """An administrative request that is answered later. order as for requests. resume: of a kill, whether the requests
    may go on in the next process."""

    request_id: bytes
    order: int
    deaths: int = 0
    resume: bool = True


@dataclass(slots=True)
class Drain:
    """An unload in progress: requests older than `order` are still served, until `deadline`. keeps_pin: the model has
    been pinned since."""

    order: int
    deadline: float
    force: bool
    keeps_pin: bool = False


@dataclass(slots=True)
class Lease:
    """The memory of one process, from the moment it is given a model; all of it, MLX's and the rest.

    share_bytes: what it may take. wanted_bytes: what it asks for. must_bytes: how much of that its requests wait for,
    while the rest is welcome where memory is free. least_bytes: what it could come down to without harm to a running
    sequence; None if it has never said anything, and then it can give nothing back. beside_bytes: what it takes beside
    MLX's memory; its messages count only the latter. order, goal_bytes: its place in the queue, and how much it waits
    for there; 0 if for nothing. told: what it was told last. is_asking: it waits for an answer. asked_at: it has not
    answered a SHRINK since then. kept_until, kept_bytes: so long it is taken to use so much, whatever it has said; 0
    for not at all.
    """

    share_bytes: int = 0
    wanted_bytes: int = 0
    must_bytes: int = 0
    least_bytes: int | None = None
    beside_bytes: int = 0
    order: int = 0
    goal_bytes: int = 0
    told: GrantShare | ShrinkShare | None = None
    is_asking: bool = False
    asked_at: float | None = None
    kept_until: float = 0.0
    kept_bytes: int = 0

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is asked for or has to be said: so it is nearly always."""
        waits = self.order or self.is_asking or self.kept_until or self.asked_at is not None
        return not waits and not isinstance(self.told, ShrinkShare)

    @property
    def at_once_bytes(self) -> int:
        """The share that it can come down to at once."""
        if self.least_bytes is None:
            return self.share_bytes
        return min(self.share_bytes, max(self.least_bytes, self.kept_bytes if self.kept_until else 0))


@dataclass(slots=True, eq=False)
class Worker:
    """One process: a rank of an instance, or a spare (instance None).

    measured_bytes: what it takes, known when its part of the model is loaded. stop_deadline: it was asked to exit, and
    is killed then.
    """

    worker_id: str
    started_at: float
    instance: "Instance | None" = field(default=None, repr=False)
    rank: int = 0
    pid: int | None = None
    connected: bool = False
    imported: bool = False
    assigned: bool = False
    stage: str | None = None
    fraction: float | None = None
    measured_bytes: int | None = None
    lease: Lease = field(default_factory=Lease)
    samples_over_limit: int = 0
    last_seen: float = 0.0
    progressed_at: float = 0.0
    steps: int = 0
    stop_deadline: float | None = None
    killed: bool = False
    exited: bool = False
    rss_bytes: int = 0
    footprint_bytes: int = 0
    cpu_percent: float = 0.0
    mlx_active_bytes: int = 0
    mlx_cache_bytes: int = 0
    mlx_peak_bytes: int = 0

    @property
    def is_spare(self) -> bool:
        """Whether a load may take it."""
        return self.instance is None and not self.killed and self.stop_deadline is None

    @property
    def counted_bytes(self) -> int:
        """What counts against the budget."""
        return max(self.lease.share_bytes, self.footprint_bytes)

    @property
    def due_bytes(self) -> int:
        """What it may take: its share, and at least what it took when it was loaded."""
        return max(self.lease.share_bytes, self.measured_bytes or 0)

    @property
    def least_bytes(self) -> int:
        """What would count if it gave back what it can give back at once."""
        return self.counted_bytes - self.lease.share_bytes + self.lease.at_once_bytes

    @property
    def idle_bytes(self) -> int:
        """What would count once all its sequences have ended."""
        return self.least_bytes if self.measured_bytes is None else min(self.least_bytes, self.measured_bytes)


@dataclass(slots=True, eq=False)
class Instance:
    """One copy of a model in memory: one process, or several ranks that live and die together.

    ranks: all of them, exited ones too; rank 0 alone gets requests. started_at: when it got its processes. end_reason:
    why it is being ended, None as long as it lives. end_expected: the end was asked for, so it is no death in the sense
    of the restart policy. has_stalled: it is ended because it makes no progress. lost: the origins of requests without
    output that were in flight when the end began. blamed: a request has ended it, which is no death of the model
    either. first_exit: of the rank that exited first. keep_alive: what requests have stated last. spec: the model as
    it was when the processes were given it. served: requests that it has ended.
    """

    model_id: str
    ranks: list[Worker]
    spec: ModelSpec
    started_at: float = 0.0
    ready_at: float | None = None
    context_length: int = 0
    in_flight: dict[bytes, PendingRequest] = field(default_factory=dict)
    last_dispatched: float = 0.0
    last_completed: float = 0.0
    end_reason: str | None = None
    end_expected: bool = False
    has_stalled: bool = False
    lost: dict[bytes, bytes] = field(default_factory=dict)
    blamed: bool = False
    first_exit: Exit | None = None
    keep_alive: KeepAlive | None = None
    served: int = 0

    def hear(self, stated: KeepAlive | None) -> None:
        """How long a request wants it to stay; the last one that says so counts."""
        if stated is not None and (self.keep_alive is None or stated.order > self.keep_alive.order):
            self.keep_alive = stated

    @property
    def phase(self) -> Phase:
        if self.end_reason is not None:
            return Phase.STOPPING
        return Phase.LOADING if self.ready_at is None else Phase.READY

    @property
    def head(self) -> Worker:
        """Rank 0."""
        return self.ranks[0]

    @property
    def is_worn(self) -> bool:
        """Whether the settings of the model want another process in its place by now."""
        spec = self.spec
        is_recycled = spec.recycle_after_requests or spec.recycle_over_bytes
        if not is_recycled or self.phase is not Phase.READY or not self.served:
            return False
        if 0 < spec.recycle_after_requests <= self.served:
            return True
        # One that takes as much when it has just been loaded would be replaced for ever.
        measured = sum(worker.measured_bytes or 0 for worker in self.ranks)
        return measured < spec.recycle_over_bytes < sum(worker.footprint_bytes for worker in self.ranks)

    @property
    def name(self) -> str:
        """Unique among all instances of all models."""
        return self.head.worker_id

    @property
    def reserved_bytes(self) -> int:
        """What counts against the budget."""
        return sum(worker.counted_bytes for worker in self.living)

    @property
    def living(self) -> list[Worker]:
        return [worker for worker in self.ranks if not worker.exited]

    @property
    def busy(self) -> bool:
        return bool(self.in_flight)

    @property
    def progress(self) -> tuple[str | None, float | None]:
        """Stage and fraction of the first rank that has not loaded its part."""
        return next(((w.stage, w.fraction) for w in self.ranks if w.measured_bytes is None), (None, None))

    @property
    def last_used(self) -> float:
        """Orders victims: a busy instance by its last new work (which stands still once it gets none), an idle one by
        its last completion."""
        return self.last_dispatched if self.busy else max(self.last_completed, self.ready_at or self.head.started_at)


@dataclass(slots=True)
class Replacement:
    """A new process takes the place of the one that serves a model. spec: what it loads.
    by: the instance that was started for this. gap: there is no room for both, so the old one leaves first. waits:
    administrators that asked for it; is_recycling: the pool has decided it."""

    spec: ModelSpec
    order: int
    allow_gap: bool = False
    is_recycling: bool = False
    waits: list[AdminWait] = field(default_factory=list)
    by: Instance | None = None
    gap: bool = False

    @property
    def holds(self) -> bool:
        """Whether it keeps the model loaded until it ends: an administrator has asked for it, or it has begun."""
        return not self.is_recycling or self.by is not None


@dataclass(slots=True)
class Model:
    """One model that was asked for. serving: what runs it, until the last of its processes has exited. incoming: loads
    beside it, to take its place; outgoing: has been replaced, and ends what it has begun.

    measured_bytes: of a model without files, from when it was last ready. last_blamed: origin of the request that last
    ended a process while it was taken in, or before its output and alone; None once the model has given an output
    since. refused: origin of each request that ended one while it was taken in -> until when it is refused.
    memory_part: of the memory to fill, what each request of the last process took that took too much, at
    took_too_much_at; 0 if that is long ago. None: an administrator wants it forgotten.
    """

    model_id: str
    spec: ModelSpec | None = None
    pinned: bool = False
    pin_order: int = 0
    serving: Instance | None = None
    incoming: Instance | None = None
    outgoing: Instance | None = None
    reload: Replacement | None = None
    waiting: deque[PendingRequest] = field(default_factory=deque)
    loads: list[AdminWait] = field(default_factory=list)
    unloads: list[AdminWait] = field(default_factory=list)
    kills: list[AdminWait] = field(default_factory=list)
    pinned_by_load: bool = False
    drain: Drain | None = None
    deaths: int = 0
    restarts: int = 0
    restart_at: float = 0.0
    recycled_at: float = float("-inf")
    failure: str | None = None
    last_exit: Exit | None = None
    last_reason: str | None = None
    measured_bytes: int | None = None
    last_used: float | None = None
    last_blamed: bytes | None = None
    refused: dict[bytes, float] = field(default_factory=dict)
    memory_part: float = 0.0
    took_too_much_at: float | None = None
    since: float = 0.0
    announced: Shown = UNLOADED

    def forget_deaths(self, now: float) -> None:
        self.failure, self.deaths, self.restart_at, self.took_too_much_at = None, 0, now, None

    @property
    def instances(self) -> list[Instance]:
        """All that hold memory for it, at most two."""
        return [i for i in (self.serving, self.incoming, self.outgoing) if i is not None]

    @property
    def leaves(self) -> bool:
        """Whether the instance that serves ends as soon as it has done what it has to."""
        return self.drain is not None or (self.reload is not None and self.reload.gap)

    @property
    def admin_queues(self) -> list[list[AdminWait]]:
        """What administrators wait for."""
        return [self.loads, self.unloads, self.kills, *([self.reload.waits] if self.reload is not None else [])]

    @property
    def admin_waits(self) -> list[AdminWait]:
        return [wait for waits in self.admin_queues for wait in waits]

    @property
    def wanted(self) -> bool:
        """Whether requests wait for this model, or it is pinned, and a start may succeed."""
        return bool(self.waiting or self.loads or self.pinned or self.reload) and self.failure is None

    @property
    def wants_processes(self) -> bool:
        """Whether it waits for room: to be loaded, or for a process beside the one that serves."""
        if self.serving is None:
            return self.wanted and not self.kills
        return self.reload is not None and self.reload.by is None

    @property
    def order(self) -> int:
        """Place in the queue of models: that of the request that has waited longest."""
        if self.serving is not None and self.reload is not None:
            return self.reload.order
        orders = [w.order for w in self.loads]
        if self.reload is not None:
            orders.append(self.reload.order)
        if self.waiting:
            orders.append(self.waiting[0].order)
        if self.pinned:
            orders.append(self.pin_order)
        return min(orders)
