"""Forms of JSON in Anthropic's bodies that validators of their own read, for the document of the API. Pure."""

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.core.shapes import JsonObject, Shape, Text


class TextShape(Shape):
    """A text."""

    type: Literal["text"]
    text: str


class Base64Source(Shape):
    """An image in base64."""

    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class UrlSource(Shape):
    """An image at a URL, which may be a data URL."""

    type: Literal["url"]
    url: str


class ImageShape(Shape):
    """An image of a user's message."""

    type: Literal["image"]
    source: Base64Source | UrlSource


class TextSource(Shape):
    """The text of a document."""

    type: Literal["text"]
    data: str


class ContentSource(Shape):
    """The texts and images of a document."""

    type: Literal["content"]
    content: str | list[TextShape | ImageShape] | None = None


class DocumentShape(Shape):
    """A document, with its title and context before it."""

    type: Literal["document"]
    source: TextSource | ContentSource
    title: Any = None
    context: Any = None


class SearchResultShape(Shape):
    """What a search has found."""

    type: Literal["search_result"]
    title: str
    source: str
    content: str | list[TextShape] | None = None


class ToolReference(Shape):
    """A tool that a search for tools has found."""

    type: Literal["tool_reference"]
    tool_name: str


class ToolUseShape(Shape):
    """A call in an earlier answer."""

    type: Literal["tool_use"]
    id: Text
    name: Text
    input: JsonObject


class ToolResultShape(Shape):
    """The result of a call."""

    type: Literal["tool_result"]
    tool_use_id: Text
    content: str | list[TextShape | ImageShape | DocumentShape | SearchResultShape | ToolReference] | None = None
    is_error: bool | None = None


class ThinkingShape(Shape):
    """Reasoning of an earlier answer."""

    type: Literal["thinking"]
    thinking: str


class RedactedShape(Shape):
    """Reasoning that nobody can read; it is left out."""

    type: Literal["redacted_thinking"]


class CompactionShape(Shape):
    """The text that stands for earlier turns."""

    type: Literal["compaction"]
    content: Any = None


class ServerBlock(Shape):
    """A block of tools that Anthropic's own servers run; it is left out and named in a header."""

    type: Annotated[str, Field(pattern="^((server|mcp)_tool_use|[A-Za-z0-9_]+_tool_result|container_upload)$")]


AnthropicContent = (
    str
    | list[
        TextShape
        | ImageShape
        | ToolUseShape
        | ToolResultShape
        | ThinkingShape
        | RedactedShape
        | DocumentShape
        | SearchResultShape
        | CompactionShape
        | ServerBlock
    ]
)
AnthropicSystem = str | list[TextShape] | None
AnthropicStops = Annotated[list[Text], Field(max_length=16)] | None


class OwnTool(Shape):
    """A tool of the client."""

    type: Literal["custom"] | None = None
    name: Text
    description: str | None = None
    input_schema: JsonObject
    strict: bool | None = None


class ForeignTool(Shape):
    """A tool that Anthropic's servers run or its models know; it is left out and named in a header."""

    type: Annotated[str, Field(min_length=1, json_schema_extra={"not": {"enum": ["custom"]}})]
    name: Text | None = None


AnthropicTools = Annotated[list[OwnTool | ForeignTool], Field(max_length=1024)] | None


class AnthropicChoice(Shape):
    """Whether a tool may or must be called, and whether only one."""

    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None


class AnthropicNamedChoice(Shape):
    """This tool must be called."""

    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


AnthropicToolChoice = AnthropicChoice | AnthropicNamedChoice | None
