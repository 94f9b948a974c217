"""The bodies of POST /v1/messages and /v1/messages/count_tokens -> messages of the wire. Pure.

Unknown fields are ignored, as new versions of clients send new ones. Known ones that would change the answer and are
left out are named in the response.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from broker.wire.failure import FailureError, invalid
from broker.wire.work import Generate
from gateway.anthropic.blocks import TextBlock, texts_of
from gateway.anthropic.conversation import AnthropicMessage, Conversation, conversation_of
from gateway.anthropic.dialect import dotted, in_dots
from gateway.anthropic.shapes import AnthropicStops, AnthropicSystem, AnthropicToolChoice, AnthropicTools
from gateway.anthropic.tools import Choosing, ToolSet, choosing_of, required_names, tools_of
from gateway.core.integers import entries_of, refuse_rounded
from gateway.core.sampling import MAX_INT, Defaults, SamplingFields
from gateway.core.validation import WHOLE, RequestBody, example, object_of, validated

_MAX_STOPS = 16
# Reading a body holds up all streams of this gateway: a million small messages or blocks would take ten seconds.
_MAX_MESSAGES = 4096
_MAX_BLOCKS = 16_384  # of all messages together
# Templates know three.
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
# Fields that change what a model is told or may do, and change nothing here.
_LEFT_OUT = ("container", "context_management", "mcp_servers")

_NAMES = {
    "json_schema": "output_config.format.schema",
    "required_tools": "tool_choice",
    "stop": "stop_sequences",
    "thinking_budget": "thinking.budget_tokens",
    "chat_template_kwargs": "thinking",
    "messages[].reasoning_content": "messages.content.thinking",
}
_TOOL = re.compile(r"tools\[(\d+)\](?:\.function)?(.*)")


class Thinking(RequestBody):
    """budget_tokens: of reasoning, at most."""

    type: Literal["enabled", "adaptive", "disabled", "between_tools"]
    budget_tokens: Annotated[int, Field(ge=1, le=MAX_INT), WHOLE] | None = None


class OutputFormat(RequestBody):
    """What the answer must be. schema_: `schema`."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(RequestBody):
    """How much the model thinks, and the form of its answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


def _stops_of(stops: object) -> list[str]:
    if stops is None:
        return []
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise ValueError(f"must be a list of up to {_MAX_STOPS} strings that are not empty")
    return stops


class MessagesRequest(SamplingFields):
    """The body of POST /v1/messages. output_format: the name that output_config.format had first."""

    model_config = example(
        {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 100}
    )

    model: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[list[AnthropicMessage], Field(min_length=1, max_length=_MAX_MESSAGES)]
    system: Annotated[list[TextBlock], PlainValidator(texts_of, json_schema_input_type=AnthropicSystem)] = Field(
        default_factory=list
    )
    stream: bool | None = None
    resume: bool | None = None
    stop_sequences: Annotated[list[str], PlainValidator(_stops_of, json_schema_input_type=AnthropicStops)] = Field(
        default_factory=list
    )
    tools: Annotated[ToolSet, PlainValidator(tools_of, json_schema_input_type=AnthropicTools)] = Field(
        default_factory=ToolSet
    )
    tool_choice: Annotated[Choosing, PlainValidator(choosing_of, json_schema_input_type=AnthropicToolChoice)] = (
        Choosing()
    )
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None

    @property
    def json_schema(self) -> dict[str, Any] | None:
        """The schema that the answer must follow; None for free text."""
        wanted = (self.output_config.format if self.output_config else None) or self.output_format
        return None if wanted is None else wanted.schema_

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """For the model's template, of what the client states."""
        kwargs: dict[str, Any] = {}
        if self.thinking is not None:
            kwargs["enable_thinking"] = self.thinking.type != "disabled"
        if self.output_config is not None and self.output_config.effort is not None:
            kwargs["reasoning_effort"] = _EFFORTS[self.output_config.effort]
        return kwargs


@dataclass(slots=True, frozen=True)
class WantedMessage:
    """A request, read. required_tools: names, at least one of which has to be called; ignored: fields that are left
    out."""

    body: MessagesRequest
    conversation: Conversation
    required_tools: Sequence[str]
    ignored: Sequence[str]

    def work(self, images: list[bytes], defaults: Defaults) -> Generate:
        """images: the files of the conversation's images. Without `thinking` a model does not think where it can be
        told so, unless its defaults say otherwise: clients that do not ask for it take the first block for the
        answer."""
        body = self.body
        return Generate(
            messages=self.conversation.messages,
            images=images,
            stream=bool(body.stream),
            max_tokens=body.max_tokens or defaults.max_tokens,
            max_tokens_is_default=not body.max_tokens,
            stop=body.stop_sequences,
            tools=body.tools.tools if body.tool_choice.may_call else [],
            required_tools=list(self.required_tools),
            one_call=body.tool_choice.one_call,
            json_schema=body.json_schema,
            thinking_budget=body.thinking.budget_tokens if body.thinking else None,
            chat_template_kwargs={"enable_thinking": False} | defaults.chat_template_kwargs | body.template_kwargs,
            **body.over(defaults),
        )

    def field_name(self, field: str) -> str:
        """The client's path of a field of the wire."""
        if field in _NAMES:
            return _NAMES[field]
        if tool := _TOOL.fullmatch(field):
            index, places = int(tool[1]), self.body.tools.places
            rest = tool[2].replace(".parameters", ".input_schema", 1)
            return dotted(f"tools[{places[index] if index < len(places) else index}]{rest}")
        return self.conversation.path_of(field) or dotted(field)


def parse(body: bytes, *, is_counted: bool = False) -> WantedMessage:
    """is_counted: the prompt is counted and not answered. Raises FailureError naming the field."""
    raw = object_of(body)
    if raw.get("thread"):
        raise invalid("thread: no conversation is stored here; send the whole one, without thread", "thread")
    try:
        _refuse_many_blocks(raw)
        refuse_rounded(raw, body, _written)
        request = validated(MessagesRequest, raw)
    except FailureError as error:
        raise in_dots(error) from None
    conversation = conversation_of(request.system, request.messages)
    if request.messages[-1].role == "assistant" and not is_counted:
        path = f"messages.{len(request.messages) - 1}"
        raise invalid(f"{path}: the last message must not be the assistant's: no answer is continued here", path)
    try:
        required = required_names(request.tools, request.tool_choice)
    except ValueError as error:
        raise invalid(f"tool_choice: {error}", "tool_choice") from None
    return WantedMessage(request, conversation, required, [*_ignored(request, raw, required), *conversation.ignored])


def _ignored(request: MessagesRequest, raw: dict[str, Any], required: Sequence[str]) -> Iterator[str]:
    yield from (name for name in _LEFT_OUT if raw.get(name))
    if request.tools.tools and not request.tool_choice.may_call:
        yield "tools"  # small models call whatever they are told of
    else:
        yield from (f"tools.{index}" for index in request.tools.left_out)
    if request.tool_choice.must_call and not required:
        yield "tool_choice"


def _refuse_many_blocks(raw: dict[str, Any]) -> None:
    """Also within results and documents."""
    left = _MAX_BLOCKS
    contents = [raw.get("system"), *(message.get("content") for _, message in entries_of(raw.get("messages")))]
    while contents:
        content = contents.pop()
        if isinstance(content, dict):
            content = content.get("content")  # of a source
        if not isinstance(content, list):
            continue
        left -= len(content)
        if left < 0:
            raise invalid(f"messages: more than {_MAX_BLOCKS} blocks", "messages")
        for block in content:
            if isinstance(block, dict):
                contents += (block[name] for name in ("content", "source") if name in block)


def _written(raw: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values that a model reads as JSON."""
    for name in ("output_config", "output_format"):
        yield name, raw.get(name)
    for index, tool in entries_of(raw.get("tools")):
        yield f"tools[{index}]", tool
    for index, message in entries_of(raw.get("messages")):
        for number, block in entries_of(message.get("content")):
            if "input" in block:
                yield f"messages[{index}].content[{number}].input", block["input"]
