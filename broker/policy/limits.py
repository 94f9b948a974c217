"""The settings that the policies obey."""

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class PoolLimits:
    """Bytes and seconds.

    estimate_factor: bytes a model needs per byte of its weight files, before it has been measured.
    memory_limit_factor: a process may take this many times its part of the estimate, plus memory_limit_floor_bytes,
    before it is killed, where the settings name no limit for its model.
    """

    max_models: int
    max_memory_bytes: int
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
    memory_limit_factor: float = 3.0
    memory_limit_floor_bytes: int = 2 << 30
    warm_spares: int = 1
