"""What to do now, in order: the answers of the policies, in the imperative. `Action` is any of them.

An action says what to do, not how; performing it takes no decision.
"""

from dataclasses import dataclass
from typing import Any

from broker.policy.budget import Origin
from broker.policy.events import WantsModel
from broker.policy.pressure import Pressure
from broker.policy.specs import ModelSpec, Shown
from broker.wire.failure import Failure


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

    waiting: WantsModel
    problem: Failure | None
    cancelled: bool = False


@dataclass(slots=True, frozen=True)
class DownloadEnded:
    """No process fetches this model any more. reason: of the failure."""

    model_id: str
    reason: str | None


@dataclass(slots=True, frozen=True)
class AssignModel:
    """Make this process load its part of a model: that of `rank` out of `ranks`. share_bytes: what it may take from the
    start; limit_bytes: the largest share that it can ever get."""

    worker_id: str
    spec: ModelSpec
    share_bytes: int
    limit_bytes: int
    rank: int = 0
    ranks: int = 1


@dataclass(slots=True, frozen=True)
class GrantShare:
    """Tell this worker the share that it has now, and the largest one that it can get; of MLX's memory alone."""

    worker_id: str
    share_bytes: int
    limit_bytes: int


@dataclass(slots=True, frozen=True)
class ShrinkShare:
    """Ask this worker to come down to this share of MLX's memory."""

    worker_id: str
    share_bytes: int


@dataclass(slots=True, frozen=True)
class ForwardRequest:
    worker_id: str
    request_id: bytes
    model_id: str
    payload: bytes
    task: str = "generate"
    trace: str = ""


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
class Acknowledge:
    """Tell this worker how many of its OUTPUTS, since its start, are read or never will be."""

    worker_id: str
    total: int


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
class TellProgress:
    """A PARTIAL of an administrative request."""

    request_id: bytes
    body: dict[str, Any]


@dataclass(slots=True, frozen=True)
class TellLost:
    """Tell the gateway of this request, which goes on, that its process has ended."""

    request_id: bytes
    trace: str = ""


@dataclass(slots=True, frozen=True)
class RemoveFiles:
    """Delete the files of this model, which nothing uses; then answer the request."""

    request_id: bytes
    model_id: str


@dataclass(slots=True, frozen=True)
class ForgetPrompts:
    """Remove the prompt caches of this model, of all for None, in these processes and on disk; then answer the
    request."""

    request_id: bytes
    model_id: str | None
    worker_ids: tuple[str, ...]


@dataclass(slots=True, frozen=True)
class Fail:
    """The ERROR of any request. trace: the id in the logs of one that was accepted before."""

    request_id: bytes
    failure: Failure
    trace: str = ""


@dataclass(slots=True, frozen=True)
class LendPrefill:
    """Let this process prefill for so many seconds."""

    worker_id: str
    seconds: float


@dataclass(slots=True, frozen=True)
class SavePins:
    model_ids: list[str]


@dataclass(slots=True, frozen=True)
class SaveMeasured:
    """What models took when they were loaded last: fingerprint of their files -> bytes."""

    measured: dict[str, int]


@dataclass(slots=True, frozen=True)
class AnnounceMemory:
    """The budget or the state of the system's memory has changed. working_set_bytes: what Metal recommends, None if
    that is not known; missing_bytes: of the budget, because they are wired and no process has them."""

    budget_bytes: int
    origin: Origin
    working_set_bytes: int | None
    pressure: Pressure
    missing_bytes: int


@dataclass(slots=True, frozen=True)
class AnnounceModel:
    """A model's state, reason or loading stage has changed."""

    model_id: str
    shown: Shown


@dataclass(slots=True, frozen=True)
class Exited:
    """Shutdown is complete: no worker is left."""


Action = (
    StartWorker
    | StartDownload
    | Readmit
    | DownloadEnded
    | AssignModel
    | GrantShare
    | ShrinkShare
    | ForwardRequest
    | ForwardCancel
    | ForwardOutputs
    | DropOutputs
    | Acknowledge
    | StopWorker
    | KillWorker
    | Reply
    | TellProgress
    | TellLost
    | RemoveFiles
    | ForgetPrompts
    | Fail
    | LendPrefill
    | SavePins
    | SaveMeasured
    | AnnounceMemory
    | AnnounceModel
    | Exited
)
