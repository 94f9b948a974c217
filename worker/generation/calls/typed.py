"""Text to a JSON value, by the schema of the parameter that it is for. Some models write arguments without quotes.

Where the schema says string, the text is the value, blanks included; only `null` is null where that is allowed too.
Integers keep every digit. A schema is the client's: each of its parts is looked at once.
"""

import ast
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

_ALL = frozenset({"string", "integer", "number", "boolean", "null", "object", "array"})
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")

# How deep references and alternatives of a schema are followed.
_DEPTH = 64
# Alternatives with more values than these together allow any of their types.
_MAX_VALUES = 1000


@dataclass(slots=True, frozen=True)
class Allowed:
    """What a schema allows. types: of JSON, `number` only beside `integer`. values: the only ones, None for any."""

    types: frozenset[str] = _ALL
    values: tuple[Any, ...] | None = None

    def both(self, other: "Allowed") -> "Allowed":
        """What both allow."""
        return Allowed(self.types & other.types, other.values if self.values is None else self.values)

    def either(self, other: "Allowed") -> "Allowed":
        """What at least one allows."""
        values = None if self.values is None or other.values is None else (*self.values, *other.values)
        if values is not None and len(values) > _MAX_VALUES:
            values = None
        return Allowed(self.types | other.types, values)


ANYTHING = Allowed()


def parameters_of(name: str, tools: list[dict[str, Any]]) -> dict[str, Any]:
    """The schema of the arguments of the tool `name`, {} if it has none."""
    for tool in tools:
        function = tool.get("function")
        if isinstance(function, dict) and function.get("name") == name:
            parameters = function.get("parameters")
            return parameters if isinstance(parameters, dict) else {}
    return {}


def property_of(schema: Any, key: str, root: dict[str, Any]) -> Any:
    """The schema of one property, {} if none is known."""

    def find(schema: dict[str, Any]) -> Any:
        properties = schema.get("properties")
        return properties[key] if isinstance(properties, dict) and key in properties else {}

    return _found(schema, root, find, lambda schema: schema.get("additionalProperties") or {})


def items_of(schema: Any, root: dict[str, Any]) -> Any:
    """The schema of a list's elements, {} if none is known."""

    def find(schema: dict[str, Any]) -> Any:
        return schema["items"] if isinstance(schema.get("items"), dict) else {}

    return _found(schema, root, find, lambda _schema: {})


_Find = Callable[[dict[str, Any]], Any]


def _found(schema: Any, root: dict[str, Any], find: _Find, otherwise: _Find) -> Any:
    """What the schema or the first of its parts has, each looked at once; {} if none has it."""
    seen: set[int] = set()

    def within(schema: Any, depth: int) -> Any:
        if not isinstance(schema, dict) or depth > _DEPTH or id(schema) in seen:
            return {}
        seen.add(id(schema))
        if found := find(schema):
            return found
        for inner in _parts(schema, root):
            if found := within(inner, depth + 1):
                return found
        return otherwise(schema)

    return within(schema, 0)


def kind_of(schema: Any, root: dict[str, Any]) -> Allowed:
    """What the schema allows; root: where its references start."""
    # By the identity of a part. Inside itself a part may be anything.
    known: dict[int, Allowed] = {}

    def of(schema: Any, depth: int) -> Allowed:
        if not isinstance(schema, dict) or depth > _DEPTH:
            return ANYTHING
        if id(schema) in known:
            return known[id(schema)]
        known[id(schema)] = ANYTHING
        kind = _declared(schema)
        if "$ref" in schema:
            kind = kind.both(of(_referred(schema["$ref"], root), depth + 1))
        for every in _schemas(schema.get("allOf")):
            kind = kind.both(of(every, depth + 1))
        for word in ("anyOf", "oneOf"):
            choices = [of(choice, depth + 1) for choice in _schemas(schema.get(word))]
            if choices:
                kind = kind.both(reduce(Allowed.either, choices))
        known[id(schema)] = kind
        return kind

    return of(schema, 0)


def typed(text: str, kind: Allowed) -> Any:
    """The value that this text stands for. Text that fits nothing is a string: nothing of it is lost."""
    types, short = kind.types, text.strip()
    if kind.values is not None:
        if text in kind.values:
            return text
        for value in kind.values:
            if value == short or (not isinstance(value, str) and _same(value, typed(text, _without_values(value)))):
                return value
    exact = "string" in types  # what is not exactly JSON of another type is a string then
    if "null" in types and (short == "null" or (not exact and short == "None")):
        return None
    if "boolean" in types and (short if exact else short.lower()) in ("true", "false"):
        return short.lower() == "true"
    if types & {"integer", "number"} and (number := _number(short, whole="number" not in types)) is not None:
        return number
    if types & {"object", "array"} and (value := _container(short, exact=exact)) is not None:
        wanted = "object" if isinstance(value, dict) else "array"
        if wanted in types:
            return value
    return text


def type_of(value: Any) -> str:
    """JSON's name of the type of a value."""
    if value is None:
        return "null"
    for name, kind in (("boolean", bool), ("integer", int), ("number", float), ("string", str), ("array", list)):
        if isinstance(value, kind):
            return name
    return "object"


def _number(text: str, *, whole: bool) -> int | float | None:
    try:
        if _INTEGER.fullmatch(text):
            return int(text)  # ValueError for thousands of digits
        if not _NUMBER.fullmatch(text):
            return None
    except ValueError:
        return None
    value = float(text)
    if not math.isfinite(value) or (whole and not value.is_integer()):
        return None
    return int(value) if whole else value


def _container(text: str, *, exact: bool) -> dict[str, Any] | list[Any] | None:
    if not text.startswith(("{", "[")):
        return None
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        if exact:
            return None
        try:  # some templates write Python's form
            value = ast.literal_eval(text)
            json.dumps(value, allow_nan=False)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return None
    return value if isinstance(value, dict | list) else None


def _without_values(value: Any) -> Allowed:
    return Allowed(frozenset({type_of(value)}) | ({"integer"} if isinstance(value, float) else set()))


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _declared(schema: dict[str, Any]) -> Allowed:
    declared = schema.get("type")
    names = declared if isinstance(declared, list) else [declared]
    types = frozenset(name for name in names if isinstance(name, str)) & _ALL or _ALL
    if "number" in types:
        types |= {"integer"}
    if schema.get("nullable") is True and types != _ALL:
        types |= {"null"}
    values = (schema["const"],) if "const" in schema else None
    if values is None and isinstance(schema.get("enum"), list):
        values = tuple(schema["enum"])
    if values:
        types = frozenset(map(type_of, values))
    return Allowed(types, values)


def _schemas(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _parts(schema: dict[str, Any], root: dict[str, Any]) -> list[Any]:
    """The schemas that this one refers to or is made of."""
    parts = [part for word in ("allOf", "anyOf", "oneOf") for part in _schemas(schema.get(word))]
    return [_referred(schema["$ref"], root), *parts] if "$ref" in schema else parts


def _referred(reference: Any, root: dict[str, Any]) -> Any:
    """What a reference inside the schema points to, {} if nothing."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return {}
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            return {}
    return found
