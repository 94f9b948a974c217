"""Messages from the broker to workers, beside the requests and cancels that it forwards."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from broker.wire.body import Body


@dataclass(slots=True, frozen=True)
class Assign(Body):
    """Load this model. Sent once in a worker's life; answered by PROGRESS, then READY or LOAD_FAILED.

    model_type: a name in kinds.py. engine: `module:Class` when the settings name one, else None. share_bytes: what this
    process may take from the start, for its weights and a first block. limit_bytes: the largest share that it can ever
    get, 0 if unknown: what needs more can never be served. rank, ranks: which part of the model this process loads, out
    of how many; rank 0 alone gets requests. wires_memory: whether the process wires its share, on a Mac.
    lends_prefill: whether it must ask before it prefills. cache_dir: where this model's prompt cache is on disk, empty
    for none; cache_bytes: what all models' files may take there, within the folder that this one is in;
    cache_reserve_bytes: of the disk, to be left free; cache_bytes_per_second: that this process writes, on average.
    """

    COMMAND: ClassVar[bytes] = b"ASSIGN"
    model: str
    path: str
    model_type: str
    engine: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    share_bytes: int = 0
    limit_bytes: int = 0
    rank: int = 0
    ranks: int = 1
    wires_memory: bool = False
    lends_prefill: bool = False
    cache_dir: str = ""
    cache_bytes: int = 0
    cache_reserve_bytes: int = 0
    cache_bytes_per_second: float = 0.0


@dataclass(slots=True, frozen=True)
class Share(Body):
    """The memory that this process may take now, in total: an answer to NEED, and sent whenever more is granted. It
    also ends a SHRINK. The broker lowers a share only to what a NEED has named.

    limit_bytes: the largest share that the process can get as long as the pinned models stay, 0 if unknown. Bytes are
    MLX's, as in Need.
    """

    COMMAND: ClassVar[bytes] = b"SHARE"
    share_bytes: int
    limit_bytes: int = 0


@dataclass(slots=True, frozen=True)
class Shrink(Body):
    """Others wait for memory: come down to this share, by what is not in use at once, and further as sequences end.
    Until the next SHARE, nothing new may be begun that needs more. Answered by NEED whenever some of it is free."""

    COMMAND: ClassVar[bytes] = b"SHRINK"
    share_bytes: int


@dataclass(slots=True, frozen=True)
class MayPrefill(Body):
    """Prefill for so many seconds: an answer to PREFILL. After them the process asks again."""

    COMMAND: ClassVar[bytes] = b"MAY_PREFILL"
    seconds: float


@dataclass(slots=True, frozen=True)
class DropPrompts(Body):
    """Forget all cached prompts, in memory and on disk, and what waits to be written there."""

    COMMAND: ClassVar[bytes] = b"DROP_PROMPTS"


@dataclass(slots=True, frozen=True)
class Shutdown(Body):
    """Exit now; nothing is in flight."""

    COMMAND: ClassVar[bytes] = b"SHUTDOWN"
