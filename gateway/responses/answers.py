"""The JSON of a response that is not streamed, for documents and tests. Answers are written in objects.py."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class ResponsesPart(BaseModel):
    """No other fields."""

    model_config = ConfigDict(strict=True, extra="forbid", defer_build=True)


class LikelyText(ResponsesPart):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenText(LikelyText):
    """With the likeliest ones in its place."""

    top_logprobs: list[LikelyText]


class OutputText(ResponsesPart):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[ChosenText]


class OutputMessage(ResponsesPart):
    """A text of the model."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["completed", "incomplete"]
    content: list[OutputText]


class ReasoningText(ResponsesPart):
    """What the model wrote before its answer."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(ResponsesPart):
    """encrypted_content: the same text in base64, if the request includes it."""

    id: str
    type: Literal["reasoning"]
    status: Literal["completed", "incomplete"]
    summary: list[Any]
    content: list[ReasoningText]
    encrypted_content: str | None = None


class FunctionCall(ResponsesPart):
    """A call of a function; arguments is JSON text."""

    id: str
    type: Literal["function_call"]
    status: Literal["completed", "incomplete"]
    call_id: str
    name: str
    namespace: str | None = None
    arguments: str


class CustomToolCall(ResponsesPart):
    """A call of a custom tool; input is the text itself."""

    id: str
    type: Literal["custom_tool_call"]
    status: Literal["completed", "incomplete"]
    call_id: str
    name: str
    namespace: str | None = None
    input: str


class InputTokens(ResponsesPart):
    """Of these tokens the prompt cache had so many."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokens(ResponsesPart):
    """Of these tokens so many are reasoning."""

    reasoning_tokens: int


class ResponseUsage(ResponsesPart):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int


class IncompleteDetails(ResponsesPart):
    """Why the answer ends early."""

    reason: Literal["max_output_tokens"]


class ResponseFields(ResponsesPart):
    """What a response has from its beginning; most of it repeats the request."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    instructions: str | None
    tools: list[Any]
    tool_choice: Any
    parallel_tool_calls: bool
    text: dict[str, Any]
    reasoning: dict[str, Any]
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    max_output_tokens: int | None
    max_tool_calls: int | None
    truncation: Literal["disabled"]
    store: Literal[False]
    background: Literal[False]
    previous_response_id: None
    service_tier: Literal["default"]
    metadata: dict[str, str]
    prompt_cache_key: str | None
    safety_identifier: str | None
    user: str | None


class ResponseAnswer(ResponseFields):
    """POST /v1/responses."""

    completed_at: int | None
    status: Literal["completed", "incomplete"]
    error: None
    incomplete_details: IncompleteDetails | None
    output: list[OutputMessage | ReasoningItem | FunctionCall | CustomToolCall]
    usage: ResponseUsage
