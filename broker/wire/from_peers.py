"""Messages that more than one side sends: HELLO, HEARTBEAT and ACK."""

from dataclasses import dataclass
from typing import ClassVar

from broker.wire.body import Body


@dataclass(slots=True, frozen=True)
class Hello(Body):
    """The first message of a gateway or worker: its socket is connected."""

    COMMAND: ClassVar[bytes] = b"HELLO"


@dataclass(slots=True, frozen=True)
class Heartbeat(Body):
    """Alive. From a worker, with its progress; from the broker to a gateway, without fields.

    steps: grows with every unit of work done (decode step, prefill chunk, loaded tensor); what the stall timeout
    watches. mlx_*: bytes as MLX counts them in that process (`mlx.core.get_active_memory` and friends). live: requests
    that the engine has; waiting, prefilling: those of them at that stage. generation_tokens, prompt_tokens,
    cached_prompt_tokens: since the model was loaded; prompt_tokens include those that came from the prompt cache.
    disk_bytes, disk_files: of this model's prompt cache on disk; disk_hits: prompts that got a part from there;
    disk_queue_bytes: what is still to be written there. decode_steps: of those steps the ones of decode that were
    launched behind another; late_steps: those of them for which the device may have waited.
    """

    COMMAND: ClassVar[bytes] = b"HEARTBEAT"
    steps: int = 0
    mlx_active_bytes: int = 0
    mlx_cache_bytes: int = 0
    mlx_peak_bytes: int = 0
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
class Ack(Body):
    """How many OUTPUTS have been read, in order; it moves a worker's window (outputs.py).

    From a gateway: OUTPUTS read since its HELLO; sent after every ACK_EVERY of them, and for the rest at the broker's
    heartbeat. From the broker to a worker: how many of its OUTPUTS a gateway has read or no gateway will read.
    """

    COMMAND: ClassVar[bytes] = b"ACK"
    total: int
