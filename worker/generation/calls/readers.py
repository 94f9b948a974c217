"""The text of calls, as models of different families write it, to `{name, arguments, id}`. Raises for anything else.

A reader gets the text between the marks of a CallFormat, and the request's tools. It takes time in proportion to the
text, which a model writes: patterns match at a position, never search, and never go back (`*+`, `(?>...)`).
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
_MISTRAL = re.compile(r"(?P<name>[\w.-]++)\s*+(?:\[CALL_ID\]\s*+(?P<id>\w++)\s*+)?+\[ARGS\]\s*+")
_GEMMA = re.compile(r"call:(?P<name>[\w.-]++)(?=\{)")
_GEMMA_QUOTES = re.compile(r'<\|"\|>(?P<text>(?>.*?(?=<\|"\|>)))<\|"\|>|(?<=[{,])\s*+(?P<key>[\w.$-]++):', re.DOTALL)
_BETWEEN_MISTRAL = re.compile(r"(?:[\s,;]|\[TOOL_CALLS\])*+")


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
    begin = _beyond(_BETWEEN, text, 0)
    while begin < len(text):
        value, end = _JSON.raw_decode(text, begin)
        for call in value if isinstance(value, list) else [value]:
            if not isinstance(call, dict):
                raise TypeError("a call must be an object")
            yield call
        begin = _beyond(_BETWEEN, text, end)


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
    calls: list[dict[str, Any]] = []
    position = _beyond(_BETWEEN_MISTRAL, text, 0)
    while position < len(text) or not calls:
        head = _matched(_MISTRAL, text, position)
        arguments, position = _JSON.raw_decode(text, head.end())
        calls.append({**head.groupdict(), "arguments": arguments})
        position = _beyond(_BETWEEN_MISTRAL, text, position)
    return calls


def read_gemma(text: str, _tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`call:NAME{key:<|"|>text<|"|>,other:[1]}` (Gemma 4): JSON but for the quotes."""
    calls: list[dict[str, Any]] = []
    text = _GEMMA_QUOTES.sub(_with_quotes, text)
    position = _beyond(_BLANKS, text, 0)
    while position < len(text) or not calls:
        head = _matched(_GEMMA, text, position)
        arguments, position = _JSON.raw_decode(text, head.end())
        calls.append({"name": head["name"], "arguments": arguments})
        position = _beyond(_BLANKS, text, position)
    return calls


def _with_quotes(found: re.Match[str]) -> str:
    return f"{json.dumps(found['key'])}:" if found["text"] is None else json.dumps(found["text"])


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
    """The name and perhaps an id before JSON arguments. head: groups `name` and perhaps `id`. tail: after them."""

    head: re.Pattern[str]
    tail: re.Pattern[str]

    def __call__(self, text: str, _tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []
        position = _beyond(_BLANKS, text, 0)
        while position < len(text) or not calls:
            head = _matched(self.head, text, position)
            arguments: Any = {}
            end = head.end()
            if self.tail.match(text, end) is None:
                arguments, end = _JSON.raw_decode(text, end)
            position = _beyond(_BLANKS, text, _matched(self.tail, text, end).end())
            calls.append({**head.groupdict(), "arguments": arguments})
        return calls


@dataclass(slots=True, frozen=True)
class Tagged:
    """Each argument between tags of its own, without quotes. Whatever else is in a call makes it malformed.

    head, end: of a call, with group `name`. parameter: its opening, with groups `name` and perhaps `string`: `true` if
    the markup says so. close: its closing tag, which counts where `follows` comes next: a value may contain it.
    lines: the template writes values on lines of their own, so that one line break at each end is no part of them.
    """

    head: re.Pattern[str]
    end: re.Pattern[str]
    parameter: re.Pattern[str]
    close: str
    follows: re.Pattern[str]
    lines: bool = False

    def __call__(self, text: str, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if text.lstrip().startswith("{"):  # some models fall back to JSON
            return read_json(text, tools)
        calls: list[dict[str, Any]] = []
        position = _beyond(_BLANKS, text, 0)
        while position < len(text) or not calls:
            head = _matched(self.head, text, position)
            schema = parameters_of(head["name"], tools)
            arguments: dict[str, Any] = {}
            position = _beyond(_BLANKS, text, head.end())
            while (end := self.end.match(text, position)) is None:
                parameter = _matched(self.parameter, text, position)
                name, close = parameter["name"].strip(), self._close(text, parameter.end())
                value = self._value(text[parameter.end() : close])
                is_string = parameter.groupdict().get("string") == "true"
                arguments[name] = (
                    value if is_string else typed(value, kind_of(property_of(schema, name, schema), schema))
                )
                position = _beyond(_BLANKS, text, close + len(self.close))
            calls.append({"name": head["name"], "arguments": arguments})
            position = _beyond(_BLANKS, text, end.end())
        return calls

    def _close(self, text: str, begin: int) -> int:
        """Where the closing tag of the value that begins here is."""
        while (close := text.find(self.close, begin)) >= 0:
            begin = close + len(self.close)
            if self.follows.match(text, begin):
                return close
        raise ValueError("an argument does not close")

    def _value(self, text: str) -> str:
        if found := _CDATA.fullmatch(text):
            return found[1]
        return text.removeprefix("\n").removesuffix("\n") if self.lines else text


def _matched(pattern: re.Pattern[str], text: str, position: int) -> re.Match[str]:
    found = pattern.match(text, position)
    if found is None:
        raise ValueError("a part of a call must stand here")
    return found


def _beyond(blanks: re.Pattern[str], text: str, position: int) -> int:
    found = blanks.match(text, position)
    return position if found is None else found.end()


_CDATA = re.compile(r"\s*+<!\[CDATA\[((?>.*?(?=\]\]>)))\]\]>\s*+", re.DOTALL)
_QUOTED = r"[\"']?+(?P<name>[^\"'>]++)[\"']?+"
# Some models write `\n` between arguments.
_BLANK = r"(?:\\n|\s)*+"
_BLANKS = re.compile(_BLANK)


def _tagged(head: str, end: str, parameter: tuple[str, str, str], *, lines: bool = False) -> Tagged:
    """parameter: how it begins, its whole opening, its closing tag."""
    begin, opening, close = parameter
    follows = re.compile(rf"{_BLANK}(?:{begin}|{end})")
    return Tagged(re.compile(head), re.compile(end), re.compile(opening, re.DOTALL), close, follows, lines)


def key_value(key: str, value: str, separator: str = "") -> Tagged:
    """`NAME <key>K</key> <value>V</value>` (GLM), with these words in the tags."""
    name = rf"(?P<name>(?>.*?(?=</{key}>)))"
    return _tagged(
        rf"(?P<name>[^\s<>]++)\s*+(?:{re.escape(separator)})?+",
        r"\Z",
        (f"<{key}>", rf"<{key}>{name}</{key}>{_BLANK}<{value}>", f"</{value}>"),
    )


def invoked(prefix: str, string: str = "") -> Tagged:
    """`<invoke name="N"><parameter name="K">V</parameter></invoke>` (MiniMax, Muse, DeepSeek V3.2)."""
    p = re.escape(prefix)
    name = rf"\b(?>[^>]*?\bname=){_QUOTED}"
    return _tagged(
        rf"<{p}invoke{name}[^>]*+>",
        rf"</{p}invoke>(?=\s*+(?:<{p}invoke|\Z))",
        (f"<{p}parameter", rf"<{p}parameter{name}{string}[^>]*+>", f"</{prefix}parameter>"),
    )


def headed(head: str, tail: str = r"\s*+\Z") -> Headed:
    """JSON arguments after a name."""
    return Headed(re.compile(head + r"\s*+", re.DOTALL), re.compile(tail))


# Qwen3-Coder, Seed-OSS.
read_functions = _tagged(
    r"<function=\s*+(?P<name>[^\s<>]++)\s*+>?+",
    r"</function>(?=\s*+(?:<function=|\Z))",
    ("<parameter=", r"<parameter=\s*+(?P<name>[^\s<>]++)\s*+>", "</parameter>"),
    lines=True,
)
# MiniCPM 5, after `<function name=`.
read_params = _tagged(
    rf"{_QUOTED}\s*+>",
    r"\Z",
    (r"<param\s", rf"<param\s++name\s*+=\s*+{_QUOTED}\s*+>", "</param>"),
)
