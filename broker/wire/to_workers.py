"""Messages from the broker to workers, beside the requests and cancels that it forwards."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from broker.wire.body import Body


@dataclass(slots=True, frozen=True)
class Assign(Body):
    """Load this model. Sent once in a worker's life; answered by PROGRESS, then READY or LOAD_FAILED.

    model_type: a name in kinds.py. engine: `module:Class` when the settings name one, else None.
    memory_limit_bytes: what the wired limit of the process follows, 0 for none. rank, ranks: which part of the model
    this process loads, out of how many; rank 0 alone gets requests.
    """

    COMMAND: ClassVar[bytes] = b"ASSIGN"
    model: str
    path: str
    model_type: str
    engine: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    memory_limit_bytes: int = 0
    rank: int = 0
    ranks: int = 1


@dataclass(slots=True, frozen=True)
class Shutdown(Body):
    """Exit now; nothing is in flight."""

    COMMAND: ClassVar[bytes] = b"SHUTDOWN"
