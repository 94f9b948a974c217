"""The settings that the policies obey."""

from dataclasses import dataclass

from broker.policy.budget import Hardware

LARGEST_BLOCK = 64 << 20
_SMALLEST_BLOCK = 1 << 20
_BLOCKS = 128


def block_bytes(budget_bytes: int) -> int:
    """In what multiples a budget is handed out: whole MiB, 64 of them from 8 GiB on."""
    part = budget_bytes // _BLOCKS // _SMALLEST_BLOCK * _SMALLEST_BLOCK
    return min(max(part, _SMALLEST_BLOCK), LARGEST_BLOCK)


@dataclass(slots=True, frozen=True)
class PoolLimits:
    """Bytes and seconds.

    machine: what the memory budget follows from. block_bytes: shares are handed out in multiples of it, and a load gets
    one more than it needs; 0: to the byte. estimate_factor: bytes a model needs per byte of its weight files, before it
    has been measured. memory_limit_factor: a process may take this many times its share, plus memory_limit_floor_bytes,
    before it is killed, where the settings name no limit for its model.
    """

    max_models: int
    machine: Hardware
    block_bytes: int = LARGEST_BLOCK
    max_queue: int = 512
    max_requests_per_model: int = 256
    queue_timeout: float = 300.0
    drain_timeout: float = 30.0
    stop_grace: float = 2.0
    keep_alive: float = 1800.0
    heartbeat_timeout: float = 10.0
    stall_timeout: float = 120.0
    load_stall_timeout: float = 120.0
    estimate_factor: float = 1.25
    memory_limit_factor: float = 2.0
    memory_limit_floor_bytes: int = 2 << 30
    warm_spares: int = 1

    def blocks(self, size: int) -> int:
        """This many bytes in whole blocks."""
        block = self.block_bytes
        return -(-size // block) * block if block else size

    def whole_blocks(self, size: int) -> int:
        """The whole blocks in this many bytes."""
        return size // self.block_bytes * self.block_bytes if self.block_bytes else size
