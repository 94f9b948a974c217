"""What more than one side says: that it is there, that it is alive, how many outputs have been read."""

from dataclasses import dataclass
from typing import ClassVar

from broker.wire.body import Body


@dataclass(slots=True, frozen=True)
class Hello(Body):
    """The first message of a gateway or worker: its socket is connected."""

    COMMAND: ClassVar[bytes] = b"HELLO"


@dataclass(slots=True, frozen=True)
class Heartbeat(Body):
    """Alive. From a worker with its progress; from the broker to a gateway with nothing to say.

    steps: grows with every unit of work done (decode step, prefill chunk, loaded tensor); what the stall timeout
    watches. mlx_*: bytes as MLX counts them in that process (`mlx.core.get_active_memory` and friends).
    """

    COMMAND: ClassVar[bytes] = b"HEARTBEAT"
    steps: int = 0
    mlx_active_bytes: int = 0
    mlx_cache_bytes: int = 0
    mlx_peak_bytes: int = 0


@dataclass(slots=True, frozen=True)
class Ack(Body):
    """How many OUTPUTS have been read, in order, so that a worker does not run ahead.

    From a gateway: of those since its HELLO; said after ACK_EVERY of them, and for the rest at the broker's heartbeat.
    From the broker to a worker: of those it has sent, how many a gateway has read, or nobody will.
    """

    COMMAND: ClassVar[bytes] = b"ACK"
    total: int
