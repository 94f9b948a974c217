"""The JSON of Ollama's answers that are not streamed, for documents and tests. Answers are written in replies.py and
models.py."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class OllamaAnswer(BaseModel):
    """No other fields."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=(), defer_build=True)


class CalledAnswer(OllamaAnswer):
    """Which function is called; arguments is an object."""

    index: int
    name: str
    arguments: dict[str, Any]


class CallAnswer(OllamaAnswer):
    """A call of a tool."""

    id: str
    function: CalledAnswer


class TurnAnswer(OllamaAnswer):
    """The answer of a chat."""

    role: Literal["assistant"]
    content: str
    thinking: str | None = None
    tool_calls: list[CallAnswer] | None = None


class LikelyAnswer(OllamaAnswer):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int]


class DrawnAnswer(LikelyAnswer):
    """With the likeliest ones in its place."""

    top_logprobs: list[LikelyAnswer] | None = None


class OllamaTextAnswer(OllamaAnswer):
    """What answers of chats and completions have. Durations in ns; an answer that only loads has the first two."""

    model: str
    created_at: str
    done: Literal[True]
    done_reason: Literal["stop", "length", "load", "unload"]
    total_duration: int
    load_duration: int
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: list[DrawnAnswer] | None = None


class OllamaChatAnswer(OllamaTextAnswer):
    """POST /api/chat."""

    message: TurnAnswer


class OllamaGenerateAnswer(OllamaTextAnswer):
    """POST /api/generate."""

    response: str
    thinking: str | None = None


class EmbedAnswer(OllamaAnswer):
    """POST /api/embed."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsAnswer(OllamaAnswer):
    """POST /api/embeddings."""

    embedding: list[float]


class DetailsAnswer(OllamaAnswer):
    """What kind of model it is; empty where that is not known."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class TagAnswer(OllamaAnswer):
    """One model of this machine. modified_at: RFC 3339; size: bytes of the weights."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: DetailsAnswer
    capabilities: list[str]


class TagsAnswer(OllamaAnswer):
    """GET /api/tags."""

    models: list[TagAnswer]


class RunningAnswer(OllamaAnswer):
    """One loaded model. size: bytes of memory that it counts for."""

    name: str
    model: str
    size: int
    digest: str
    details: DetailsAnswer
    expires_at: str
    size_vram: int
    context_length: int


class PsAnswer(OllamaAnswer):
    """GET /api/ps."""

    models: list[RunningAnswer]


class ShowAnswer(OllamaAnswer):
    """POST /api/show."""

    license: str
    modelfile: str
    parameters: str
    template: str
    details: DetailsAnswer
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class VersionAnswer(OllamaAnswer):
    """GET /api/version: of Ollama's API that is spoken here."""

    version: str


class OllamaPullAnswer(OllamaAnswer):
    """POST /api/pull without a stream."""

    status: Literal["success"]
