"""What the heartbeat of a worker tells its broker."""

from dataclasses import dataclass

from broker.wire.from_peers import Heartbeat
from worker.engine import Engine, EngineStats, MemoryFacts


@dataclass(slots=True)
class Vitals:
    """State for the heartbeat thread. Only the main thread writes; each field changes atomically.

    waits_for_broker: the main thread has nothing to do until the broker grants memory or lends prefill, which is no
    standstill.
    """

    steps: int = 0
    engine: Engine | None = None
    waits_for_broker: bool = False


def heartbeat_of(engine: Engine | None, steps: int) -> Heartbeat:
    """The message, with what the engine says of itself."""
    memory, stats = (engine.memory(), engine.stats()) if engine is not None else (MemoryFacts(), EngineStats())
    return Heartbeat(
        steps,
        memory.active_bytes,
        memory.cache_bytes,
        memory.peak_bytes,
        stats.live,
        stats.waiting,
        stats.prefilling,
        stats.generation_tokens,
        stats.prompt_tokens,
        stats.cached_prompt_tokens,
        stats.disk_bytes,
        stats.disk_files,
        stats.disk_hits,
        stats.disk_queue_bytes,
        stats.decode_steps,
        stats.late_steps,
    )
