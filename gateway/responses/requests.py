"""The body of POST /v1/responses -> work of the wire. Pure.

Unknown fields are ignored, as OpenAI-compatible servers do. A field that asks for something kept between requests is
refused by name: the answer would be to another conversation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from broker.wire.failure import invalid
from broker.wire.work import Generate
from gateway.core.integers import entries_of, refuse_rounded
from gateway.core.sampling import MAX_INT, Defaults, SamplingFields, effort_variables
from gateway.core.validation import WHOLE, RequestBody, example, object_of, validated
from gateway.responses.items import InputItems, conversation_of
from gateway.responses.shapes import ResponsesInput, ResponsesToolChoice, ResponsesTools
from gateway.responses.tools import ClientTool, ToolSelection, choose, refuse_many, tools_in
from gateway.responses.turns import PlacedTurn, led_by

_MAX_TOP_LOGPROBS = 20
_MAX_METADATA = 16
_MAX_INCLUDED = 100

_STATELESS = "is not supported: nothing is stored here; send the whole conversation as input"
_REFUSED = {
    "previous_response_id": _STATELESS,
    "conversation": _STATELESS,
    "prompt": "is not supported: nothing is stored here; send instructions and input",
    "background": "is not supported: nothing is stored here; wait for the answer, or stream it",
    "context_management": "is not supported: send a shorter conversation as input",
    "stop": "is not supported here, but in chat completions",
}
# What a response repeats as it came.
_REPEATED = ("tools", "tool_choice", "text")
LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"


def _few(metadata: object) -> object:
    """Before its entries are read, as there may be a million. Raises ValueError."""
    if isinstance(metadata, dict) and len(metadata) > _MAX_METADATA:
        raise ValueError(f"must have up to {_MAX_METADATA} entries")
    return metadata


def _read_later(form: Any) -> BeforeValidator:
    """For a field that is repeated as it came, and read afterwards. form: what it may be."""
    return BeforeValidator(lambda value: value, json_schema_input_type=form)


class TextFormat(RequestBody):
    """The form that the answer must have. schema_: OpenAI's `schema`."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    strict: bool | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> "TextFormat":
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("schema must be given with type json_schema, and only then")
        return self

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        """None for text."""
        return {"type": "object"} if self.type == "json_object" else self.schema_


class TextSettings(RequestBody):
    """verbosity: accepted and left out, models here have no such switch."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningSettings(RequestBody):
    """summary: accepted and left out, since the answer has the reasoning itself."""

    effort: Annotated[str, Field(min_length=1)] | None = None
    summary: str | None = None


class ResponsesRequest(SamplingFields):
    """The body of POST /v1/responses. None is the default, as if the field were not there."""

    model_config = example({"input": "What is the capital of France?", "max_output_tokens": 100})

    model: Annotated[str, Field(min_length=1)] | None = None
    input: Annotated[InputItems, PlainValidator(conversation_of, json_schema_input_type=ResponsesInput)]
    instructions: str | None = None
    stream: bool | None = None
    resume: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_INT), WHOLE] | None = None
    text: TextSettings | None = None
    reasoning: ReasoningSettings | None = None
    tools: Annotated[list[Any] | None, _read_later(ResponsesTools)] = None
    tool_choice: Annotated[Any, _read_later(ResponsesToolChoice)] = None
    parallel_tool_calls: bool | None = None
    include: Annotated[list[str], Field(max_length=_MAX_INCLUDED)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_MAX_TOP_LOGPROBS), WHOLE] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: (
        Annotated[
            dict[str, str],
            BeforeValidator(_few, json_schema_input_type=Annotated[dict[str, str], Field(max_length=_MAX_METADATA)]),
        ]
        | None
    ) = None
    store: bool | None = None
    max_tool_calls: Annotated[int, Field(ge=0, le=MAX_INT), WHOLE] | None = None
    seed: Annotated[int, Field(ge=-MAX_INT - 1, le=MAX_INT), WHOLE] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None

    @property
    def format(self) -> TextFormat:
        """Of the answer."""
        return (self.text and self.text.format) or TextFormat(type="text")

    @property
    def wants_logprobs(self) -> bool:
        """Whether texts of the answer have them."""
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())

    @property
    def left_out(self) -> list[str]:
        """Its fields without effect, as the client has named them."""
        fields = {
            "store": self.store,
            "truncation": self.truncation == "auto",
            "text.verbosity": self.text and self.text.verbosity,
            "reasoning.summary": self.reasoning and self.reasoning.summary,
        }
        return [name for name, value in fields.items() if value]


@dataclass(slots=True, frozen=True)
class Wanted:
    """A request, understood. turns: those of the wire, in its order; tools: all of them; choice: of these."""

    request: ResponsesRequest
    turns: Sequence[PlacedTurn]
    tools: Sequence[ClientTool]
    choice: ToolSelection
    ignored: Sequence[str]


def parse_responses(body: bytes) -> Wanted:
    """Raises FailureError `invalid_request` naming the field."""
    raw = object_of(body)
    for name, reason in _REFUSED.items():
        if raw.get(name):
            raise invalid(f"{name} {reason}", name)
    refuse_many(raw.get("tools"))
    refuse_rounded(raw, body, _read_by_models)
    for name in _REPEATED:
        try:
            orjson.dumps(raw.get(name))
        except orjson.JSONEncodeError:  # which can write fewer levels than it reads
            raise invalid(f"{name} is nested too deeply", name) from None
    request = validated(ResponsesRequest, raw)
    given = [(f"tools[{position}]", tool) for position, tool in enumerate(request.tools or ())]
    tools, hosted = tools_in([*given, *request.input.tools])
    choice = choose(tools, request.tool_choice, request.parallel_tool_calls, has_hosted=bool(hosted))
    turns = led_by(request.instructions, request.input.turns)
    ignored = [*request.left_out, *request.input.ignored, *hosted, *choice.ignored]
    return Wanted(request, turns, tools, choice, ignored)


def _read_by_models(raw: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in ("chat_template_kwargs", "text"):
        yield name, raw.get(name)
    for index, tool in entries_of(raw.get("tools")):
        yield f"tools[{index}]", tool
    for index, item in entries_of(raw.get("input")):
        yield f"input[{index}].tools", item.get("tools")


def responses_work(wanted: Wanted, images: list[bytes], defaults: Defaults) -> Generate:
    """The one unit of work. images: the files of all turns' images, in their order."""
    request, choice = wanted.request, wanted.choice
    stated = request.max_output_tokens or request.max_tokens
    effort = request.reasoning.effort if request.reasoning else None
    variables = effort_variables(effort) | (request.chat_template_kwargs or {})
    return Generate(
        messages=[turn.to_map() for turn in wanted.turns],
        images=images,
        stream=bool(request.stream),
        max_tokens=stated or defaults.max_tokens,
        max_tokens_is_default=not stated,
        seed=request.seed,
        logprobs=(request.top_logprobs or 0) if request.wants_logprobs else None,
        tools=[{"type": "function", "function": tool.function} for tool in choice.tools],
        required_tools=list(choice.required),
        one_call=choice.one_call,
        input_grammars={tool.wire_name: tool.grammar for tool in choice.tools if tool.grammar is not None},
        json_schema=request.format.schema_wanted,
        strict=request.format.strict is True,
        chat_template_kwargs=defaults.chat_template_kwargs | variables,
        **request.over(defaults),
    )
