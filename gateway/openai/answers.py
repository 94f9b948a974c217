"""The JSON of OpenAI's answers that are not streamed, for documents and tests. Answers are written in replies.py."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class OpenAIAnswer(BaseModel):
    """No other fields."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=(), defer_build=True)


class PromptDetails(OpenAIAnswer):
    """Of these tokens the prompt cache had so many."""

    cached_tokens: int


class CompletionDetails(OpenAIAnswer):
    """So many of these tokens are reasoning."""

    reasoning_tokens: int


class Usage(OpenAIAnswer):
    """Tokens of a text."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class InputUsage(OpenAIAnswer):
    """Tokens of inputs that are not answered with text."""

    prompt_tokens: int
    total_tokens: int


class FunctionAnswer(OpenAIAnswer):
    """A call of a function; arguments is JSON text."""

    name: str
    arguments: str


class ToolCallAnswer(OpenAIAnswer):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: FunctionAnswer


class CustomAnswer(OpenAIAnswer):
    """A call of a custom tool; input is its text."""

    name: str
    input: str


class CustomCallAnswer(OpenAIAnswer):
    """A call of a custom tool among others."""

    id: str
    type: Literal["custom"]
    custom: CustomAnswer


class MessageAnswer(OpenAIAnswer):
    """content is null in an answer that only calls tools. Reasoning has two names, both with the same text.
    function_call: to a request that has `functions`."""

    role: Literal["assistant"]
    content: str | None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallAnswer | CustomCallAnswer] | None = None
    function_call: FunctionAnswer | None = None


class LikelyToken(OpenAIAnswer):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(LikelyToken):
    """With the likeliest ones in its place."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(OpenAIAnswer):
    """One entry for each token."""

    content: list[ChosenToken]
    refusal: None


class ChatChoice(OpenAIAnswer):
    """One answer."""

    index: int
    message: MessageAnswer
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"]


class ChatAnswer(OpenAIAnswer):
    """POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(OpenAIAnswer):
    """One entry for each token in every list."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TextChoice(OpenAIAnswer):
    """One continuation."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class CompletionAnswer(OpenAIAnswer):
    """POST /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class EmbeddingEntry(OpenAIAnswer):
    """One vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingAnswer(OpenAIAnswer):
    """POST /v1/embeddings."""

    object: Literal["list"]
    data: list[EmbeddingEntry]
    model: str
    usage: InputUsage


class DocumentAnswer(OpenAIAnswer):
    """A document as it came."""

    text: str


class RankedDocument(OpenAIAnswer):
    """index: in the request's documents."""

    index: int
    relevance_score: float
    document: DocumentAnswer | None = None


class RerankAnswer(OpenAIAnswer):
    """POST /v1/rerank; the best document comes first."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RankedDocument]
    usage: InputUsage


class ModelEntry(OpenAIAnswer):
    """GET /v1/models/{id}. created: Unix seconds; context_length: tokens, null if unknown. alias_of: the model's own
    name, only where `id` is an alias."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    model_type: str
    size_gb: float
    quantization: str | None
    context_length: int | None
    capabilities: list[str]
    architecture: str | None
    parameters: int | None
    state: str
    alias_of: str | None = None


class ModelList(OpenAIAnswer):
    """GET /v1/models."""

    object: Literal["list"]
    data: list[ModelEntry]
