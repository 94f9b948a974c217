"""Which models there are, what runs, downloads and deletions: handlers of Ollama's other routes."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from broker.wire.failure import Code, Failure, FailureError, invalid
from broker.wire.states import LOADED
from gateway.core import ask
from gateway.core.validation import RequestBody, example, object_of, validated
from gateway.http.body import read_body
from gateway.http.errors import Json
from gateway.http.inference import AppState, finish
from gateway.http.models import listed, listed_as
from gateway.http.streaming import AnswerStream
from gateway.ollama.dialect import bare, field_name
from gateway.ollama.models import list_entry, running_entry, shown
from gateway.ollama.pulls import SUCCESS, PullLines
from gateway.ollama.staying import has_left

# Of the API that is spoken here: clients ask for a version that has what they use.
VERSION = "0.30.0"


class NamedBody(RequestBody):
    """What says no more than a model. name: what `model` was called before."""

    model_config = example({"model": "mlx-community/SmolLM2-135M-Instruct"})

    model: str | None = None
    name: str | None = None

    @property
    def named(self) -> str:
        """Raises FailureError `invalid_request`."""
        if wanted := self.model or self.name:
            return wanted
        raise invalid("model is required", "model")


class PullBody(NamedBody):
    """The body of POST /api/pull."""

    model_config = example({"model": "mlx-community/SmolLM2-135M-Instruct", "stream": False})

    stream: bool | None = None


async def is_running(_request: Request[AppState]) -> Response:
    """`Ollama is running`, which programs look for."""
    return PlainTextResponse("Ollama is running")


async def version(_request: Request[AppState]) -> Response:
    """The version of Ollama's API."""
    return Json({"version": VERSION})


async def tags(request: Request[AppState]) -> Response:
    """The models of this machine, loaded or not."""
    return Json({"models": [list_entry(entry.name, entry.model) for entry in await listed(request)]})


async def show(request: Request[AppState]) -> Response:
    """What is known of one model. Raises FailureError `model_not_found`."""
    named = validated(NamedBody, object_of(await read_body(request))).named
    entry = await listed_as(request, bare(named))
    target = await request.state["directory"].find(bare(named))
    return Json(shown(named, entry.model, target.defaults))


async def running(request: Request[AppState]) -> Response:
    """The loaded models, and until when they stay."""
    status = await finish(request, ask.status())
    report = await finish(request, ask.models())
    known = {model.model_id: model for model in report.models}
    loaded = (model for model in status.models if model.state in LOADED)
    return Json({"models": [running_entry(model, known.get(model.model_id)) for model in loaded]})


async def pull(request: Request[AppState]) -> Response:
    """Download a model; the answer is its progress."""
    body = validated(PullBody, object_of(await read_body(request)))
    model = await _spelled(request, request.state["directory"].to_fetch(bare(body.named)))
    if body.stream is False:
        await finish(request, ask.pull_whole(model), field_name)
        return Json(SUCCESS)
    call = await request.state["link"].call(ask.pull(model))
    return AnswerStream(call, PullLines(model), request.state["settings"].keepalive_seconds, field_name)


async def delete(request: Request[AppState]) -> Response:
    """Delete the files of a model. One that is idle leaves first, as Ollama's command line expects."""
    body = validated(NamedBody, object_of(await read_body(request)))
    model = await _spelled(request, request.state["directory"].to_remove(bare(body.named)))
    try:
        await finish(request, ask.remove(model), field_name)
    except FailureError as error:
        if error.failure.code is not Code.MODEL_IN_USE or not await has_left(request, model):
            raise
        await finish(request, ask.remove(model), field_name)
    return Response()


async def not_served(request: Request[AppState]) -> Response:
    """Not served: models come from the Hugging Face hub. Raises FailureError `not_implemented`."""
    path = request.scope["path"]
    raise FailureError(Failure(Code.NOT_IMPLEMENTED, f"{path} is not served: models come from the Hugging Face hub"))


async def _spelled(request: Request[AppState], name: str) -> str:
    """The model of this machine that has this name, in another case too; the name itself if there is none."""
    return (await finish(request, ask.resolve(name))).model_id or name
