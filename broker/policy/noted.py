"""What the pool does and no event says, for metrics.py to count. Only data."""

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class ProcessTaken:
    """This process is now a rank of this model."""

    worker_id: str
    model_id: str
    rank: int


@dataclass(slots=True, frozen=True)
class ModelLoaded:
    """All its ranks are ready. worker_id: of rank 0."""

    model_id: str
    worker_id: str


@dataclass(slots=True, frozen=True)
class FirstOutput:
    """A request has its first output and goes on. at: when that came; seconds: since the request arrived."""

    model_id: str
    at: float
    seconds: float


@dataclass(slots=True, frozen=True)
class RequestSent:
    """A request is sent to a process; is_replay: again, as the one before has ended. waited: seconds since it
    arrived."""

    model_id: str
    waited: float
    is_replay: bool


@dataclass(slots=True, frozen=True)
class RequestWentOn:
    """A request whose answer has begun is sent to the next process."""

    model_id: str


@dataclass(slots=True, frozen=True)
class ModelEvicted:
    """It leaves to make room for another one, or for a larger share of another one."""

    model_id: str


Noted = ProcessTaken | ModelLoaded | FirstOutput | RequestSent | RequestWentOn | ModelEvicted
