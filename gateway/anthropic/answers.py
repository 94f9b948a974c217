"""The JSON of Anthropic's answers that are not streamed, for documents and tests. Answers are written in replies.py."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class AnthropicAnswer(BaseModel):
    """No other fields."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=(), defer_build=True)


class ThinkingAnswer(AnthropicAnswer):
    """Reasoning. The signature is a constant: nothing here signs."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class TextAnswer(AnthropicAnswer):
    """A text."""

    type: Literal["text"]
    text: str


class ToolUseAnswer(AnthropicAnswer):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class OutputDetails(AnthropicAnswer):
    """Of the output tokens so many are reasoning."""

    thinking_tokens: int


class MessageUsage(AnthropicAnswer):
    """Tokens. The prompt has input_tokens and cache_read_input_tokens together."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputDetails


class AnthropicMessageAnswer(AnthropicAnswer):
    """POST /v1/messages."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Annotated[ThinkingAnswer | TextAnswer | ToolUseAnswer, Field(discriminator="type")]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]
    stop_sequence: str | None
    stop_details: None
    usage: MessageUsage


class CountAnswer(AnthropicAnswer):
    """POST /v1/messages/count_tokens."""

    input_tokens: int
