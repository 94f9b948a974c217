"""Tools of a request -> functions of the wire, and which of them may or must be called. Pure.

The wire knows functions alone. A custom tool becomes one (gateway/core/custom_tools.py); a tool in a namespace gets
the namespace into its name. `ClientTool` remembers what the client called it, so that its calls go back in that form.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError

from broker.wire.failure import FailureError, invalid
from gateway.core.custom_tools import custom_function, grammar_in

_MAX_TOOLS = 512  # those in namespaces included
# Functions that stand in no namespace are in this one, where a client puts them into one.
_DEFAULT_NAMESPACE = "functions"


def wire_name(name: str, namespace: str | None) -> str:
    """The same for a tool and for its calls in earlier turns, whatever other tools there are."""
    if not namespace or namespace == _DEFAULT_NAMESPACE:
        return name
    return namespace + name if namespace.endswith("__") else f"{namespace}__{name}"


@dataclass(slots=True, frozen=True)
class ClientTool:
    """path: where the client put it; name, namespace: the client's; function: what the wire has of it; grammar: Lark,
    of the input of a custom tool."""

    path: str
    name: str
    namespace: str | None
    function: dict[str, Any]
    is_custom: bool = False
    grammar: str | None = None

    @property
    def wire_name(self) -> str:
        """Its name in prompts and calls."""
        return wire_name(self.name, self.namespace)


@dataclass(slots=True, frozen=True)
class ToolSelection:
    """The tools that a model is told of, the names on the wire of those one of which it must call, whether the answer
    ends with its first call, and what of the request this leaves out."""

    tools: Sequence[ClientTool] = ()
    required: Sequence[str] = ()
    one_call: bool = False
    ignored: Sequence[str] = ()


def refuse_many(tools: Any) -> None:
    """Before anything else reads them. tools: a list that nobody has checked. Raises FailureError."""
    if isinstance(tools, list):
        inner = [tool.get("tools") for tool in tools if isinstance(tool, dict)]
        if len(tools) + sum(len(some) for some in inner if isinstance(some, list)) > 2 * _MAX_TOOLS:
            raise _too_many()


def tools_in(entries: Sequence[tuple[str, Any]]) -> tuple[list[ClientTool], list[str]]:
    """The tools of (path, tool) in their order, and what is left out: tools that only OpenAI's own servers run. Raises
    FailureError."""
    tools: list[ClientTool] = []
    ignored: list[str] = []
    for path, tool in entries:
        kind = _kind_of(tool, path)
        if kind == "namespace":
            tools += _in_namespace(tool, path)
        elif kind in ("function", "custom"):
            tools.append(_tool(tool, path, None))
        else:
            ignored.append(f"{path} ({kind})")
        if len(tools) > _MAX_TOOLS:
            raise _too_many()
    names: set[str] = set()
    for one in tools:
        if one.wire_name in names:
            raise _wrong(f"{one.path}.name", f"another tool has the name {one.wire_name!r:.200} too")
        names.add(one.wire_name)
    return tools, ignored


def choose(tools: list[ClientTool], choice: Any, parallel: bool | None, *, has_hosted: bool = False) -> ToolSelection:
    """choice: OpenAI's tool_choice. has_hosted: there are tools that are left out; a choice of them is left out, too.
    Raises FailureError."""
    one_call = parallel is False
    match choice:
        case None | "auto":
            return ToolSelection(tools, (), one_call)
        case "none":
            return ToolSelection(ignored=["tools"] if tools else [])
        case "required" if not tools and has_hosted:
            return ToolSelection(ignored=["tool_choice"])
        case "required":
            return ToolSelection(tools, _required(tools), one_call)
        case {"type": "function" | "custom", "name": str()}:
            return ToolSelection(tools, [_chosen(tools, choice, "tool_choice").wire_name], one_call=True)
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(named)}:
            names = {tool.wire_name for tool in _allowed(tools, named)}
            allowed = [tool for tool in tools if tool.wire_name in names]
            if mode == "required":
                # All stay in the prompt, which keeps the prompt cache.
                return ToolSelection(tools, _required(allowed), one_call)
            return ToolSelection(allowed, (), one_call)
        case {"type": str(kind)} if kind not in ("function", "custom", "allowed_tools"):
            if has_hosted:
                return ToolSelection(tools, (), one_call, ignored=["tool_choice"])
            raise _wrong("tool_choice", f"no tool of the type {kind!r:.80} is served here")
    raise _wrong(
        "tool_choice",
        'must be "none", "auto", "required", {"type": "function" or "custom", "name": "..."} or {"type": '
        '"allowed_tools", "mode": "auto" or "required", "tools": [...]}',
    )


def _required(tools: Sequence[ClientTool]) -> list[str]:
    if not tools:
        raise _wrong("tool_choice", "required needs tools")
    return [tool.wire_name for tool in tools]


def _allowed(tools: list[ClientTool], named: list[Any]) -> Iterator[ClientTool]:
    if len(named) > 2 * _MAX_TOOLS:
        raise _wrong("tool_choice.tools", f"there are more than {2 * _MAX_TOOLS} tools")
    for position, entry in enumerate(named):
        where = f"tool_choice.tools[{position}]"
        if _kind_of(entry, where) in ("function", "custom"):
            yield _chosen(tools, entry, where)
        elif entry["type"] == "namespace":
            yield from (tool for tool in tools if tool.namespace == entry.get("name"))


def _chosen(tools: list[ClientTool], named: dict[str, Any], where: str) -> ClientTool:
    """A name without a namespace is that of a tool in none, or else of the only one that has it."""
    name, namespace = named.get("name"), named.get("namespace")
    fitting = [
        tool
        for tool in tools
        if tool.name == name and tool.is_custom == (named["type"] == "custom") and namespace in (None, tool.namespace)
    ]
    plain = [tool for tool in fitting if tool.namespace is None]
    if len(fitting) == 1 or plain:
        return (plain or fitting)[0]
    problem = "several namespaces have" if fitting else "tools has no"
    raise _wrong(where, f"{problem} {named['type']} tool named {name!r:.200}")


def _in_namespace(group: dict[str, Any], path: str) -> list[ClientTool]:
    name, description, inner = group.get("name"), group.get("description"), group.get("tools")
    if not isinstance(name, str) or not name:
        raise _wrong(f"{path}.name", "must be a text that is not empty")
    if description is not None and not isinstance(description, str):
        raise _wrong(f"{path}.description", "must be a text")
    if not isinstance(inner, list):
        raise _wrong(f"{path}.tools", "must be a list of tools")
    tools = []
    for position, tool in enumerate(inner):
        where = f"{path}.tools[{position}]"
        if _kind_of(tool, where) not in ("function", "custom"):
            raise _wrong(f"{where}.type", "must be function or custom in a namespace")
        tools.append(_tool(tool, where, name))
    if tools and description and name != _DEFAULT_NAMESPACE:
        # Templates know no groups: the description stands once, where the group begins.
        first = tools[0].function
        first["description"] = f"{first.get('description', '')}\n\n{name}: {description}".strip()
    return tools


def _tool(tool: dict[str, Any], path: str, namespace: str | None) -> ClientTool:
    name, description = tool.get("name"), tool.get("description")
    if not isinstance(name, str) or not name:
        raise _wrong(f"{path}.name", "must be a text that is not empty")
    if description is not None and not isinstance(description, str):
        raise _wrong(f"{path}.description", "must be a text")
    if tool["type"] == "custom":
        try:
            grammar = grammar_in(tool.get("format"), f"{path}.format")
        except PydanticCustomError as error:
            mistake = error.context or {}
            raise _wrong(mistake["path"], mistake["message"]) from None
        function = custom_function(wire_name(name, namespace), description, grammar)["function"]
        return ClientTool(path, name, namespace, function, is_custom=True, grammar=grammar)
    function = {"name": wire_name(name, namespace)}
    if description is not None:
        function["description"] = description
    parameters, strict = tool.get("parameters"), tool.get("strict")
    if parameters is not None:
        if not isinstance(parameters, dict):
            raise _wrong(f"{path}.parameters", "must be a JSON schema")
        function["parameters"] = parameters
    if strict is not None:
        if not isinstance(strict, bool):
            raise _wrong(f"{path}.strict", "must be true or false")
        function["strict"] = strict
    return ClientTool(path, name, namespace, function)


def _kind_of(tool: Any, path: str) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if not isinstance(kind, str):
        raise _wrong(path, 'must be an object with a type, such as {"type": "function", "name": "..."}')
    return kind


def _too_many() -> FailureError:
    return _wrong("tools", f"there are more than {_MAX_TOOLS} tools")


def _wrong(path: str, problem: str) -> FailureError:
    return invalid(f"{path}: {problem}", path)
