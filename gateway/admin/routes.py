"""/admin/models/* and the health checks. What the contract names is here to the letter; fields beside it are ours."""

import asyncio
from typing import Any

from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.body import Body
from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Kill, Load, Status, Unload, Unpin
from broker.wire.states import LOADED
from gateway.http.errors import ApiError, Json
from gateway.http.inference import State
from gateway.http.streaming import collect
from gateway.link.client import BrokerUnavailableError
from gateway.openai.models import gib

_HEALTH_TIMEOUT = 2.0


async def status(request: Request[State]) -> Response:
    """What is loaded and what it takes; `models` also has those that are on their way or failed."""
    return Json(pool_status(await _ask(request, Status())))


async def load(request: Request[State]) -> Response:
    """Load a model and pin it. 500 for every failure."""
    try:
        final = await _ask(request, Load(request.path_params["model_id"]))
    except (ApiError, BrokerUnavailableError) as error:
        raise ApiError(error.failure, 500) from None
    return Json(
        {
            "status": "loaded",
            "model_id": final["model_id"],
            "model_type": final["model_type"],
            "size_gb": gib(final["size_bytes"]),
            "preloaded": True,
        }
    )


async def unload(request: Request[State]) -> Response:
    """Drain a model and end its process; ?timeout= seconds for the draining, ?force=true kills after that."""
    model_id = request.path_params["model_id"]
    body = Unload(model_id, timeout=_seconds(request, "timeout"), force=_flag(request, "force"))
    final = await _ask(request, body)
    return Json({"status": "unloaded", "model_id": final["model_id"]})


async def kill(request: Request[State]) -> Response:
    """SIGKILL the process of a model."""
    final = await _ask(request, Kill(request.path_params["model_id"]))
    return Json({"status": "killed", "model_id": final["model_id"], "pid": final["pid"]})


async def unpin(request: Request[State]) -> Response:
    """Let a preloaded model be evicted again."""
    final = await _ask(request, Unpin(request.path_params["model_id"]))
    return Json({"status": "unpinned", "model_id": final["model_id"]})


class Health(HTTPEndpoint):
    """Healthy only if the broker answers within 2 s. An endpoint and no function, so that the route takes every method
    and refuses all but GET: else those would go on to /admin, which asks for a key and knows no such path."""

    async def get(self, request: Request[State]) -> Response:
        """200 or 503."""
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                await _ask(request, Status())
        except TimeoutError:
            detail = f"the broker did not answer within {_HEALTH_TIMEOUT:g} s"
        except (ApiError, BrokerUnavailableError) as error:
            detail = error.failure.message
        else:
            return Json({"status": "healthy"})
        return Json({"status": "unhealthy", "detail": detail}, 503)


def pool_status(final: dict[str, Any]) -> dict[str, Any]:
    """The broker's STATUS in the form of the contract: sizes in GiB, times in Unix seconds."""
    models = [_entry(model) for model in final["models"]]
    loaded = [entry for entry in models if entry["state"] in LOADED]
    return {
        "loaded_models": loaded,
        "total_models": len(loaded),
        "memory": {
            "active_gb": _total_gb(models, "mlx_active_bytes"),
            "cache_gb": _total_gb(models, "mlx_cache_bytes"),
            "peak_gb": _total_gb(models, "mlx_peak_bytes"),
            "rss_gb": _total_gb(models, "rss_bytes"),
            "footprint_gb": _total_gb(models, "footprint_bytes"),
        },
        "max_memory_gb": gib(final["max_memory_bytes"]),
        "max_models": final["max_models"],
        "models": models,
        "spares": final["spares"],
        "workers": final["workers"],
        "queued": final["queued"],
        "uptime_seconds": final["uptime_seconds"],
    }


def _entry(model: dict[str, Any]) -> dict[str, Any]:
    ours = {name: value for name, value in model.items() if name not in ("size_bytes", "pinned")}
    return ours | {
        "size_gb": gib(model["size_bytes"]),
        "preloaded": model["pinned"],
        "last_used": model["last_used"] or model["loaded_at"],  # the contract's last_used is a number
    }


def _total_gb(models: list[dict[str, Any]], name: str) -> float:
    return gib(sum(model[name] or 0 for model in models))


async def _ask(request: Request[State], body: Body) -> dict[str, Any]:
    call = await request.state["broker"].call(body)
    [final] = await collect(call, request.receive)
    return final


def _seconds(request: Request[State], name: str) -> float | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ApiError(Failure(Code.INVALID_REQUEST, f"{name} is to be a number of seconds, not {text!r}", name))
    return seconds


def _flag(request: Request[State], name: str) -> bool:
    text = request.query_params.get(name, "false").lower()
    if text not in ("true", "1", "false", "0"):
        raise ApiError(Failure(Code.INVALID_REQUEST, f"{name} is to be true or false, not {text!r}", name))
    return text in ("true", "1")
