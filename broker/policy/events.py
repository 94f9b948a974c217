"""The vocabulary between the pool and the world: events come in (past tense), actions go out (imperative).

The pool sees nothing else. Events carry facts that somebody else has observed; actions say what to do, not how.
Ids: `request_id` as on the wire, `worker_id` fresh for every process, `model_id` as clients write it.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, frozen=True)
class ModelSpec:
    """A model as its files and settings describe it, before it is loaded.

    weight_bytes: sum of the weight files. keep_alive_seconds: None for the pool's default, negative for ever.
    memory_limit_bytes: what its process may take, None to derive it from the estimate.
    """

    model_id: str
    model_type: str
    path: str
    weight_bytes: int
    engine: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    keep_alive_seconds: float | None = None
    memory_limit_bytes: int | None = None


@dataclass(slots=True, frozen=True)
class Exit:
    """How a process ended: code or signal name, wall-clock time (Unix s) and the last lines of its stderr."""

    code: int | None
    signal: str | None
    at: float
    stderr_tail: str

    def describe(self) -> str:
        """`signal SIGKILL` or `exit code 1`, with the last line of stderr where there is one."""
        how = f"signal {self.signal}" if self.signal else f"exit code {self.code}"
        last_line = self.stderr_tail.strip().rpartition("\n")[2]
        return f"{how}: {last_line}" if last_line else how


class Event:
    """Something that has happened."""


# ---- events: gateways ---------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class RequestArrived(Event):
    """spec None: the catalog has no usable model of this name, `problem` says why. A problem beside a spec: the model
    is there and cannot do this work. payload: opaque to the pool."""

    request_id: bytes
    model_id: str
    payload: bytes
    spec: ModelSpec | None
    problem: "Fail | None" = None
    task: str = "generate"


@dataclass(slots=True, frozen=True)
class RequestCancelled(Event):
    request_id: bytes


@dataclass(slots=True, frozen=True)
class LoadRequested(Event):
    """An admin's load: pins. spec and problem as in RequestArrived."""

    request_id: bytes
    model_id: str
    spec: ModelSpec | None
    problem: "Fail | None" = None


@dataclass(slots=True, frozen=True)
class UnloadRequested(Event):
    """timeout: seconds to drain, None for the default."""

    request_id: bytes
    model_id: str
    timeout: float | None
    force: bool


@dataclass(slots=True, frozen=True)
class KillRequested(Event):
    request_id: bytes
    model_id: str


@dataclass(slots=True, frozen=True)
class UnpinRequested(Event):
    request_id: bytes
    model_id: str


@dataclass(slots=True, frozen=True)
class ModelPinned(Event):
    """A pin from the settings or from before a restart; nobody waits for the answer."""

    model_id: str
    spec: ModelSpec | None
    problem: "Fail | None" = None


@dataclass(slots=True, frozen=True)
class GatewayLeft(Event):
    gateway_id: bytes


@dataclass(slots=True, frozen=True)
class ModelMissed(Event):
    """This machine lacks the model and may fetch it; `waiting` is handed to the pool afterwards."""

    waiting: RequestArrived | LoadRequested | ModelPinned


# ---- events: workers ----------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class WorkerConnected(Event):
    worker_id: str


@dataclass(slots=True, frozen=True)
class WorkerProgressed(Event):
    worker_id: str
    stage: str
    fraction: float | None


@dataclass(slots=True, frozen=True)
class WorkerBecameReady(Event):
    """measured_bytes: what the process takes now that the model is loaded."""

    worker_id: str
    measured_bytes: int
    context_length: int


@dataclass(slots=True, frozen=True)
class WorkerFailedToLoad(Event):
    """The worker says why it cannot load its model; its exit follows. A download too, and with which code."""

    worker_id: str
    message: str
    code: str = "load_failed"


@dataclass(slots=True, frozen=True)
class OutputsArrived(Event):
    """Outputs of one step. entries: (request id, True if that was the end). frames: opaque, to be forwarded."""

    worker_id: str
    entries: list[tuple[bytes, bool]]
    frames: list[bytes]


@dataclass(slots=True, frozen=True)
class HeartbeatArrived(Event):
    worker_id: str
    steps: int
    mlx_active_bytes: int
    mlx_cache_bytes: int
    mlx_peak_bytes: int


@dataclass(slots=True, frozen=True)
class WorkerSampled(Event):
    """The operating system's view of one worker process. footprint: physical footprint on macOS, RSS elsewhere."""

    worker_id: str
    rss_bytes: int
    footprint_bytes: int
    cpu_percent: float


@dataclass(slots=True, frozen=True)
class WorkerStarted(Event):
    worker_id: str
    pid: int


@dataclass(slots=True, frozen=True)
class WorkerExited(Event):
    """Reported once per worker, after the process has been reaped (or could not be started at all)."""

    worker_id: str
    exit: Exit


# ---- events: the rest ---------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class TimePassed(Event):
    """A deadline of the pool has come."""


@dataclass(slots=True, frozen=True)
class ShutdownRequested(Event):
    """End everything: requests with an error, workers within the stop grace."""


# ---- actions ------------------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class StartWorker:
    """Start a process. spare: it shall import what loading needs and wait; its model is assigned later."""

    worker_id: str
    spare: bool


@dataclass(slots=True, frozen=True)
class StartDownload:
    """Start a process that fetches this model into the Hugging Face cache."""

    worker_id: str
    model_id: str


@dataclass(slots=True, frozen=True)
class Readmit:
    """Its download has ended: look the model up again, unless there is a problem, and hand the event to the pool.
    cancelled: and after it, that its client has gone."""

    waiting: RequestArrived | LoadRequested | ModelPinned
    problem: "Fail | None"
    cancelled: bool = False


@dataclass(slots=True, frozen=True)
class DownloadEnded:
    """No process fetches this model any more. reason: of the failure."""

    model_id: str
    reason: str | None


@dataclass(slots=True, frozen=True)
class AssignModel:
    worker_id: str
    spec: ModelSpec
    memory_limit_bytes: int


@dataclass(slots=True, frozen=True)
class ForwardRequest:
    worker_id: str
    request_id: bytes
    model_id: str
    payload: bytes


@dataclass(slots=True, frozen=True)
class ForwardCancel:
    worker_id: str
    request_id: bytes


@dataclass(slots=True, frozen=True)
class ForwardOutputs:
    """All requests of the frames are known and live: pass them to their gateway unread."""

    worker_id: str
    frames: list[bytes]


@dataclass(slots=True, frozen=True)
class DropOutputs:
    worker_id: str
    reason: str


@dataclass(slots=True, frozen=True)
class StopWorker:
    """Ask it to exit; nothing is in flight."""

    worker_id: str
    reason: str


@dataclass(slots=True, frozen=True)
class KillWorker:
    """SIGKILL to its process group."""

    worker_id: str
    reason: str


@dataclass(slots=True, frozen=True)
class Reply:
    """The FINAL of an administrative request."""

    request_id: bytes
    body: dict[str, Any]


@dataclass(slots=True, frozen=True)
class Fail:
    """The ERROR of any request; the fields of the wire's Failure."""

    request_id: bytes
    code: str
    message: str
    retry_after: float | None = None
    retryable: bool = False
    param: str | None = None


@dataclass(slots=True, frozen=True)
class SavePins:
    model_ids: list[str]


@dataclass(slots=True, frozen=True)
class AnnounceModel:
    """A model's state, reason or loading stage has changed."""

    model_id: str
    state: str
    reason: str | None
    stage: str | None
    fraction: float | None


@dataclass(slots=True, frozen=True)
class Exited:
    """Shutdown is complete: no worker is left."""


# What the shell must do now, in order. A union, so that the type checker knows when a kind is not performed.
Action = (
    StartWorker
    | StartDownload
    | Readmit
    | DownloadEnded
    | AssignModel
    | ForwardRequest
    | ForwardCancel
    | ForwardOutputs
    | DropOutputs
    | StopWorker
    | KillWorker
    | Reply
    | Fail
    | SavePins
    | AnnounceModel
    | Exited
)
