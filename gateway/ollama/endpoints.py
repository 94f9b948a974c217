"""Ollama's API: handlers of chats, completions and vectors, and all rows of the endpoint table.

The API key is enough to ask, which loads models. What changes more than that (keep_alive, pull, delete) is not for
pages of other sites, and a pin, a pull and a delete need the admin's key where there is one.
"""

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import Code
from broker.wire.work import Embed
from gateway.core import ask
from gateway.core.answer import Vectors, floats_of
from gateway.core.failure import IGNORED_HEADER, ignored_header
from gateway.core.validation import object_of, validated
from gateway.http.body import read_body
from gateway.http.endpoints import NAMES_A_MODEL, USES_A_MODEL, Endpoint, Guard, Handler, Stream, Subtree
from gateway.http.errors import Json
from gateway.http.inference import AppState, answer, finish
from gateway.ollama.answers import (
    EmbedAnswer,
    EmbeddingsAnswer,
    OllamaChatAnswer,
    OllamaGenerateAnswer,
    OllamaPullAnswer,
    PsAnswer,
    ShowAnswer,
    TagsAnswer,
    VersionAnswer,
)
from gateway.ollama.dialect import OLLAMA, STREAM_TYPE, OllamaError, field_name
from gateway.ollama.lines import ChatPiece, GeneratePiece, PullLine
from gateway.ollama.manage import (
    NamedBody,
    PullBody,
    delete,
    is_running,
    not_served,
    pull,
    running,
    show,
    tags,
    version,
)
from gateway.ollama.replies import empty_answer
from gateway.ollama.requests import (
    OllamaBody,
    OllamaChatBody,
    OllamaEmbedBody,
    OllamaEmbeddingsBody,
    OllamaGenerateBody,
    OllamaTextBody,
    embed_work,
    parse_ollama_chat,
    parse_ollama_generate,
)
from gateway.ollama.staying import check_stay, load_only, model_of, pin_if_asked
from gateway.ollama.text import CLOCKS, OllamaChatText, OllamaGenerateText


async def chat(request: Request[AppState]) -> Response:
    """The answer to a conversation, streamed or whole. Without messages it loads the model, or lets it go."""
    body = parse_ollama_chat(await read_body(request))
    return await _text(request, body, OllamaChatText(body), is_empty=not body.messages)


async def generate(request: Request[AppState]) -> Response:
    """The answer to a prompt, streamed or whole. Without a prompt it loads the model, or lets it go."""
    body = parse_ollama_generate(await read_body(request))
    return await _text(request, body, OllamaGenerateText(body), is_empty=body.is_empty)


async def _text(
    request: Request[AppState],
    body: OllamaTextBody,
    wanted: OllamaChatText | OllamaGenerateText,
    *,
    is_empty: bool,
) -> Response:
    await check_stay(request, body.keep_alive)
    if is_empty:
        model = await model_of(request, body.named)
        reason = await load_only(request, model, body.keep_alive)
        return Json(empty_answer(wanted.head(model), reason))
    stay = await pin_if_asked(request, body.named, body.keep_alive)
    return await answer(request, wanted, keep_alive=stay)


async def embed(request: Request[AppState]) -> Response:
    """A vector for each text. Without a text it loads the model, or lets it go."""
    started = CLOCKS.now()
    body = validated(OllamaEmbedBody, object_of(await read_body(request)))
    model, vectors = await _vectors(request, body, embed_work(body))
    took = CLOCKS.now() - started
    return Json(
        {
            "model": body.named or model,
            "embeddings": [] if vectors is None else [floats_of(vector) for vector in vectors.split()],
            "total_duration": took,
            "load_duration": took if vectors is None else 0,
            "prompt_eval_count": 0 if vectors is None else vectors.prompt_tokens,
        },
        headers=_named(body.ignored),
    )


async def embeddings(request: Request[AppState]) -> Response:
    """The vector of one text, in the form that came before /api/embed."""
    body = validated(OllamaEmbeddingsBody, object_of(await read_body(request)))
    _model, vectors = await _vectors(request, body, Embed([body.prompt] if body.prompt else [], truncate=True))
    answered = {"embedding": [] if vectors is None else floats_of(vectors.packed)}
    return Json(answered, headers=_named(body.ignored))


def _named(ignored: list[str]) -> dict[str, str]:
    return {IGNORED_HEADER: ignored_header(field_name, ignored)} if ignored else {}


async def _vectors(request: Request[AppState], body: OllamaBody, work: Embed) -> tuple[str, Vectors | None]:
    """The model, and the vectors of the inputs; None without inputs."""
    await check_stay(request, body.keep_alive)
    model = await model_of(request, body.named)
    if not work.inputs:
        await load_only(request, model, body.keep_alive)
        return model, None
    stay = await pin_if_asked(request, body.named, body.keep_alive)
    return model, await finish(request, ask.embed(model, work, keep_alive=stay), field_name)


def _post(
    path: str,
    handler: Handler,
    body: type[BaseModel],
    answer: type[BaseModel],
    stream: Stream | None = None,
    *,
    is_inference: bool = True,
) -> Endpoint:
    return Endpoint(
        method="POST",
        path=path,
        handler=handler,
        guard=Guard.KEY,
        dialect=OLLAMA,
        body=body,
        answer=answer,
        is_inference=is_inference,
        stream=stream,
        failures=(*USES_A_MODEL, Code.FOREIGN_ORIGIN),  # keep_alive is not for pages of other sites
    )


def _get(path: str, handler: Handler, answer: type[BaseModel]) -> Endpoint:
    return Endpoint(method="GET", path=path, handler=handler, guard=Guard.KEY, dialect=OLLAMA, answer=answer)


def _not_served(method: str, path: str) -> Endpoint:
    return Endpoint(
        method=method,
        path=path,
        handler=not_served,
        guard=Guard.KEY,
        dialect=OLLAMA,
        failures=(Code.NOT_IMPLEMENTED,),
    )


def _lines(*events: type[BaseModel]) -> Stream:
    about = "Unless `stream` is false: a line for each piece, and an error as the last one if it fails after its start."
    return Stream(media=STREAM_TYPE, events=(*events, OllamaError), about=about)


ENDPOINTS = (
    _post("/api/chat", chat, OllamaChatBody, OllamaChatAnswer, _lines(ChatPiece, OllamaChatAnswer)),
    _post(
        "/api/generate",
        generate,
        OllamaGenerateBody,
        OllamaGenerateAnswer,
        _lines(GeneratePiece, OllamaGenerateAnswer),
    ),
    _post("/api/embed", embed, OllamaEmbedBody, EmbedAnswer),
    _post("/api/embeddings", embeddings, OllamaEmbeddingsBody, EmbeddingsAnswer),
    _post("/api/show", show, NamedBody, ShowAnswer, is_inference=False),
    _get("/api/tags", tags, TagsAnswer),
    _get("/api/ps", running, PsAnswer),
    Endpoint(
        method="POST",
        path="/api/pull",
        handler=pull,
        guard=Guard.CHANGE,
        dialect=OLLAMA,
        body=PullBody,
        answer=OllamaPullAnswer,
        stream=_lines(PullLine),
        failures=USES_A_MODEL,
    ),
    Endpoint(
        method="DELETE",
        path="/api/delete",
        handler=delete,
        guard=Guard.CHANGE,
        dialect=OLLAMA,
        body=NamedBody,
        failures=(*NAMES_A_MODEL, Code.MODEL_IN_USE),
    ),
    # Without a key: programs ask this to find out whether Ollama is there.
    Endpoint(
        method="GET",
        path="/api/version",
        handler=version,
        guard=Guard.OPEN,
        dialect=OLLAMA,
        answer=VersionAnswer,
        failures=(),
    ),
    Endpoint(
        method="GET",
        path="/",
        handler=is_running,
        guard=Guard.OPEN,
        dialect=OLLAMA,
        text=("text/plain",),
        failures=(),
    ),
    _not_served("POST", "/api/create"),
    _not_served("POST", "/api/copy"),
    _not_served("POST", "/api/push"),
    _not_served("POST", "/api/blobs/{digest}"),
    _not_served("HEAD", "/api/blobs/{digest}"),
)
SUBTREE = Subtree(prefix="/api", guard=Guard.KEY, dialect=OLLAMA)
