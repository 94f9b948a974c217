"""The JSON in OpenAI's streams, for documents and tests. Chunks are written in replies.py."""

from typing import Literal

from gateway.openai.answers import ChatLogprobs, OpenAIAnswer, TextLogprobs, Usage


class FunctionPiece(OpenAIAnswer):
    """A part of a call of a function. name: with the first part; arguments: more of the JSON text."""

    name: str | None = None
    arguments: str


class CustomPiece(OpenAIAnswer):
    """A part of a call of a custom tool. name: with the first part; input: more of the text."""

    name: str | None = None
    input: str


class ToolCallPiece(OpenAIAnswer):
    """A part of the call of this index. id, type: with the first part."""

    index: int
    id: str | None = None
    type: Literal["function", "custom"] | None = None
    function: FunctionPiece | None = None
    custom: CustomPiece | None = None


class MessagePiece(OpenAIAnswer):
    """More of a message. role: with the first piece."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallPiece] | None = None
    function_call: FunctionPiece | None = None


class ChatChunkChoice(OpenAIAnswer):
    """More of one answer."""

    index: int
    delta: MessagePiece
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"] | None


class ChatChunk(OpenAIAnswer):
    """An event of a streamed chat. usage: with `stream_options.include_usage`, null in all but the last, which has no
    choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class TextChunkChoice(OpenAIAnswer):
    """More of one continuation."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionChunk(OpenAIAnswer):
    """An event of a streamed completion. usage: as in a streamed chat."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChunkChoice]
    usage: Usage | None = None
