"""How long a model stays, as requests of Ollama's have it: who may say it, loads without an answer, and the end."""

from starlette.requests import Request

from broker.wire.failure import Code, Failure, FailureError
from broker.wire.states import State
from gateway.awake import awake_timeout
from gateway.core import ask
from gateway.http.auth import check_key, check_page
from gateway.http.inference import AppState, finish, model_for
from gateway.ollama.dialect import bare
from gateway.ollama.stay import FOR_GOOD

_LEAVING = (State.DRAINING, State.STOPPING)
_LEAVING_SECONDS = 5.0  # more than a process may take to exit


async def model_of(request: Request[AppState], named: str | None) -> str:
    """The model that a request means, the default one without a name. Raises FailureError."""
    return (await model_for(request, None if named is None else bare(named))).model


async def check_stay(request: Request[AppState], keep_alive: float | None) -> None:
    """Raises FailureError for a page of another site that says it, and for a pin without the admin's key."""
    if keep_alive is None:
        return
    settings = request.state["settings"]
    key = settings.admin_token or settings.api_key
    check_page(request.scope, needs_key=key is not None, what="keep_alive")
    if keep_alive == FOR_GOOD:
        await check_key(request.scope, key, request.state["refusals"] if settings.admin_token is not None else None)


async def pin_if_asked(request: Request[AppState], named: str | None, keep_alive: float | None) -> float | None:
    """How long the model is to stay after an answer, None if nothing more is to be said: it is pinned now."""
    if keep_alive != FOR_GOOD:
        return keep_alive
    await _pin(request, await model_of(request, named))
    return None


async def load_only(request: Request[AppState], model: str, keep_alive: float | None) -> str:
    """Load the model without an answer, or let it go; Ollama's word for what was done."""
    if keep_alive == FOR_GOOD:
        await _pin(request, model)
    else:
        await finish(request, ask.keep(model, keep_alive))
    return "unload" if keep_alive == 0 else "load"


async def _pin(request: Request[AppState], model: str) -> None:
    """Load and pin it. Nothing is downloaded that would not be for a request without a pin. Raises FailureError."""
    found = await finish(request, ask.resolve(model))
    if found.model_id is None and not found.fetchable:
        raise FailureError(Failure(Code.MODEL_NOT_FOUND, f"this machine has no model {model!r:.200}", "model"))
    await finish(request, ask.load(model))


async def has_left(request: Request[AppState], model: str) -> bool:
    """Let the model leave if it is idle and not pinned; whether it is gone now."""
    report = await finish(request, ask.status())
    entry = next((one for one in report.models if one.model_id == model), None)
    if entry is None:
        return True
    if entry.idle_until is None and entry.state not in _LEAVING:
        return False
    await finish(request, ask.keep(model, 0))
    call = await request.state["link"].call(ask.watch(model))
    try:
        async with awake_timeout(_LEAVING_SECONDS):
            while True:
                for _index, change in await call.take():
                    if isinstance(change, Failure):
                        raise FailureError(change)
                    if change.state == State.UNLOADED:
                        return True
    except TimeoutError:
        return False
    finally:
        call.close()
