"""What the pool knows, as plain maps for STATUS. Pure; looking never counts as use.

The pool's times, and started_at, are monotonic; `wall_offset` (Unix time minus monotonic time) makes Unix seconds.
"""

from collections.abc import Sequence
from typing import Any

from broker.policy.downloads import Download
from broker.policy.pool import Pool
from broker.policy.records import Model, Phase, Worker, state_of
from broker.wire.states import State


def status(
    pool: Pool, now: float, started_at: float, wall_offset: float, downloads: Sequence[Download] = ()
) -> dict[str, Any]:
    """The FINAL of STATUS; fields in docs/protocol.md. Models that nobody has asked for, or that left without a
    trace, are not in it."""
    known = {model.model_id: model for model in pool.models}
    models = [_downloading(d, known.get(d.model_id, Model(d.model_id)), wall_offset) for d in downloads]
    for download in downloads:
        known.pop(download.model_id, None)
    for model in known.values():
        worker = pool.workers.get(model.worker_id) if model.worker_id else None
        state, reason = state_of(model, worker, now)
        if worker is not None or state is not State.UNLOADED or model.last_exit is not None:
            models.append(_model(model, worker, state, reason, wall_offset))
    return {
        "models": models,
        "spares": [_spare(w) for w in pool.workers.values() if w.phase is Phase.WAITING],
        "workers": len(pool.workers),
        "queued": pool.queued,
        "uptime_seconds": now - started_at,
        "max_models": pool.limits.max_models,
        "max_memory_bytes": pool.limits.max_memory_bytes,
        "reserved_bytes": sum(w.reserved_bytes for w in pool.workers.values()),
    }


def _model(model: Model, worker: Worker | None, state: State, reason: str | None, wall_offset: float) -> dict[str, Any]:
    exit_ = model.last_exit
    facts = worker or Worker("", None, Phase.WAITING, started_at=0.0)
    return {
        "model_id": model.model_id,
        "model_type": model.spec.model_type if model.spec is not None else None,
        "state": state,
        "reason": reason,
        "pinned": model.pinned,
        "since": model.since + wall_offset,
        "size_bytes": facts.reserved_bytes,
        "context_length": facts.context_length,
        "stage": facts.stage,
        "fraction": facts.fraction,
        "loaded_at": _wall(facts.ready_at, wall_offset),
        "last_used": _wall(model.last_used, wall_offset),
        "pid": facts.pid,
        "rss_bytes": facts.rss_bytes,
        "footprint_bytes": facts.footprint_bytes,
        "memory_limit_bytes": facts.memory_limit_bytes,
        "mlx_active_bytes": facts.mlx_active_bytes,
        "mlx_cache_bytes": facts.mlx_cache_bytes,
        "mlx_peak_bytes": facts.mlx_peak_bytes,
        "cpu_percent": facts.cpu_percent,
        "in_flight": len(facts.in_flight),
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


def _downloading(download: Download, model: Model, wall_offset: float) -> dict[str, Any]:
    entry = _model(model, None, download.shown.state, download.shown.reason, wall_offset)
    since = download.since + wall_offset
    waiting = len(download.waiting)
    return entry | {"since": since, "fraction": download.fraction, "pid": download.pid, "queued": waiting}


def _spare(worker: Worker) -> dict[str, Any]:
    state = "imported" if worker.imported else "starting"
    return {"pid": worker.pid, "state": state, "rss_bytes": worker.rss_bytes}


def _wall(moment: float | None, wall_offset: float) -> float | None:
    return None if moment is None else moment + wall_offset
