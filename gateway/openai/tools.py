"""OpenAI's tools, tool_choice and response_format -> the fields of the wire. Pure."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import orjson
from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from gateway.core.custom_tools import arguments_of, custom_function, grammar_in
from gateway.core.validation import RequestBody, at

_MAX_TOOLS = 128
_TOOL = re.compile(r"tools\[(\d+)\]")


def _as_text(arguments: object) -> object:
    """Raises ValueError."""
    if arguments is not None and not isinstance(arguments, dict):
        return arguments
    try:
        return orjson.dumps(arguments or {}).decode()
    except orjson.JSONEncodeError as error:  # a TypeError, which would not be the client's mistake
        raise ValueError(f"cannot be written as JSON: {error}") from None


class CalledFunction(RequestBody):
    """What an assistant's turn called. arguments: JSON text, which some clients send as the object that it says."""

    name: str = Field(min_length=1)
    arguments: Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | dict[str, Any] | None)] = "{}"


class CalledCustom(RequestBody):
    """A custom tool that an assistant's turn called."""

    name: str = Field(min_length=1)
    input: str = ""


_CALLS: list[JsonValue] = [
    {"properties": {"type": {"const": "function"}, "function": {"type": "object"}}, "required": ["function"]},
    {"properties": {"type": {"const": "custom"}, "custom": {"type": "object"}}, "required": ["type", "custom"]},
]


class ToolCall(RequestBody):
    """A call in an assistant's turn that is sent back."""

    model_config = ConfigDict(json_schema_extra={"anyOf": _CALLS})

    id: str | None = None
    type: Literal["function", "custom"] = "function"
    function: CalledFunction | None = None
    custom: CalledCustom | None = None

    @model_validator(mode="after")
    def _has_what_it_calls(self) -> "ToolCall":
        if (self.function if self.type == "function" else self.custom) is None:
            raise at(f".{self.type}", "Field required")
        return self

    def to_map(self) -> dict[str, Any]:
        """As the wire has it, which knows functions alone."""
        if self.type == "custom" and self.custom is not None:
            called = CalledFunction(name=self.custom.name, arguments=arguments_of(self.custom.input))
        else:
            assert self.function is not None
            called = self.function
        identity = {} if self.id is None else {"id": self.id}
        return {**identity, "type": "function", "function": called.model_dump(exclude_none=True)}


@dataclass(slots=True, frozen=True)
class Tools:
    """The tools of a request. functions: all of them as the wire has them; custom: the names of those that are custom
    tools; grammars: what their inputs must follow."""

    functions: list[dict[str, Any]] = field(default_factory=list)
    custom: frozenset[str] = frozenset()
    grammars: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """In their order."""
        return [tool["function"]["name"] for tool in self.functions]

    def only(self, names: Collection[str]) -> "Tools":
        """Those with these names."""
        functions = [tool for tool in self.functions if tool["function"]["name"] in names]
        return Tools(functions, self.custom, {name: rule for name, rule in self.grammars.items() if name in names})


_NO_TOOLS = Tools()


def no_tools() -> Tools:
    """Those of most requests."""
    return _NO_TOOLS


@dataclass(slots=True, frozen=True)
class NamedTool:
    """The tool_choice that is one tool."""

    name: str


@dataclass(slots=True, frozen=True)
class AllowedTools:
    """The tool_choice that leaves some of the tools. is_required: one of them must be called."""

    names: tuple[str, ...]
    is_required: bool


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedTools


def choice_of(choice: object) -> ToolChoice:
    """OpenAI's tool_choice. Raises ValueError."""
    match choice:
        case None:
            return "auto"
        case "none" | "auto" | "required":
            return choice
        case {"type": "function", "function": {"name": str(name)}} | {"type": "custom", "custom": {"name": str(name)}}:
            return NamedTool(name)
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(tools)}}:
            if len(tools) > _MAX_TOOLS:
                raise ValueError(f"must be a list of up to {_MAX_TOOLS} tools")
            return AllowedTools(tuple(_named(tool) for tool in tools), mode == "required")
    raise ValueError('must be "none", "auto", "required" or {"type": "function", "function": {"name": "..."}}')


def _named(tool: object) -> str:
    match tool:
        case {"type": "function", "function": {"name": str(name)}} | {"type": "custom", "custom": {"name": str(name)}}:
            return name
    raise ValueError('an allowed tool must be {"type": "function", "function": {"name": "..."}}')


class JsonSchema(RequestBody):
    """The schema of a response_format. schema_: OpenAI's `schema`."""

    name: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(RequestBody):
    """The form that the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema must be given with type json_schema, and only then")
        if self.schema_ is not None and self.type != "json_object":
            raise ValueError("schema must be inside json_schema, or be given with type json_object")
        return self

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        """None for text. An object may have a schema too, which llama.cpp's server and others have."""
        if self.type == "json_object":
            return {**(self.schema_ or {}), "type": "object"}
        return None if self.json_schema is None else self.json_schema.schema_

    @property
    def is_strict(self) -> bool:
        """Whether the schema must be enforced as a whole."""
        return self.json_schema is not None and self.json_schema.strict is True


def tools_of(tools: object) -> Tools:
    """OpenAI's list of tools, checked; a function alone gets its wrapper. Raises ValueError."""
    if tools is None:
        return no_tools()
    if not isinstance(tools, list) or len(tools) > _MAX_TOOLS:
        raise ValueError(f"must be a list of up to {_MAX_TOOLS} tools")
    functions: list[dict[str, Any]] = []
    names: set[str] = set()
    custom: set[str] = set()
    grammars: dict[str, str] = {}
    for position, tool in enumerate(map(_wrapped, tools)):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in ("function", "custom") or not isinstance(tool.get(kind), dict):
            raise ValueError(f'tool {position} is not {{"type": "function", "function": {{...}}}}')
        name = tool[kind].get("name")
        if not isinstance(name, str) or not name or name in names:
            raise ValueError(f"tool {position} has no name of its own")
        names.add(name)
        if kind == "custom":
            tool, grammar = _custom(tool["custom"], f"[{position}].custom")  # noqa: PLW2901 # a function from here on
            custom.add(name)
            if grammar is not None:
                grammars[name] = grammar
        parameters = tool["function"].get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            raise ValueError(f"the parameters of {name} must be a JSON schema")
        functions.append(tool)
    return Tools(functions, frozenset(custom), grammars)


def functions_of(functions: object) -> Tools:
    """What OpenAI had before there were tools. Raises ValueError."""
    if functions is None:
        return no_tools()
    if not isinstance(functions, list) or not all(isinstance(one, dict) for one in functions):
        raise ValueError("must be a list of functions")
    return tools_of([{"type": "function", "function": one} for one in functions])


def function_choice_of(choice: object) -> ToolChoice:
    """The choice among `functions`. Raises ValueError."""
    match choice:
        case None:
            return "auto"
        case "none" | "auto":
            return choice
        case {"name": str(name)}:
            return NamedTool(name)
    raise ValueError('must be "none", "auto" or {"name": "..."}')


def _custom(tool: dict[str, Any], path: str) -> tuple[dict[str, Any], str | None]:
    """The function that stands for a custom tool, and its grammar."""
    description = tool.get("description")
    if description is not None and not isinstance(description, str):
        raise at(f"{path}.description", "must be a string")
    grammar = grammar_in(tool.get("format"), f"{path}.format")
    return custom_function(tool["name"], description, grammar), grammar


def _wrapped(tool: Any) -> Any:
    kind = tool.get("type", "function") if isinstance(tool, dict) else None
    if kind not in ("function", "custom") or "name" not in tool:
        return tool
    return {"type": kind, kind: {name: value for name, value in tool.items() if name != "type"}}


def offered(tools: Tools, choice: ToolChoice) -> Tools:
    """Those that the model is told of: a model that must not call gets no tools."""
    if choice == "none":
        return no_tools()
    return tools.only(choice.names) if isinstance(choice, AllowedTools) else tools


def tool_field(field: str, tools: Tools, choice: ToolChoice, *, is_legacy: bool) -> str:
    """The client's name of a field of the wire that may be of its tools. is_legacy: it calls them functions."""
    given = "functions" if is_legacy else "tools"
    if field in ("tools", "required_tools"):
        return given if field == "tools" else "function_call" if is_legacy else "tool_choice"
    found, names = _TOOL.match(field), offered(tools, choice).names
    if found is None or int(found[1]) >= len(names):
        return field
    name, rest = names[int(found[1])], field[found.end() :]
    if name in tools.custom:
        rest = f".custom{rest}"
    return f"{given}[{tools.names.index(name)}]{rest.replace('.function', '', 1) if is_legacy else rest}"


def unheeded(tools: Tools, choice: ToolChoice) -> list[str]:
    """The fields of tools of which the model is not told."""
    return ["tools"] if choice == "none" and tools.functions else []


def required_names(tools: Tools, choice: ToolChoice) -> list[str]:
    """The tools at least one of which must be called. Raises ValueError."""
    if choice in ("auto", "none"):
        return []
    wanted = (
        [choice.name] if isinstance(choice, NamedTool) else choice.names if isinstance(choice, AllowedTools) else ()
    )
    known = set(tools.names)
    for name in wanted:
        if name not in known:
            raise ValueError(f"no function named {name!r:.200} is given")
    if isinstance(choice, NamedTool):
        return [choice.name]
    is_required = choice.is_required if isinstance(choice, AllowedTools) else choice == "required"
    names = offered(tools, choice).names if is_required else []
    if is_required and not names:
        raise ValueError("required needs tools")
    return names
