"""Anthropic's tools and tool_choice -> the fields of the wire. Pure.

A tool with an `input_schema` is the client's own. One without is known to Anthropic's models or run by its servers (web
search and the like): it is left out, and so is a choice of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.core.validation import at

_MAX_TOOLS = 1024
_CHOICE = 'must be {"type": "auto"}, {"type": "any"}, {"type": "none"} or {"type": "tool", "name": "..."}'


@dataclass(slots=True, frozen=True)
class ToolSet:
    """tools: in OpenAI's form; places: the position of each in the request; left_out: positions and names of the
    others."""

    tools: list[dict[str, Any]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of those that the model is told of."""
        return [tool["function"]["name"] for tool in self.tools]


@dataclass(slots=True, frozen=True)
class Choosing:
    """What a tool_choice asks for. must_call: at least one tool, `name` where it is one; one_call: at most one call."""

    may_call: bool = True
    must_call: bool = False
    name: str | None = None
    one_call: bool = False


def tools_of(tools: object) -> ToolSet:
    """Raises a ValueError that names the tool."""
    if tools is None:
        return ToolSet()
    if not isinstance(tools, list) or len(tools) > _MAX_TOOLS:
        raise ValueError(f"must be a list of up to {_MAX_TOOLS} tools")
    found = ToolSet()
    names: set[str] = set()
    for index, tool in enumerate(tools):
        place = f"[{index}]"
        if not isinstance(tool, dict):
            raise at(place, "must be an object")
        is_foreign = "input_schema" not in tool and tool.get("type") not in (None, "custom")
        name = tool.get("name", tool.get("type") if is_foreign else None)
        if not isinstance(name, str) or not name:
            raise at(f"{place}.name", "must be a string that is not empty")
        if name in names and not (is_foreign and "name" not in tool):  # several sets of tools have one type
            raise at(f"{place}.name", f"{name!r:.80} is the name of another tool, too")
        names.add(name)
        if is_foreign:
            found.left_out[index] = name
        else:
            found.tools.append(_function(tool, name, place))
            found.places.append(index)
    return found


def _function(tool: dict[str, Any], name: str, place: str) -> dict[str, Any]:
    function: dict[str, Any] = {"name": name}
    description, schema, strict = (tool.get(key) for key in ("description", "input_schema", "strict"))
    if not isinstance(schema, dict):
        raise at(f"{place}.input_schema", "must be a JSON schema")
    if description is not None:
        if not isinstance(description, str):
            raise at(f"{place}.description", "must be a string")
        function["description"] = description
    if strict is not None:
        if not isinstance(strict, bool):
            raise at(f"{place}.strict", "must be true or false")
        function["strict"] = strict
    return {"type": "function", "function": {**function, "parameters": schema}}


def choosing_of(choice: object) -> Choosing:
    """Raises ValueError."""
    if choice is None:
        return Choosing()
    if not isinstance(choice, dict):
        raise ValueError(_CHOICE)
    one_call = choice.get("disable_parallel_tool_use")
    if one_call is not None and not isinstance(one_call, bool):
        raise at(".disable_parallel_tool_use", "must be true or false")
    one_call = bool(one_call)
    match choice:
        case {"type": "auto"}:
            return Choosing(one_call=one_call)
        case {"type": "any"}:
            return Choosing(must_call=True, one_call=one_call)
        case {"type": "none"}:
            return Choosing(may_call=False)
        case {"type": "tool", "name": str(name)}:  # who forces one tool wants one call
            return Choosing(must_call=True, name=name, one_call=True)
    raise ValueError(_CHOICE)


def required_names(tools: ToolSet, choice: Choosing) -> Sequence[str]:
    """The tools at least one of which must be called: none if the chosen ones are left out. Raises ValueError."""
    if not choice.must_call:
        return []
    if choice.name is not None and choice.name not in tools.left_out.values():
        if choice.name not in tools.names:
            raise ValueError(f"there is no tool {choice.name!r:.80}")
        return [choice.name]
    if choice.name is None and tools.tools:
        return tools.names
    if not tools.left_out:
        raise ValueError("any needs tools")
    return []
