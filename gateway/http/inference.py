"""What all inference endpoints share: read the body, send the work to the broker, answer streamed or whole."""

import secrets
import time
from typing import TypedDict

from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import InferenceRequest
from broker.wire.packing import pack
from broker.wire.work import Generate
from gateway.http.errors import ApiError, Json, invalid
from gateway.http.streaming import EventStream, collect, gone, unless
from gateway.images.loader import ImageLoader
from gateway.link.client import BrokerClient
from gateway.openai.content import Image
from gateway.openai.replies import Chunks, Head, ending_of, whole
from gateway.openai.requests import Sampling
from gateway.settings import Settings

# What clients of mlx_lm.server call the default model.
_DEFAULT_MODEL = "default_model"


class State(TypedDict):
    """What every request finds in its state."""

    settings: Settings
    broker: BrokerClient
    images: ImageLoader


async def read_body(request: Request[State]) -> bytes:
    """The body. Raises ApiError 413 as soon as it is known to be too large."""
    limit = request.state["settings"].max_body_bytes
    too_large = ApiError(Failure(Code.REQUEST_TOO_LARGE, f"the body has more than {limit} bytes"))
    if int(request.headers.get("content-length", "0")) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def model_for(request: Request[State], named: str | None) -> str:
    """The model that a body names, or the default one. Raises ApiError naming the field."""
    default = request.state["settings"].default_model
    if named is None or (named == _DEFAULT_MODEL and default is not None):
        named = default
    if named is None:
        raise invalid("name a model, there is no default one", "model")
    return named


async def load_images(request: Request[State], images: list[tuple[str, Image]]) -> list[bytes]:
    """The files of `images`. Ends as soon as the client goes or the gateway stops; raises ApiError naming the field."""
    if not images:
        return []
    loading = request.state["images"].load(images)
    return await unless(loading, gone(request.receive), request.state["broker"].refused())


async def answer(
    request: Request[State], model: str, wanted: Sampling, work: list[Generate], *, is_chat: bool
) -> Response:
    """OpenAI's answer to `wanted`, whose units of work for `model` are `work`."""
    head = Head(
        id=("chatcmpl-" if is_chat else "cmpl-") + secrets.token_hex(12),
        model=model,
        created=int(time.time()),
        is_chat=is_chat,
        choices_per_prompt=wanted.choices_per_prompt,
    )
    call = await request.state["broker"].call(*(InferenceRequest(model, pack(unit)) for unit in work))
    if wanted.stream:
        chunks = Chunks(head, len(work), include_usage=wanted.include_usage)
        return EventStream(call, chunks, request.state["settings"].keepalive_seconds)
    finals = await collect(call, request.receive)
    return Json(whole(head, [ending_of(final) for final in finals]))
