"""What the inference endpoints of all dialects share: find the model, send the work, answer streamed or whole."""

import secrets
from collections.abc import Sequence
from typing import NotRequired, TypedDict

from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import FailureError, invalid
from broker.wire.work import Generate
from gateway.core.answer import Counted, ignored_in
from gateway.core.ask import Ask, generate_stream, generate_whole
from gateway.core.ask import count as count_of
from gateway.core.content import Image
from gateway.core.dialect import TextRequest
from gateway.core.failure import IGNORED_HEADER, FieldNames, ignored_header, in_words_of
from gateway.core.served import Served
from gateway.directory import Directory, Target
from gateway.http.endpoints import Endpoint
from gateway.http.errors import Json
from gateway.http.refusals import Refusals
from gateway.http.shared import SharedAnswer
from gateway.http.streaming import AnswerStream, collect, gone, unless
from gateway.http.uploads import Uploads
from gateway.images.loader import ImageLoader
from gateway.link.call import T
from gateway.link.feed import Feed
from gateway.link.link import Link
from gateway.settings import Settings

_KEY_BYTES = 12

# What clients of mlx_lm.server call the default model.
_DEFAULT_MODEL = "default_model"


class AppState(TypedDict):
    """What every request finds in its state. served: its own record; the rest is one for all."""

    settings: Settings
    link: Link
    directory: Directory
    images: ImageLoader
    uploads: Uploads
    refusals: Refusals
    feed: Feed[bytes]
    served: NotRequired[Served]  # which the lifespan does not have
    endpoints: tuple[Endpoint, ...]
    shared_status: SharedAnswer


async def model_for(request: Request[AppState], named: str | None) -> Target:
    """The model that a body names, or the default one, and how answers call it. Raises FailureError naming the
    field."""
    state = request.state
    default = state["settings"].default_model
    if named is None or (named == _DEFAULT_MODEL and default is not None):
        named = default
    if named is None:
        raise invalid("name a model, there is no default one", "model")
    target = await state["directory"].find(named)
    served = state["served"]
    served.model, served.is_known = target.model, target.is_known
    return target


async def answer(request: Request[AppState], wanted: TextRequest, *, keep_alive: float | None = None) -> Response:
    """The dialect's answer to `wanted`. keep_alive: seconds that the model stays after it, as `ask.keep` has them.
    Raises FailureError in the dialect's words."""
    state = request.state
    settings, link = state["settings"], state["link"]
    names = wanted.field_name
    target, units = await _work(request, wanted)
    if wanted.stream:
        asks = [generate_stream(target.model, unit, **_ways(settings, wanted, keep_alive, unit)) for unit in units]
        stream = await link.call(*asks)
        renderer = wanted.renderer(target.name, len(units))
        return AnswerStream(stream, renderer, settings.keepalive_seconds, names, ignored=wanted.ignored)
    wholes = [generate_whole(target.model, unit, **_ways(settings, wanted, keep_alive, unit)) for unit in units]
    whole = await link.call(*wholes)
    ends = await collect(whole, request.scope, request.receive, names)
    state["served"].count(enumerate(ends))
    ignored = ignored_header(names, [*wanted.ignored, *ignored_in(ends)])
    return Json(wanted.whole(target.name, ends), headers={IGNORED_HEADER: ignored} if ignored else None)


class _Ways(TypedDict):
    """What an ask has beside the work."""

    keep_alive: float | None
    resume_limit: int
    key: str


def _ways(settings: Settings, wanted: TextRequest, keep_alive: float | None, unit: Generate) -> _Ways:
    resume_limit = 0 if wanted.resume is False else settings.resume_limit
    return {
        "keep_alive": keep_alive,
        "resume_limit": resume_limit,
        "key": secrets.token_hex(_KEY_BYTES) if resume_limit and unit.tools else "",
    }


async def count(request: Request[AppState], wanted: TextRequest) -> Counted:
    """The tokens of its prompt, which has one answer. Raises FailureError in the dialect's words."""
    target, [unit] = await _work(request, wanted)
    return await finish(request, count_of(target.model, unit), wanted.field_name)


async def _work(request: Request[AppState], wanted: TextRequest) -> tuple[Target, list[Generate]]:
    """The model, and the units of work."""
    try:
        target = await model_for(request, wanted.model)
        images = await _load_images(request, wanted.images)
    except FailureError as error:
        raise FailureError(in_words_of(wanted.field_name, error.failure)) from None
    return target, wanted.units(images, target.defaults)


async def finish(request: Request[AppState], ask: Ask[T], names: FieldNames = str) -> T:
    """The final output of one unit of work. Raises FailureError in the words of `names`."""
    finals = await collect(await request.state["link"].call(ask), request.scope, request.receive, names)
    request.state["served"].count(enumerate(finals))
    return finals[0]


async def _load_images(request: Request[AppState], images: Sequence[Image]) -> list[bytes]:
    """The files of `images`. Ends as soon as the client goes or the gateway stops."""
    if not images:
        return []
    loading = request.state["images"].load(images)
    return await unless(loading, gone(request.receive), request.state["link"].refused())
