"""Chat, completions, embeddings, reranking and the list of models: handlers and their rows of the endpoint table."""

import secrets

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import Code
from gateway.core import ask
from gateway.core.failure import ErrorAnswer
from gateway.http.body import read_body
from gateway.http.endpoints import BROKER, NAMES_A_MODEL, USES_A_MODEL, Endpoint, Guard, Handler, Stream
from gateway.http.errors import Json
from gateway.http.inference import AppState, answer, finish, model_for
from gateway.http.models import listed, listed_as
from gateway.openai.answers import (
    ChatAnswer,
    CompletionAnswer,
    EmbeddingAnswer,
    ModelEntry,
    ModelList,
    RerankAnswer,
)
from gateway.openai.chunks import ChatChunk, CompletionChunk
from gateway.openai.dialect import OPENAI, field_name
from gateway.openai.inputs import (
    EmbeddingRequest,
    RerankRequest,
    embedding_work,
    parse_embedding,
    parse_rerank,
    rerank_work,
)
from gateway.openai.lists import embedding_entries, input_usage, model_entry, ranked
from gateway.openai.requests import ChatRequest, CompletionRequest, parse_chat, parse_completion
from gateway.openai.text import ChatText, CompletionText


async def chat_completions(request: Request[AppState]) -> Response:
    """One answer per choice to a conversation, streamed or whole."""
    return await answer(request, ChatText(parse_chat(await read_body(request))))


async def completions(request: Request[AppState]) -> Response:
    """One continuation per choice of each prompt, streamed or whole."""
    return await answer(request, CompletionText(parse_completion(await read_body(request))))


async def embeddings(request: Request[AppState]) -> Response:
    """One vector per input, in their order: all inputs are one unit of work."""
    wanted = parse_embedding(await read_body(request))
    target = await model_for(request, wanted.model)
    vectors = await finish(request, ask.embed(target.model, embedding_work(wanted)), field_name)
    data = embedding_entries(vectors, as_base64=wanted.encoding_format == "base64")
    return Json({"object": "list", "data": data, "model": target.name, "usage": input_usage(vectors.prompt_tokens)})


async def rerank(request: Request[AppState]) -> Response:
    """The documents by their scores, best first: all documents are one unit of work."""
    wanted = parse_rerank(await read_body(request))
    target = await model_for(request, wanted.model)
    scores = await finish(request, ask.rerank(target.model, rerank_work(wanted)), field_name)
    head = {"id": f"rerank-{secrets.token_hex(12)}", "object": "list", "model": target.name}
    return Json({**head, "results": ranked(wanted, scores.scores), "usage": input_usage(scores.prompt_tokens)})


async def list_models(request: Request[AppState]) -> Response:
    """The models of this machine, loaded or not."""
    return Json({"object": "list", "data": [model_entry(one) for one in await listed(request)]})


async def get_model(request: Request[AppState]) -> Response:
    """One model of this machine. Raises FailureError `model_not_found`."""
    return Json(model_entry(await listed_as(request, request.path_params["model_id"])))


def _post(
    path: str, handler: Handler, body: type[BaseModel], answer: type[BaseModel], stream: Stream | None = None
) -> Endpoint:
    return Endpoint(
        method="POST",
        path=path,
        handler=handler,
        guard=Guard.KEY,
        dialect=OPENAI,
        body=body,
        answer=answer,
        is_inference=True,
        stream=stream,
        failures=USES_A_MODEL,
    )


def _get(path: str, handler: Handler, answer: type[BaseModel], failures: tuple[Code, ...] = BROKER) -> Endpoint:
    return Endpoint(
        method="GET", path=path, handler=handler, guard=Guard.KEY, dialect=OPENAI, answer=answer, failures=failures
    )


_ABOUT = (
    "With `stream`: an event for each piece of the answer, an error object if it fails after its start, and "
    "`data: [DONE]` at the end. Comments keep a silent stream open."
)
_CHAT_STREAM = Stream(media="text/event-stream", events=(ChatChunk, ErrorAnswer), about=_ABOUT)
_TEXT_STREAM = Stream(media="text/event-stream", events=(CompletionChunk, ErrorAnswer), about=_ABOUT)
ENDPOINTS = (
    _post("/v1/chat/completions", chat_completions, ChatRequest, ChatAnswer, _CHAT_STREAM),
    _post("/v1/completions", completions, CompletionRequest, CompletionAnswer, _TEXT_STREAM),
    _post("/v1/embeddings", embeddings, EmbeddingRequest, EmbeddingAnswer),
    _post("/v1/rerank", rerank, RerankRequest, RerankAnswer),
    _get("/v1/models", list_models, ModelList),
    _get("/v1/models/{model_id:path}", get_model, ModelEntry, NAMES_A_MODEL),
    # As mlx_lm.server and mlx_vlm.server have them beside /v1.
    _post("/chat/completions", chat_completions, ChatRequest, ChatAnswer, _CHAT_STREAM),
    _get("/models", list_models, ModelList),
)
