"""The JSON in Anthropic's streams, for documents and tests. Events are written in replies.py."""

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.anthropic.answers import AnthropicAnswer, MessageUsage, TextAnswer, ThinkingAnswer, ToolUseAnswer
from gateway.anthropic.dialect import AnthropicErrorFields

_Block = Annotated[ThinkingAnswer | TextAnswer | ToolUseAnswer, Field(discriminator="type")]


class StartUsage(AnthropicAnswer):
    """Tokens of the prompt."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class StartedMessage(AnthropicAnswer):
    """The message before it has any content."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Any]
    stop_reason: None
    stop_sequence: None
    usage: StartUsage


class MessageStart(AnthropicAnswer):
    """The first event."""

    type: Literal["message_start"]
    message: StartedMessage


class BlockStart(AnthropicAnswer):
    """A block begins."""

    type: Literal["content_block_start"]
    index: int
    content_block: _Block


class TextPiece(AnthropicAnswer):
    """More of a text."""

    type: Literal["text_delta"]
    text: str


class ThinkingPiece(AnthropicAnswer):
    """More of the reasoning."""

    type: Literal["thinking_delta"]
    thinking: str


class SignaturePiece(AnthropicAnswer):
    """The end of the reasoning."""

    type: Literal["signature_delta"]
    signature: str


class InputPiece(AnthropicAnswer):
    """More of the JSON text of a call's input."""

    type: Literal["input_json_delta"]
    partial_json: str


class BlockDelta(AnthropicAnswer):
    """More of the open block."""

    type: Literal["content_block_delta"]
    index: int
    delta: Annotated[TextPiece | ThinkingPiece | SignaturePiece | InputPiece, Field(discriminator="type")]


class BlockStop(AnthropicAnswer):
    """The open block ends."""

    type: Literal["content_block_stop"]
    index: int


class StopFields(AnthropicAnswer):
    """Why the message ends."""

    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]
    stop_sequence: str | None
    stop_details: None


class MessageDelta(AnthropicAnswer):
    """The end of the message."""

    type: Literal["message_delta"]
    delta: StopFields
    usage: MessageUsage


class MessageStop(AnthropicAnswer):
    """The last event."""

    type: Literal["message_stop"]


class Ping(AnthropicAnswer):
    """Keeps a silent stream open."""

    type: Literal["ping"]


class StreamError(AnthropicAnswer):
    """The last event of a stream that fails after its start."""

    type: Literal["error"]
    error: AnthropicErrorFields


EVENTS = (MessageStart, BlockStart, BlockDelta, BlockStop, MessageDelta, MessageStop, Ping, StreamError)
