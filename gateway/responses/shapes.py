"""Forms of JSON in bodies of Responses that validators of their own read, for the document of the API. Pure."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from gateway.core.shapes import CustomShape, FunctionShape, Shape, Text

_KINDS = (
    "message",
    "reasoning",
    "function_call",
    "custom_tool_call",
    "function_call_output",
    "custom_tool_call_output",
    "additional_tools",
    "item_reference",
    "compaction_trigger",
)
_TOOLS = ("function", "custom", "namespace")


class InputTextPart(Shape):
    """A text."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class InputRefusal(Shape):
    """What the model said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class InputImage(Shape):
    """An image. image_url: http, https or a data URL; detail: accepted and ignored."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


Parts = str | list[InputTextPart | InputRefusal | InputImage]


class MessageItem(Shape):
    """A message. Only a user's may have images."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts


class SummaryText(Shape):
    """A summary of reasoning."""

    type: Literal["summary_text"]
    text: str


class InputReasoningText(Shape):
    """A piece of reasoning."""

    type: Literal["reasoning_text", "text"]
    text: str


class InputReasoning(Shape):
    """Reasoning of an earlier answer: its texts, what was sealed of them, or their summary."""

    type: Literal["reasoning"]
    content: list[InputReasoningText] | None = None
    summary: list[SummaryText] | None = None
    encrypted_content: Any = None


class FunctionCallItem(Shape):
    """A call of a function in an earlier answer."""

    type: Literal["function_call"]
    call_id: str
    name: Text
    arguments: str
    namespace: str | None = None


class CustomCallItem(Shape):
    """A call of a custom tool in an earlier answer."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: Text
    input: str
    namespace: str | None = None


class CallOutputItem(Shape):
    """The result of a call that stands before it."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str | None = None
    output: Parts


class ResponsesFunction(FunctionShape):
    """A function."""

    type: Literal["function"]


class ResponsesCustom(CustomShape):
    """A custom tool."""

    type: Literal["custom"]


class ToolNamespace(Shape):
    """Tools whose names have one beginning."""

    type: Literal["namespace"]
    name: Text
    description: str | None = None
    tools: list[ResponsesFunction | ResponsesCustom]


class HostedTool(Shape):
    """A tool that only OpenAI's own servers run; it is left out and named in a header."""

    model_config = ConfigDict(extra="ignore")

    type: Annotated[str, Field(json_schema_extra={"not": {"enum": list(_TOOLS)}})]


Tool = ResponsesFunction | ResponsesCustom | ToolNamespace | HostedTool
ResponsesTools = list[Tool] | None


class AdditionalTools(Shape):
    """Tools that a conversation brings along."""

    type: Literal["additional_tools"]
    tools: list[Tool]


class OtherItem(Shape):
    """An item of another type; it is left out and named in a header."""

    type: Annotated[str, Field(min_length=1, json_schema_extra={"not": {"enum": list(_KINDS)}})]


ResponsesInput = (
    str
    | Annotated[
        list[
            MessageItem
            | InputReasoning
            | FunctionCallItem
            | CustomCallItem
            | CallOutputItem
            | AdditionalTools
            | OtherItem
        ],
        Field(min_length=1, max_length=8192),
    ]
)


class ToolByName(Shape):
    """This tool must be called. namespace: where several have the name."""

    type: Literal["function", "custom"]
    name: str
    namespace: str | None = None


class NamespaceByName(Shape):
    """All tools of a namespace."""

    type: Literal["namespace"]
    name: str


class AllowedToolsChoice(Shape):
    """Only some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[ToolByName | NamespaceByName | HostedTool]


ResponsesToolChoice = Literal["none", "auto", "required"] | ToolByName | AllowedToolsChoice | HostedTool | None
