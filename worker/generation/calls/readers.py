"""The text of calls, as models of different families write it, to `{name, arguments, id}`. Raises for anything else.

A reader gets the text between the marks of a CallFormat, and the request's tools.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mlx_lm.tool_parsers.pythonic import parse_tool_call as parse_pythonic

from worker.generation.calls.typed import kind_of, parameters_of, property_of, typed

Reader = Callable[[str, list[dict[str, Any]]], list[dict[str, Any]]]

# A model may write a line break inside a string.
_JSON = json.JSONDecoder(strict=False)
_BETWEEN = re.compile(r"[\s,;]*")
# How such a call begins, without its blanks.
BOUND_CALL = '{"name"'
_NAMES = ("name", "tool_name")
_ARGUMENTS = ("arguments", "parameters")
_MISTRAL = re.compile(r"(?P<name>[\w.-]+)\s*(?:\[CALL_ID\]\s*(?P<id>\w+)\s*)?\[ARGS\]\s*")


def read_json(text: str, _tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls as JSON objects or lists of them, one after the other."""
    return [_named(call) for call in _values(text)]


def read_keyed_json(text: str, _tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`[{"NAME": {ARGUMENTS}}]` (Apertus)."""
    return [{"name": name, "arguments": arguments} for call in _values(text) for name, arguments in call.items()]


def read_bare_json(text: str, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls that nothing marks (Llama 3): only those of tools that the request has are calls."""
    calls = read_json(text.strip().removeprefix("<|python_tag|>"), tools)
    known = {(tool.get("function") or {}).get("name") for tool in tools}
    if any(call["name"] not in known for call in calls):
        raise ValueError("no tool has this name")
    return calls


def read_bound_json(text: str, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The call in an answer that follows `constraints.calls.call_or_text_schema`: any other object is a text."""
    call = _JSON.decode(text.strip())
    if call.keys() != {"name", "parameters"}:
        raise ValueError("this is a text")
    return read_bare_json(text, tools)


def _values(text: str) -> Iterator[dict[str, Any]]:
    begin = _BETWEEN.match(text).end()  # type: ignore[union-attr] # it matches nothing, too
    while begin < len(text):
        value, end = _JSON.raw_decode(text, begin)
        for call in value if isinstance(value, list) else [value]:
            if not isinstance(call, dict):
                raise TypeError("a call must be an object")
            yield call
        begin = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]


def _named(call: dict[str, Any]) -> dict[str, Any]:
    if isinstance(call.get("function"), dict):  # OpenAI's own form
        call = {**call["function"], "id": call.get("id")}
    return {
        "name": next((call[key] for key in _NAMES if key in call), None),
        "arguments": next((call[key] for key in _ARGUMENTS if key in call), None),
        "id": call.get("id"),
    }


def read_mistral(text: str, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A list in JSON, or `NAME[ARGS]{...}` and `NAME[CALL_ID]ID[ARGS]{...}`, one after the other."""
    if text.lstrip().startswith("["):
        return read_json(text, tools)
    calls, position = [], 0
    while (head := _MISTRAL.search(text, position)) is not None:
        arguments, position = _JSON.raw_decode(text, head.end())
        calls.append({**head.groupdict(), "arguments": arguments})
    if not calls:
        raise ValueError("there is no call")
    return calls


def read_pythonic(text: str, tools: list[dict[str, Any]]) -> Any:
    """`[name(key="value")]` (LFM2). Templates write line breaks inside strings, which Python does not read."""
    escaped = text.replace("\r", "\\r").replace("\n", "\\n")
    try:
        ast.parse(text.strip())
    except SyntaxError:
        text = escaped
    return parse_pythonic(text, tools)


@dataclass(slots=True, frozen=True)
class Headed:
    """The name and perhaps an id before JSON arguments. call: groups `name`, `arguments` and perhaps `id`."""

    call: re.Pattern[str]

    def __call__(self, text: str, _tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        calls = []
        for found in _all(self.call, text):
            arguments = found["arguments"].strip()
            calls.append({**found, "arguments": _JSON.decode(arguments) if arguments else {}})
        return calls


@dataclass(slots=True, frozen=True)
class Tagged:
    """Each argument between tags of its own, without quotes. call: groups `name` and `body`. parameter: `name`,
    `value`, and perhaps `string`: `true` if the markup says so. lines: the template writes values on lines of their
    own, so that one line break at each end is no part of them."""

    call: re.Pattern[str]
    parameter: re.Pattern[str]
    lines: bool = False

    def __call__(self, text: str, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if text.lstrip().startswith("{"):  # some models fall back to JSON
            return read_json(text, tools)
        calls = []
        for found in _all(self.call, text):
            schema = parameters_of(found["name"], tools)
            arguments = {}
            for parameter in self.parameter.finditer(found["body"]):
                name, value = parameter["name"], self._value(parameter["value"])
                kind = kind_of(property_of(schema, name, schema), schema)
                is_string = parameter.groupdict().get("string") == "true"
                arguments[name] = value if is_string else typed(value, kind)
            calls.append({"name": found["name"], "arguments": arguments})
        return calls

    def _value(self, text: str) -> str:
        if found := _CDATA.fullmatch(text):
            return found[1]
        return text.removeprefix("\n").removesuffix("\n") if self.lines else text


def _all(pattern: re.Pattern[str], text: str) -> list[dict[str, str]]:
    found = [match.groupdict() for match in pattern.finditer(text)]
    if not found:
        raise ValueError("there is no call")
    return found


_CDATA = re.compile(r"\s*<!\[CDATA\[(.*?)\]\]>\s*", re.DOTALL)
_QUOTED = r"[\"']?(?P<name>[^\"'>]+)[\"']?"


def _tagged(call: str, parameter: str, *, lines: bool = False) -> Tagged:
    return Tagged(re.compile(call, re.DOTALL), re.compile(parameter, re.DOTALL), lines)


def key_value(key: str, value: str, separator: str = "") -> Tagged:
    """`NAME <key>K</key> <value>V</value>` (GLM), with these words in the tags."""
    first = "|".join(filter(None, (re.escape(separator), f"<{re.escape(key)}>", r"\s*\Z")))
    return _tagged(
        rf"\A\s*(?P<name>[^\s<>]+)\s*(?={first})(?P<body>.*)\Z",
        rf"<{key}>\s*(?P<name>.*?)\s*</{key}>(?:\\n|\s)*<{value}>(?P<value>.*?)</{value}>",
    )


def invoked(prefix: str, parameter: str = "") -> Tagged:
    """`<invoke name="N"><parameter name="K">V</parameter></invoke>` (MiniMax, Muse, DeepSeek V3.2)."""
    p = re.escape(prefix)
    end = rf"</{p}parameter>(?=\s*(?:<{p}parameter|\Z))"
    return _tagged(
        rf"<{p}invoke\b[^>]*?\bname={_QUOTED}>(?P<body>.*?)</{p}invoke>",
        rf"<{p}parameter\b[^>]*?\bname={_QUOTED}{parameter}[^>]*>(?P<value>.*?){end}",
    )


def headed(call: str) -> Headed:
    """JSON arguments after a name."""
    return Headed(re.compile(call, re.DOTALL))


# Qwen3-Coder, Seed-OSS.
read_functions = _tagged(
    r"<function=\s*(?P<name>[^\s<>]+)\s*>?(?P<body>.*?)</function>\s*\Z",
    r"<parameter=\s*(?P<name>[^\s<>]+)\s*>(?P<value>.*?)</parameter>(?=\s*(?:<parameter=|\Z))",
    lines=True,
)
# MiniCPM 5, after `<function name=`.
read_params = _tagged(
    rf"\A\s*{_QUOTED}\s*>(?P<body>.*)\Z",
    rf"<param\s+name\s*=\s*{_QUOTED}\s*>(?P<value>.*?)</param>",
)
