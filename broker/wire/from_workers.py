"""Messages from workers to the broker, beside outputs: the progress and the end of loading."""

from dataclasses import dataclass
from typing import ClassVar

from broker.wire.body import Body
from broker.wire.failure import Code
from broker.wire.from_peers import Heartbeat, Hello


@dataclass(slots=True, frozen=True)
class Progress(Body):
    """A stage of starting or loading (`imported`, `weights`, `tokenizer`), or a `download`.

    fraction: of it done, None if unknown.
    """

    COMMAND: ClassVar[bytes] = b"PROGRESS"
    stage: str
    fraction: float | None = None


@dataclass(slots=True, frozen=True)
class Ready(Body):
    """The assigned model is loaded. context_length: tokens, 0 if unknown."""

    COMMAND: ClassVar[bytes] = b"READY"
    mlx_active_bytes: int
    context_length: int = 0


@dataclass(slots=True, frozen=True)
class LoadFailed(Body):
    """The assigned model cannot be loaded, or not be downloaded; the process exits after this.

    message: names the file or field. code: of the error that follows from it; only a download says another.
    """

    COMMAND: ClassVar[bytes] = b"LOAD_FAILED"
    message: str
    code: Code = Code.LOAD_FAILED


# Everything that a worker may send to the broker, beside its Outputs.
FromWorker = Heartbeat | Hello | Progress | Ready | LoadFailed
