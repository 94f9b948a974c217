"""Grammars of calls in the form of a model's family, which begin behind the mark that begins a call. Pure.

Blanks may stand between terminals, so whatever must not have any is one terminal. In JSON all arguments are one schema;
between tags each argument is one terminal with its tags, and a text never contains the closing tag: so it is read as
it was bound.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from worker.generation.calls.shapes import HeadedCalls, ObjectCalls, QuotedCalls, Shape, TaggedCalls
from worker.generation.calls.typed import kind_of
from worker.generation.constraints.bounds import Schema
from worker.generation.constraints.calls import call_schema
from worker.generation.constraints.lark import escaped

# One text -> its items of a Lark rule: special tokens stand apart.
Literal = Callable[[str], list[str]]

BLANKS = r"[ \n\t]{0,16}"
INPUT = "input"

_NO_BLANKS = "%llguidance {}\n"
# Blanks between terminals are those inside JSON: with other options llguidance would have to choose one of the two.
LARK_HEAD = f'%llguidance {{"allow_initial_skip": true, "ignore_once": true}}\n%ignore /{BLANKS}/\n'
_OPTIONS = {"whitespace_pattern": BLANKS, "lenient": False, "coerce_one_of": False}
_ANY = {"id": "/[A-Za-z0-9_-]{1,64}/", "number": "/[0-9]{1,4}/"}
_PLACE = re.compile(r"\{(\w+)\}")
_FREE = "(?s:.*)"
_TRIMMED = r"(?s:[^\n](?:.*[^\n])?)?"
_KEY = r"[^<>\x22\s]+"  # of an argument whose name is free
# Keywords of a string between tags that are enforced; others that change nothing.
_ANNOTATIONS = {"title", "description", "default", "examples", "$schema", "$id", "$comment"}


class UnboundError(Exception):
    """Calls of this form cannot be bound as wanted."""


@dataclass(slots=True, frozen=True)
class BoundTool:
    """A function and how its calls are bound. arguments: their schema. is_strict: it is enforced, else any object will
    do. pattern: of the text `input`, where it must follow one; grammar: Lark, where there is no pattern of it."""

    name: str
    arguments: Schema
    is_strict: bool = False
    pattern: str | None = None
    grammar: str | None = None


def calls_grammar(shape: Shape, tools: list[BoundTool], end: str, literal: Literal) -> str:
    """Lark. end: the mark behind calls, "" where they go on to the end of the answer. Raises UnboundError."""
    last = " ".join(literal(end)) if end else ""
    if isinstance(shape, QuotedCalls):
        return f"{_NO_BLANKS}start: calls\n{_quoted_calls(shape, tools, end, literal)}"
    return f"{LARK_HEAD}start: calls {last}\n{_rules(shape, tools, literal)}"


def _rules(shape: ObjectCalls | HeadedCalls | TaggedCalls, tools: list[BoundTool], literal: Literal) -> str:
    """The rule `calls`, and those that it needs."""
    match shape:
        case ObjectCalls():
            return _objects(shape, tools)
        case HeadedCalls():
            return _headed(shape, tools, literal)
        case TaggedCalls():
            return _tagged(shape, tools, literal)


def check_bound(shape: Shape, tool: BoundTool, literal: Literal) -> None:
    """Raises UnboundError where this form cannot bind the calls of this tool."""
    if isinstance(shape, QuotedCalls) and tool.pattern is None:
        raise UnboundError("only a text with a pattern is bound between quotes")
    if not isinstance(shape, TaggedCalls) and tool.grammar is not None and tool.pattern is None:
        raise UnboundError("a text in JSON must have a pattern")
    if isinstance(shape, TaggedCalls):
        _tagged(shape, [tool], literal)


def json_rule(schema: Schema) -> str:
    """What follows the schema, as a part of a rule."""
    return "%json " + json.dumps({**schema, "x-guidance": _OPTIONS})


def _objects(shape: ObjectCalls, tools: list[BoundTool]) -> str:
    choices = [(tool.name, tool.arguments) for tool in tools]
    one, several = (
        call_schema(
            choices,
            one_call=one_call,
            name=shape.name,
            arguments=shape.arguments,
            before=shape.before,
            after=shape.after,
        )
        for one_call in (True, False)
    )
    ways = ["several"] if shape.in_list else []
    ways += ["one+"] if shape.in_lines else [] if shape.in_list else ["one"]
    return f"calls: {' | '.join(ways)}\none: {json_rule(one)}\nseveral: {json_rule(several)}\n"


def _headed(shape: HeadedCalls, tools: list[BoundTool], literal: Literal) -> str:
    rules = []
    ways = []
    for number, tool in enumerate(tools):
        rules.append(f"arguments{number}: {json_rule(tool.arguments)}")
        ways += [_way(call, tool.name, f"arguments{number}", literal) for call in shape.calls]
    if shape.between is None:
        rules.append("calls: call")
    else:
        rules.append(f"calls: call ({' '.join(literal(shape.between)) if shape.between else ''} call)*")
    return "\n".join([*rules, "call: " + " | ".join(ways)]) + "\n"


def _way(call: str, name: str, arguments: str, literal: Literal) -> str:
    """One way to write a call, as a sequence of a rule."""
    items: list[str] = []
    text = ""
    for number, part in enumerate(_PLACE.split(call)):
        if number % 2 == 0:
            text += part
        elif part == "name":
            text += name
        else:
            items += [*(literal(text) if text.strip() else []), arguments if part == "arguments" else _ANY[part]]
            text = ""
    return " ".join([*items, *(literal(text) if text.strip() else [])])


def _tagged(shape: TaggedCalls, tools: list[BoundTool], literal: Literal) -> str:
    tags = _Tags(shape, literal)
    calls = " | ".join(tags.call(number, tool) for number, tool in enumerate(tools))
    return "\n".join([f"calls: call{'+' if shape.several else ''}\ncall: {calls}", *tags.rules]) + "\n"


def _quoted_calls(shape: QuotedCalls, tools: list[BoundTool], end: str, literal: Literal) -> str:
    """Of a text that no special token ends only one terminal, up to what ends it, shows the end."""
    quote, last = literal(shape.quote), literal(end)
    has_quotes, has_end = quote[0].startswith("<"), last[0].startswith("<")
    if has_quotes and not has_end:
        raise UnboundError("its quotes are special tokens, and its end is not")
    rules = [f"HAS: /{_FREE}{escaped(shape.quote)}{_FREE}/", f"ENDS: /{_FREE}{escaped(end)}{_FREE}/"]
    for number, tool in enumerate(tools):
        head = f"call:{tool.name}{{"
        if tool.pattern is not None:
            limit = "" if has_quotes else " & ~HAS"
            rules.append(f"TEXT{number}: /{tool.pattern}/{limit}")
            call = " ".join([_quoted(f"{head}{INPUT}:"), *quote, f"TEXT{number}", *quote, _quoted("}")])
            is_terminal = not has_quotes
        else:
            rules.append(f"TEXT{number}: /{_FREE}/ & ~ENDS")
            free = f"({quote[0]} | TEXT{number})*" if has_quotes else f"TEXT{number}"
            call, is_terminal = " ".join([_quoted(head), free, *([] if has_end else last)]), not has_end
        follows = " ".join(last) if has_end or tool.pattern is not None else ""
        rules.append(f"{'WHOLE' if is_terminal else 'whole'}{number}: {call}")
        rules.append(f"call{number}: {'WHOLE' if is_terminal else 'whole'}{number} {follows}")
    return "\n".join([f"calls: {' | '.join(f'call{number}' for number in range(len(tools)))}", *rules]) + "\n"


class _Tags:
    """Collects the terminals of arguments between tags: mutable state `rules`."""

    def __init__(self, shape: TaggedCalls, literal: Literal) -> None:
        self._shape = shape
        self._literal = literal
        self.rules = [f"HAS: /{_FREE}{escaped(shape.close.strip())}{_FREE}/", f"TRIMMED: /{_TRIMMED}/"]
        self._limits = "~HAS & TRIMMED" if shape.is_trimmed else "~HAS"

    def call(self, number: int, tool: BoundTool) -> str:
        """A call of this tool, as a sequence of a rule."""
        if tool.pattern is not None:
            arguments = self._text(f"{number}", INPUT, f"/{tool.pattern}/")
        elif tool.grammar is not None:
            arguments = self._nested(f"{number}", tool.grammar)
        elif tool.is_strict:
            arguments = self._arguments(number, tool.arguments)
        else:
            arguments = f"{self._any(number)}*"
        head = self._literal(self._shape.head.replace("{name}", tool.name))
        end = self._literal(self._shape.end) if self._shape.end else []
        return " ".join([*head, arguments, *end])

    def _text(self, place: str, key: str, value: str, opening: str | None = None) -> str:
        """The terminal of an argument whose value is this terminal's text. opening: where it is not that of a text."""
        opening = opening or self._shape.opening_of_text or self._shape.opening
        self.rules.append(f"VALUE{place}: {value} & {self._limits}")
        self.rules.append(f"TEXT{place}: {self._opening(opening, key)} VALUE{place} {self._plain(self._shape.close)}")
        return f"TEXT{place}"

    def _nested(self, place: str, grammar: str) -> str:
        """Not one terminal: only the grammar itself can keep a text from containing the closing tag."""
        opening = self._shape.opening_of_text or self._shape.opening
        self.rules.append(f"OPENING{place}: {self._opening(opening, INPUT)}")
        self.rules.append(f"value{place}: %lark {{\n{grammar}\n}}")
        return f"OPENING{place} value{place} {self._plain(self._shape.close)}"

    def _any(self, number: int) -> str:
        """The terminal of any argument."""
        openings = {self._shape.opening, self._shape.opening_of_text or self._shape.opening}
        ways = " | ".join(self._opening(opening, None) for opening in sorted(openings))
        self.rules.append(f"FREE{number}: /{_FREE}/ & {self._limits}")
        self.rules.append(f"ANY{number}: ({ways}) FREE{number} {self._plain(self._shape.close)}")
        return f"ANY{number}"

    def _arguments(self, number: int, schema: Schema) -> str:
        """The arguments of a strict function, in the order of its schema."""
        known = {"type", "properties", "required", "additionalProperties", "$defs", "definitions"} | _ANNOTATIONS
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if schema.keys() - known or schema.get("additionalProperties") is not False or not isinstance(properties, dict):
            raise UnboundError("the schema of the arguments is not a list of them alone")
        if not set(required) <= properties.keys():
            raise UnboundError("an argument that is required has no schema")
        items = []
        for position, (key, value) in enumerate(properties.items()):
            argument = self._argument(f"{number}_{position}", key, value, schema)
            items.append(argument if key in required else f"({argument})?")
        return " ".join(items)

    def _argument(self, place: str, key: str, value: Any, root: Schema) -> str:
        kind = kind_of(value, root)
        if not isinstance(value, dict) or (kind.types != {"string"} and "string" in kind.types):
            raise UnboundError("an argument may be a text or something else")
        if kind.types == {"boolean"} and kind.values is None:
            return self._text(place, key, "/[Tt]rue|[Ff]alse/", self._shape.opening)  # templates write both
        if "string" not in kind.types:
            definitions: Schema = {name: root[name] for name in ("$defs", "definitions") if name in root}
            self.rules.append(f"OPENING{place}: {self._opening(self._shape.opening, key)}")
            self.rules.append(f"json{place}: {json_rule({**value, **definitions})}")
            return f"OPENING{place} json{place} {self._plain(self._shape.close)}"
        if value.keys() - _ANNOTATIONS - {"type", "enum", "const"}:
            raise UnboundError("a text between tags is not bound by its schema")
        texts = [text for text in kind.values or () if isinstance(text, str)]
        return self._text(place, key, "(" + " | ".join(map(_quoted, texts)) + ")" if texts else f"/{_FREE}/")

    def _opening(self, opening: str, key: str | None) -> str:
        """Of an argument, as items of a terminal. key: None for any."""
        before, _, rest = opening.partition("{key}")
        name = f"/{_KEY}/" if key is None else _quoted(key)
        between, blanks, after = rest.partition("{blanks}")
        items = [self._plain(before), name, self._plain(between), r"/\s{0,16}/" if blanks else "", self._plain(after)]
        return " ".join(item for item in items if item)

    def _plain(self, text: str) -> str:
        """A text inside a terminal, which cannot have special tokens."""
        if any(item.startswith("<") for item in self._literal(text) if text):
            raise UnboundError("its tags are special tokens")
        return _quoted(text) if text else ""


def _quoted(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f")
