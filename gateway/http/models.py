"""The lists of models as every dialect shows them: the models of this machine and the aliases of the settings."""

from starlette.requests import Request

from broker.wire.failure import Code, Failure, FailureError
from gateway.core import ask
from gateway.core.names import Listed
from gateway.http.inference import AppState, finish


async def listed(request: Request[AppState]) -> list[Listed]:
    """The models of this machine, loaded or not, and aliases of them."""
    report = await finish(request, ask.models())
    return request.state["directory"].aliases.listed(report.models)


async def listed_as(request: Request[AppState], name: str) -> Listed:
    """The model that this name means, as requests with this name are answered. Raises FailureError
    `model_not_found`."""
    target = await request.state["directory"].find(name)
    report = await finish(request, ask.models())
    for model in report.models:
        if model.model_id == target.model:
            return Listed(target.name, model)
    raise FailureError(Failure(Code.MODEL_NOT_FOUND, f"this machine has no model {name!r:.200}", "model"))
