"""What the pool knows, as plain maps for STATUS. Pure; looking never counts as use.

The pool's times, and started_at, are monotonic; `wall_offset` (Unix time minus monotonic time) makes Unix seconds.
"""

from collections.abc import Sequence
from typing import Any

from broker.policy.downloads import Download
from broker.policy.pool import Pool
from broker.policy.records import Instance, Model, Phase, Worker
from broker.policy.shown import shown
from broker.policy.specs import Shown
from broker.wire.states import State


def status(
    pool: Pool, now: float, started_at: float, wall_offset: float, downloads: Sequence[Download] = ()
) -> dict[str, Any]:
    """The FINAL of STATUS; fields in docs/protocol.md. Models that were never asked for, or that left without a
    trace, are not in it."""
    known = {model.model_id: model for model in pool.models}
    memory = pool.memory
    models = [_downloading(pool, d, known.pop(d.model_id, Model(d.model_id)), wall_offset) for d in downloads]
    for model in known.values():
        seen = shown(model, now, pool.waits_for(now))
        if model.instances or seen.state is not State.UNLOADED or model.last_exit is not None:
            models.append(_model(pool, model, seen, wall_offset))
    return {
        "models": models,
        "spares": [_spare(w) for w in pool.workers.values() if w.is_spare],
        "workers": len(pool.workers),
        "queued": pool.queued,
        "uptime_seconds": now - started_at,
        "max_models": pool.limits.max_models,
        "max_memory_bytes": memory.budget_bytes,
        "budget_origin": memory.origin,
        "working_set_bytes": memory.working_set_bytes,
        "reserved_bytes": sum(i.reserved_bytes for m in pool.models for i in m.instances),
        "missing_bytes": memory.missing_bytes,
        "pressure": memory.pressure,
    }


def _model(pool: Pool, model: Model, seen: Shown, wall_offset: float) -> dict[str, Any]:
    exit_ = model.last_exit
    instance, instances = model.serving, model.instances
    ranks = [worker for one in instances for worker in one.ranks]
    return {
        "model_id": model.model_id,
        "model_type": model.spec.model_type if model.spec is not None else None,
        "state": seen.state,
        "reason": seen.reason,
        "pinned": model.pinned,
        "since": model.since + wall_offset,
        "size_bytes": sum(one.reserved_bytes for one in instances),
        "context_length": instance.context_length if instance is not None else 0,
        "stage": seen.stage,
        "fraction": seen.fraction,
        "loaded_at": _wall(instance.ready_at if instance is not None else None, wall_offset),
        "last_used": _wall(model.last_used, wall_offset),
        "idle_until": _wall(pool.idle_until(model), wall_offset),
        "pid": instance.head.pid if instance is not None else None,
        "rss_bytes": sum(w.rss_bytes for w in ranks),
        "footprint_bytes": sum(w.footprint_bytes for w in ranks),
        "share_bytes": sum(w.lease.share_bytes for w in ranks),
        "wanted_bytes": sum(max(w.lease.wanted_bytes, w.lease.share_bytes) for w in ranks),
        "memory_limit_bytes": sum(pool.kill_limit(w) for w in ranks),
        "mlx_active_bytes": sum(w.mlx_active_bytes for w in ranks),
        "mlx_cache_bytes": sum(w.mlx_cache_bytes for w in ranks),
        "mlx_peak_bytes": sum(w.mlx_peak_bytes for w in ranks),
        "cpu_percent": sum(w.cpu_percent for w in ranks),
        "in_flight": sum(len(one.in_flight) for one in instances),
        "incoming": _second(model.incoming, wall_offset),
        "outgoing": _second(model.outgoing, wall_offset),
        "queued": len(model.waiting),
        "restarts": model.restarts,
        "last_exit": None
        if exit_ is None
        else {
            "code": exit_.code,
            "signal": exit_.signal,
            "at": exit_.at,
            "reason": model.last_reason,
            "stderr_tail": exit_.stderr_tail,
        },
    }


def _second(instance: Instance | None, wall_offset: float) -> dict[str, Any] | None:
    """A process beside the one that serves."""
    if instance is None:
        return None
    stage, fraction = instance.progress
    return {
        "pid": instance.head.pid,
        "state": State.DRAINING if instance.phase is Phase.READY else State(instance.phase.value),
        "reason": instance.end_reason,
        "since": instance.started_at + wall_offset,
        "stage": stage,
        "fraction": fraction,
        "size_bytes": instance.reserved_bytes,
        "footprint_bytes": sum(worker.footprint_bytes for worker in instance.ranks),
        "in_flight": len(instance.in_flight),
    }


def _downloading(pool: Pool, download: Download, model: Model, wall_offset: float) -> dict[str, Any]:
    entry = _model(pool, model, download.shown, wall_offset)
    since = download.since + wall_offset
    waiting = len(download.waiting)
    return entry | {"since": since, "pid": download.pid, "queued": waiting}


def _spare(worker: Worker) -> dict[str, Any]:
    state = "imported" if worker.imported else "starting"
    return {"pid": worker.pid, "state": state, "rss_bytes": worker.rss_bytes}


def _wall(moment: float | None, wall_offset: float) -> float | None:
    return None if moment is None else moment + wall_offset
