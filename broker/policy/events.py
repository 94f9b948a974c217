"""What has happened: the facts that the policies get, in the past tense. `Event` is any of them.

Sockets, supervisor and loop report them; the policies see nothing else (actions.py has their answers). Ids:
`request_id` as on the wire, `worker_id` fresh for every process, `model_id` as clients write it.
spec and problem are those of RequestArrived.
"""

from dataclasses import dataclass

from broker.policy.flow_events import FlowEvent
from broker.policy.limits import PoolLimits
from broker.policy.pressure import Pressure
from broker.policy.specs import Exit, ModelSpec
from broker.wire.failure import Code, Failure

# ---- events: gateways ---------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class RequestArrived:
    """spec None: the catalog has no usable model of this name, `problem` says why. A problem beside a spec: the model
    is there and cannot do this work. payload: opaque to the pool. origin: equal for requests that a process takes in
    alike; empty for one that is like no other. keep_alive: as KeepRequested has it, None: not stated. trace: its id in
    the logs. resume_limit: how often it may go on in another process."""

    request_id: bytes
    model_id: str
    payload: bytes
    spec: ModelSpec | None
    problem: Failure | None = None
    task: str = "generate"
    origin: bytes = b""
    keep_alive: float | None = None
    trace: str = ""
    resume_limit: int = 0


@dataclass(slots=True, frozen=True)
class RequestResumed:
    """The gateway has sent the payload with which a request goes on that has lost its process."""

    request_id: bytes
    payload: bytes


@dataclass(slots=True, frozen=True)
class KeepRequested:
    """Load a model for this request, without a pin; it stays `seconds` after its last use. None: as it is set;
    negative: as long as there is room; 0: it leaves when it is idle, and is not loaded for this."""

    request_id: bytes
    model_id: str
    seconds: float | None
    spec: ModelSpec | None
    problem: Failure | None = None


@dataclass(slots=True, frozen=True)
class RequestCancelled:
    request_id: bytes


@dataclass(slots=True, frozen=True)
class LoadRequested:
    """An admin's load: pins."""

    request_id: bytes
    model_id: str
    spec: ModelSpec | None
    problem: Failure | None = None


@dataclass(slots=True, frozen=True)
class PullRequested:
    """The files of a model are wanted, the model not yet. stream: with progress."""

    request_id: bytes
    model_id: str
    stream: bool
    spec: ModelSpec | None
    problem: Failure | None = None


@dataclass(slots=True, frozen=True)
class CancelPullRequested:
    """The download of a model is to end."""

    request_id: bytes
    model_id: str


@dataclass(slots=True, frozen=True)
class RemoveRequested:
    """The files of a model are wanted no more. users: all models that are loaded from files in its folders."""

    request_id: bytes
    model_id: str
    users: tuple[str, ...]


@dataclass(slots=True, frozen=True)
class ForgetRequested:
    """Cached prompts are to be removed: of this model, of all for None."""

    request_id: bytes
    model_id: str | None


@dataclass(slots=True, frozen=True)
class UnloadRequested:
    """timeout: seconds to drain, None for the default."""

    request_id: bytes
    model_id: str
    timeout: float | None
    force: bool


@dataclass(slots=True, frozen=True)
class ReloadRequested:
    """Another process of a model is to take the place of the one that serves. allow_gap: where there is no room for
    both, the old one leaves first. spec and problem: of its present files and settings."""

    request_id: bytes
    model_id: str
    allow_gap: bool
    spec: ModelSpec | None
    problem: Failure | None = None


@dataclass(slots=True, frozen=True)
class KillRequested:
    """resume: whether its requests may go on in the next process."""

    request_id: bytes
    model_id: str
    resume: bool = True


@dataclass(slots=True, frozen=True)
class PinRequested:
    request_id: bytes
    model_id: str
    spec: ModelSpec | None
    problem: Failure | None = None


@dataclass(slots=True, frozen=True)
class UnpinRequested:
    request_id: bytes
    model_id: str


@dataclass(slots=True, frozen=True)
class ModelPinned:
    """A pin from the settings or from before a restart; it has no answer."""

    model_id: str
    spec: ModelSpec | None
    problem: Failure | None = None


@dataclass(slots=True, frozen=True)
class GatewayLeft:
    gateway_id: bytes


# The events that ask for a model.
WantsModel = RequestArrived | KeepRequested | LoadRequested | PullRequested | ModelPinned


@dataclass(slots=True, frozen=True)
class ModelMissed:
    """This machine lacks the model and may fetch it; the pool gets `waiting` afterwards."""

    waiting: WantsModel


# ---- events: workers ----------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class WorkerConnected:
    worker_id: str


@dataclass(slots=True, frozen=True)
class WorkerProgressed:
    """working_set_bytes: what Metal may use on this machine, 0 if the process does not know it. done_bytes,
    total_bytes: of a download."""

    worker_id: str
    stage: str
    fraction: float | None
    working_set_bytes: int = 0
    done_bytes: int = 0
    total_bytes: int = 0


@dataclass(slots=True, frozen=True)
class WorkerBecameReady:
    """measured_bytes: what the process takes now that the model is loaded; beside_bytes: of these, what is not MLX's.
    working_set_bytes: as in WorkerProgressed."""

    worker_id: str
    measured_bytes: int
    context_length: int
    beside_bytes: int = 0
    working_set_bytes: int = 0


@dataclass(slots=True, frozen=True)
class MemoryNeeded:
    """The share of MLX's memory that a worker wants now, in total; the least that it could come down to without harm to
    a running sequence; and how much of it requests wait for, None for all."""

    worker_id: str
    share_bytes: int
    least_bytes: int
    must_bytes: int | None = None


@dataclass(slots=True, frozen=True)
class PrefillWanted:
    """A process wants to prefill, or no longer does."""

    worker_id: str
    wanted: bool


@dataclass(slots=True, frozen=True)
class WorkerFailedToLoad:
    """The worker says why it cannot load its model; its exit follows. A download too, and with which code."""

    worker_id: str
    message: str
    code: Code = Code.LOAD_FAILED


@dataclass(slots=True, frozen=True)
class OutputsArrived:
    """Outputs of one step. entries: (request id, True if that was the end). frames: opaque, to be forwarded."""

    worker_id: str
    entries: list[tuple[bytes, bool]]
    frames: list[bytes]


@dataclass(slots=True, frozen=True)
class HeartbeatArrived:
    """As Heartbeat of the wire has it."""

    worker_id: str
    steps: int
    mlx_active_bytes: int
    mlx_cache_bytes: int
    mlx_peak_bytes: int
    live: int = 0
    waiting: int = 0
    prefilling: int = 0
    generation_tokens: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    disk_bytes: int = 0
    disk_files: int = 0
    disk_hits: int = 0
    disk_queue_bytes: int = 0
    decode_steps: int = 0
    late_steps: int = 0


@dataclass(slots=True, frozen=True)
class WorkerSampled:
    """The operating system's view of one worker process. footprint: physical footprint on macOS, RSS elsewhere."""

    worker_id: str
    rss_bytes: int
    footprint_bytes: int
    cpu_percent: float


@dataclass(slots=True, frozen=True)
class SystemSampled:
    """The memory of the whole system. wired_bytes: None where the system does not say it."""

    pressure: Pressure
    wired_bytes: int | None = None


@dataclass(slots=True, frozen=True)
class WorkerStarted:
    """pid: None if it is not known."""

    worker_id: str
    pid: int | None


@dataclass(slots=True, frozen=True)
class WorkerExited:
    """Reported once per worker, after the process has been reaped (or could not be started at all)."""

    worker_id: str
    exit: Exit


# ---- events: the rest ---------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class TimePassed:
    """A deadline of the pool has come."""


@dataclass(slots=True, frozen=True)
class PauseEnded:
    """The broker did not run for a while: the machine slept, or everything was stopped. `now` did not advance in that
    time, in which no process could send a sign of life."""


@dataclass(slots=True, frozen=True)
class LimitsChanged:
    limits: PoolLimits


@dataclass(slots=True, frozen=True)
class ShutdownRequested:
    """End everything: requests with an error, workers within the stop grace."""


AdminEvent = (
    LoadRequested
    | PullRequested
    | RemoveRequested
    | ForgetRequested
    | UnloadRequested
    | KillRequested
    | ReloadRequested
    | PinRequested
    | UnpinRequested
    | ModelPinned
    | ShutdownRequested
)
Event = (
    FlowEvent
    | AdminEvent
    | RequestArrived
    | RequestResumed
    | RequestCancelled
    | KeepRequested
    | LimitsChanged
    | GatewayLeft
    | ModelMissed
    | CancelPullRequested
    | WorkerConnected
    | WorkerProgressed
    | WorkerBecameReady
    | MemoryNeeded
    | PrefillWanted
    | WorkerFailedToLoad
    | OutputsArrived
    | HeartbeatArrived
    | WorkerSampled
    | SystemSampled
    | WorkerStarted
    | WorkerExited
    | TimePassed
    | PauseEnded
)
