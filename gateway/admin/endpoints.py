"""/admin/models/*, /admin/events and the health checks: handlers and their rows of the endpoint table."""

from collections.abc import Iterable

import orjson
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import Code, FailureError
from broker.wire.states import LOADED
from gateway.admin.about import about, models, reload_settings, settings
from gateway.admin.answers import (
    CancelAnswer,
    CatalogAnswer,
    ChangeEvent,
    ForgetAnswer,
    HealthAnswer,
    KillAnswer,
    LoadAnswer,
    PinAnswer,
    ProgressEvent,
    PullAnswer,
    ReloadAnswer,
    RemoveAnswer,
    RereadAnswer,
    SettingsAnswer,
    StatusAnswer,
    UnloadAnswer,
    UnpinAnswer,
    VersionsAnswer,
)
from gateway.admin.dialect import ADMIN
from gateway.admin.events import events
from gateway.admin.logs import LOG_LINES, LogsQuery, logs
from gateway.admin.pulls import PullQuery, cancel, pull
from gateway.awake import awake_timeout
from gateway.core import ask
from gateway.core.administration import ModelReport, StatusReport, gib
from gateway.core.dialect import Json as JsonMap
from gateway.core.failure import ErrorAnswer
from gateway.core.query import Flag, Query, Seconds, query_of
from gateway.http.endpoints import BROKER, NAMES_A_MODEL, USES_A_MODEL, Endpoint, Guard, Handler, Stream
from gateway.http.errors import Json, error_response
from gateway.http.inference import AppState, finish

_HEALTH_TIMEOUT = 2.0
_RELOAD_FAILURES = {Code.INSUFFICIENT_MEMORY: 409, Code.LOAD_FAILED: 500}


class StatusQuery(Query):
    """The parameters of the status."""

    max_age: Seconds = Field(0.0, description="Seconds that the answer may be old, so that many who watch share one.")


class KillQuery(Query):
    """The parameters of kill."""

    resume: Flag = Field(True, description="Whether its answers go on in the next process, where they can.")


class UnloadQuery(Query):
    """The parameters of unload."""

    timeout: Seconds | None = Field(None, description="Seconds to wait for running requests; 30 if it is left out.")
    force: Flag = Field(False, description="Whether to kill the process of a model that is still busy after that.")


class ReloadQuery(Query):
    """The parameters of reload."""

    allow_gap: Flag = Field(False, description="Whether the old process may end first where there is no room for both.")


async def status(request: Request[AppState]) -> Response:
    """The loaded models and their memory; `models` also has those that are loading or have failed."""
    query = query_of(StatusQuery, request.query_params)

    async def fetch() -> bytes:
        return orjson.dumps(pool_status(await finish(request, ask.status())))

    body = await request.state["shared_status"].get(query.max_age, fetch)
    return Response(body, media_type="application/json")


async def load(request: Request[AppState]) -> Response:
    """Load a model and pin it. 500 for every failure."""
    try:
        report = await finish(request, ask.load(await _model(request)))
    except FailureError as error:
        return error_response(ADMIN, error.failure, 500)
    return Json(
        {
            "status": "loaded",
            "model_id": report.model_id,
            "model_type": report.model_type,
            "size_gb": gib(report.size_bytes),
            "preloaded": True,
        }
    )


async def remove(request: Request[AppState]) -> Response:
    """Delete the files of a model that is not in use."""
    model = request.state["directory"].to_remove(request.path_params["model_id"])
    report = await finish(request, ask.remove(model))
    return Json({"status": "removed", "model_id": report.model_id})


async def forget(request: Request[AppState]) -> Response:
    """Remove the cached prompts of a model, or of all: in memory and on disk."""
    model = await _model(request) if "model_id" in request.path_params else None
    report = await finish(request, ask.forget(model))
    return Json({"status": "forgotten", "model_id": report.model_id})


async def unload(request: Request[AppState]) -> Response:
    """Drain a model and end its process; ?timeout= seconds for the draining, ?force=true kills after that."""
    query = query_of(UnloadQuery, request.query_params)
    report = await finish(request, ask.unload(await _model(request), query.timeout, force=query.force))
    return Json({"status": "unloaded", "model_id": report.model_id})


async def kill(request: Request[AppState]) -> Response:
    """SIGKILL the process of a model; with ?resume=false its answers end with an error instead of going on."""
    query = query_of(KillQuery, request.query_params)
    report = await finish(request, ask.kill(await _model(request), resume=query.resume))
    return Json({"status": "killed", "model_id": report.model_id, "pid": report.pid})


async def reload(request: Request[AppState]) -> Response:
    """Load a model anew beside the process that serves it, which then ends. 409 if there is no room for both; 500 if it
    cannot be loaded, and then the old process stays."""
    query = query_of(ReloadQuery, request.query_params)
    model = await _model(request)
    try:
        report = await finish(request, ask.reload(model, allow_gap=query.allow_gap))
    except FailureError as error:
        status = _RELOAD_FAILURES.get(error.failure.code)
        if status is None:
            raise
        return error_response(ADMIN, error.failure, status)
    return Json(
        {
            "status": "reloaded",
            "model_id": report.model_id,
            "model_type": report.model_type,
            "size_gb": gib(report.size_bytes),
        }
    )


async def pin(request: Request[AppState]) -> Response:
    """Pin a model; it is loaded after the answer."""
    report = await finish(request, ask.pin(await _model(request)))
    return Json({"status": "pinned", "model_id": report.model_id})


async def unpin(request: Request[AppState]) -> Response:
    """Let a preloaded model be evicted again."""
    report = await finish(request, ask.unpin(await _model(request)))
    return Json({"status": "unpinned", "model_id": report.model_id})


async def health(request: Request[AppState]) -> Response:
    """Healthy only if the broker answers within 2 s; else 503."""
    try:
        async with awake_timeout(_HEALTH_TIMEOUT):
            await finish(request, ask.status())
    except TimeoutError:
        detail = f"the broker did not answer within {_HEALTH_TIMEOUT:g} s"
    except FailureError as error:
        detail = error.failure.message
    else:
        return Json({"status": "healthy"})
    return Json({"status": "unhealthy", "detail": detail}, 503)


def pool_status(report: StatusReport) -> JsonMap:
    """The broker's STATUS in the form of the contract: sizes in GiB, times in Unix seconds."""
    models = report.models
    entries = [(model.state, _entry(model)) for model in models]
    loaded = [entry for state, entry in entries if state in LOADED]
    return {
        "loaded_models": loaded,
        "total_models": len(loaded),
        "memory": {
            "active_gb": _total_gb(model.mlx_active_bytes for model in models),
            "cache_gb": _total_gb(model.mlx_cache_bytes for model in models),
            "peak_gb": _total_gb(model.mlx_peak_bytes for model in models),
            "rss_gb": _total_gb(model.rss_bytes for model in models),
            "footprint_gb": _total_gb(model.footprint_bytes for model in models),
        },
        "max_memory_gb": gib(report.max_memory_bytes),
        "budget": {
            "origin": report.budget_origin,
            "metal_gb": None if report.working_set_bytes is None else gib(report.working_set_bytes),
            "taken_gb": gib(report.reserved_bytes),
            "missing_gb": gib(report.missing_bytes),
            "pressure": report.pressure,
        },
        "max_models": report.max_models,
        "models": [entry for _state, entry in entries],
        "spares": report.spares,
        "workers": report.workers,
        "queued": report.queued,
        "uptime_seconds": report.uptime_seconds,
        "machine": {"total_gb": gib(report.machine_total_bytes), "available_gb": gib(report.machine_available_bytes)},
        "started_at": report.started_at,
        "version": report.version,
    }


async def _model(request: Request[AppState]) -> str:
    """The model that the path names, by its own name or by an alias."""
    target = await request.state["directory"].find(request.path_params["model_id"])
    return target.model


def _entry(model: ModelReport) -> JsonMap:
    return {
        **model.model_dump(exclude={"size_bytes", "pinned"}),
        "size_gb": gib(model.size_bytes),
        "preloaded": model.pinned,
        "last_used": model.last_used or model.loaded_at,  # the contract's last_used is a number
    }


def _total_gb(sizes: Iterable[int | None]) -> float:
    return gib(sum(size or 0 for size in sizes))


def _row(
    method: str,
    path: str,
    handler: Handler,
    answer: type[BaseModel] | None,
    failures: tuple[Code, ...] = BROKER,
    *,
    query: type[Query] | None = None,
    stream: Stream | None = None,
) -> Endpoint:
    return Endpoint(
        method=method,
        path=path,
        handler=handler,
        guard=Guard.ADMIN,
        dialect=ADMIN,
        query=query,
        answer=answer,
        stream=stream,
        failures=failures,
    )


def _health(path: str) -> Endpoint:
    return Endpoint(
        method="GET",
        path=path,
        handler=health,
        guard=Guard.OPEN,
        dialect=ADMIN,
        answer=HealthAnswer,
        others=((503, HealthAnswer),),
    )


_CHANGES = Stream(
    media="text/event-stream",
    events=(ChangeEvent, ErrorAnswer),
    about="The present states, then every change. It ends with the client or, with an error object and "
    "`data: [DONE]`, with the broker. Comments keep a silent stream open.",
    is_endless=True,
)
_PROGRESS = Stream(
    media="text/event-stream",
    events=(ProgressEvent, PullAnswer, ErrorAnswer),
    about="With `stream`: the progress, then the answer or an error object, then `data: [DONE]`. A failure before the "
    "first event is a plain answer.",
)
_LOADED = (*NAMES_A_MODEL, Code.NOT_LOADED)
ENDPOINTS = (
    _health("/health"),
    _health("/admin/health"),
    _row("GET", "/admin/models/status", status, StatusAnswer, query=StatusQuery),
    _row("GET", "/admin/version", about, VersionsAnswer),
    _row("GET", "/admin/settings", settings, SettingsAnswer),
    _row("GET", "/admin/models", models, CatalogAnswer),
    _row("POST", "/admin/models/load/{model_id:path}", load, LoadAnswer, ()),
    _row(
        "POST",
        "/admin/models/pull/{model_id:path}",
        pull,
        PullAnswer,
        USES_A_MODEL,
        query=PullQuery,
        stream=_PROGRESS,
    ),
    _row("POST", "/admin/models/cancel/{model_id:path}", cancel, CancelAnswer, _LOADED),
    _row(
        "POST",
        "/admin/models/unload/{model_id:path}",
        unload,
        UnloadAnswer,
        (*_LOADED, Code.DRAIN_TIMEOUT),
        query=UnloadQuery,
    ),
    _row("POST", "/admin/models/kill/{model_id:path}", kill, KillAnswer, _LOADED, query=KillQuery),
    _row(
        "POST",
        "/admin/models/reload/{model_id:path}",
        reload,
        ReloadAnswer,
        (*_LOADED, Code.MODEL_IN_USE),
        query=ReloadQuery,
    ),
    _row("POST", "/admin/settings/reload", reload_settings, RereadAnswer, (*BROKER, Code.INVALID_REQUEST)),
    _row("POST", "/admin/models/pin/{model_id:path}", pin, PinAnswer, (*NAMES_A_MODEL, Code.LOAD_FAILED)),
    _row("POST", "/admin/models/unpin/{model_id:path}", unpin, UnpinAnswer, _LOADED),
    _row("POST", "/admin/cache/forget", forget, ForgetAnswer),
    _row("POST", "/admin/cache/forget/{model_id:path}", forget, ForgetAnswer, NAMES_A_MODEL),
    _row("GET", "/admin/models/{model_id:path}/progress", events, None, NAMES_A_MODEL, stream=_CHANGES),
    _row(
        "GET",
        "/admin/models/{model_id:path}/logs",
        logs,
        None,
        (*NAMES_A_MODEL, Code.RATE_LIMIT_EXCEEDED),
        query=LogsQuery,
        stream=LOG_LINES,
    ),
    _row("DELETE", "/admin/models/{model_id:path}", remove, RemoveAnswer, (*NAMES_A_MODEL, Code.MODEL_IN_USE)),
    _row("GET", "/admin/events", events, None, stream=_CHANGES),
)
