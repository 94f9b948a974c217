"""Messages from workers to the broker, beside outputs: the progress and the end of loading, and the need of memory."""

from dataclasses import dataclass
from typing import ClassVar

from broker.wire.body import Body
from broker.wire.failure import Code
from broker.wire.from_peers import Heartbeat, Hello


@dataclass(slots=True, frozen=True)
class Progress(Body):
    """A stage of starting or loading (`imported`, `weights`, `tokenizer`), or a `download`.

    fraction: of it done, None if unknown. working_set_bytes: what Metal may use on this machine, once the process knows
    that; 0 without Metal. done_bytes, total_bytes: of a download, 0 while they are not known.
    """

    COMMAND: ClassVar[bytes] = b"PROGRESS"
    stage: str
    fraction: float | None = None
    working_set_bytes: int = 0
    done_bytes: int = 0
    total_bytes: int = 0


@dataclass(slots=True, frozen=True)
class Ready(Body):
    """The assigned model is loaded. context_length: tokens, 0 if unknown. working_set_bytes: as in Progress."""

    COMMAND: ClassVar[bytes] = b"READY"
    mlx_active_bytes: int
    context_length: int = 0
    working_set_bytes: int = 0


@dataclass(slots=True, frozen=True)
class Need(Body):
    """The share that this process wants now, in total and not as a difference, so that the last one counts.

    share_bytes: more than its share asks for more, which comes as SHARE, perhaps in parts. Less has been freed already,
    and the broker takes it back at once. least_bytes: how far it could come down without harm to a running sequence
    (weights and live sequences, no prompt cache). must_bytes: how much of the share requests wait for, None for all:
    others make room for that alone, the rest (prompt cache, headroom) is granted where memory is free. Sent after
    READY, and whenever one of them changes by a block. Bytes are those of MLX; what the process takes beside them is
    added by the broker.
    """

    COMMAND: ClassVar[bytes] = b"NEED"
    share_bytes: int
    least_bytes: int
    must_bytes: int | None = None


@dataclass(slots=True, frozen=True)
class Prefill(Body):
    """Whether this process wants to prefill, answered by MAY_PREFILL in its turn. Of the process that prefills it
    says that its turn is over: wanted is false if nothing is left to prefill, true if its time is."""

    COMMAND: ClassVar[bytes] = b"PREFILL"
    wanted: bool


@dataclass(slots=True, frozen=True)
class LoadFailed(Body):
    """The assigned model cannot be loaded, or not be downloaded; the process exits after this.

    message: names the file or field. code: of the error that follows from it; only a download says another.
    """

    COMMAND: ClassVar[bytes] = b"LOAD_FAILED"
    message: str
    code: Code = Code.LOAD_FAILED


# Everything that a worker may send to the broker, beside its Outputs.
FromWorker = Heartbeat | Hello | Progress | Ready | LoadFailed | Need | Prefill
