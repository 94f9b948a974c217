"""OpenAI's tools, tool_choice and response_format -> the fields of the wire. Pure."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BeforeValidator, Field, model_validator

from gateway.core.validation import RequestBody

_MAX_TOOLS = 128


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
    arguments: Annotated[str, BeforeValidator(_as_text)] = "{}"


class ToolCall(RequestBody):
    """A call in an assistant's turn that is sent back."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


@dataclass(slots=True, frozen=True)
class NamedTool:
    """The tool_choice that is one function."""

    name: str


ToolChoice = Literal["none", "auto", "required"] | NamedTool


def choice_of(choice: object) -> ToolChoice:
    """OpenAI's tool_choice. Raises ValueError."""
    match choice:
        case None:
            return "auto"
        case "none" | "auto" | "required":
            return choice
        case {"type": "function", "function": {"name": str(name)}}:
            return NamedTool(name)
    raise ValueError('must be "none", "auto", "required" or {"type": "function", "function": {"name": "..."}}')


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


def tools_of(tools: object) -> list[dict[str, Any]]:
    """OpenAI's list of tools, checked; a function alone gets its wrapper. Raises ValueError."""
    if tools is None:
        return []
    if not isinstance(tools, list) or len(tools) > _MAX_TOOLS:
        raise ValueError(f"must be a list of up to {_MAX_TOOLS} tools")
    names = set()
    tools = [_wrapped(tool) for tool in tools]
    for position, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
            raise ValueError(f'tool {position} is not {{"type": "function", "function": {{...}}}}')
        name, parameters = tool["function"].get("name"), tool["function"].get("parameters")
        if not isinstance(name, str) or not name or name in names:
            raise ValueError(f"tool {position} has no name of its own")
        if parameters is not None and not isinstance(parameters, dict):
            raise ValueError(f"the parameters of {name} must be a JSON schema")
        names.add(name)
    return tools


def _wrapped(tool: Any) -> Any:
    is_bare = isinstance(tool, dict) and "name" in tool and tool.get("type", "function") == "function"
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}} if is_bare else tool


def unenforced(tools: list[dict[str, Any]], choice: ToolChoice) -> list[str]:
    """The fields of these tools that change nothing: a model that must not call gets no tools, and one that is free to
    call writes the arguments as it likes."""
    if choice == "none" and tools:
        return ["tools"]
    if choice != "auto":
        return []
    return [f"tools[{n}].function.strict" for n, tool in enumerate(tools) if tool["function"].get("strict") is True]


def required_names(tools: list[dict[str, Any]], choice: ToolChoice) -> list[str]:
    """The functions at least one of which must be called. Raises ValueError."""
    names = [tool["function"]["name"] for tool in tools]
    if isinstance(choice, NamedTool):
        if choice.name not in names:
            raise ValueError(f"tools has no function named {choice.name!r}")
        return [choice.name]
    if choice == "required":
        if not names:
            raise ValueError("required needs tools")
        return names
    return []
