"""GET /v1/models and /v1/models/{id}: what this machine has, loaded or not."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Models
from gateway.http.errors import ApiError, Json
from gateway.http.inference import State
from gateway.http.streaming import collect


async def list_models(request: Request[State]) -> Response:
    """OpenAI's list."""
    return Json({"object": "list", "data": await _models(request)})


async def get_model(request: Request[State]) -> Response:
    """One of the list. Raises ApiError `model_not_found`."""
    wanted = request.path_params["model_id"]
    for model in await _models(request):
        if model["id"] == wanted:
            return Json(model)
    raise ApiError(Failure(Code.MODEL_NOT_FOUND, f"this machine has no model {wanted!r}", "model"))


def gib(size: int) -> float:
    """Bytes as this API shows them: GiB, to about a kilobyte."""
    return round(size / 2**30, 6)


async def _models(request: Request[State]) -> list[dict[str, Any]]:
    call = await request.state["broker"].call(Models())
    [final] = await collect(call, request.receive)
    return [_model(model) for model in final["models"]]


def _model(model: dict[str, Any]) -> dict[str, Any]:
    owner, slash, _name = model["model_id"].partition("/")
    return {
        "id": model["model_id"],
        "object": "model",
        "created": int(model["created"]),
        "owned_by": owner if slash else "local",
        "model_type": model["model_type"],
        "size_gb": gib(model["size_bytes"]),
        "quantization": model["quantization"],
        "context_length": model["context_length"] or None,
        "state": model["state"],
    }
