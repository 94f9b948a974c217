"""What a tool's schema says beside its texts, and numbers: types, flags and references, in which no word can stand.

Rendered with one of them changed, a prompt shows whether it has it. Must stay free of mlx.
"""

import json
from collections.abc import Iterator
from typing import Any

# In a JSON schema: what maps names that the schema's author chose.
NAMING = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")

# Values as they are.
VALUES = ("enum", "const", "default", "examples", "example")

# Texts and flags that identify or annotate a schema and say nothing of values.
ANNOTATING = ("$schema", "$id", "$anchor", "$comment", "$dynamicAnchor", "deprecated", "readOnly", "writeOnly")

TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")

# Each costs a rendering; what has more is written as a whole.
_MAX_CHANGES = 48

_IMPLYING = {"object": "properties", "array": "items"}

Path = tuple[Any, ...]
Tools = list[dict[str, Any]]


def is_whole(tool: dict[str, Any], text: str) -> bool:
    """Whether a text without blanks has the schema of the tool as JSON."""
    return without_blanks(json.dumps(tool["function"]["parameters"], ensure_ascii=False)) in text


def without_blanks(text: str) -> str:
    """The same text in one piece."""
    return "".join(text.split())


def changed(tools: Tools) -> list[tuple[dict[str, Any], dict[str, Any]]] | None:
    """Tools, each beside itself with one fact of its schema changed: one for each kind of fact, None for too many.
    What is at the same place of a schema and has the same value is of one kind."""
    found: dict[Path, tuple[dict[str, Any], dict[str, Any]]] = {}
    for tool in tools:
        parameters = tool["function"]["parameters"]
        for kind, path, value in _facts(parameters, (), ()):
            if kind not in found:
                other = {**tool["function"], "parameters": _with(parameters, path, value)}
                found[kind] = tool, {**tool, "function": other}
            if len(found) > _MAX_CHANGES:
                return None
    return list(found.values())


def _facts(schema: Any, kind: Path, path: Path) -> Iterator[tuple[Path, Path, Any]]:
    """(kind, path, another value) of each."""
    if isinstance(schema, list):
        for index, inner in enumerate(schema):
            yield from _facts(inner, kind, (*path, index))
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        here, there = (*kind, key), (*path, key)
        if key in NAMING and isinstance(value, dict):
            for name, inner in value.items():
                yield from _facts(inner, here, (*there, name))
        elif key in ANNOTATING or (key in VALUES and not isinstance(value, bool)):
            continue
        elif key == "type":
            if path and not _is_implied(schema):
                yield (*here, repr(value), *sorted(schema)), there, _other_type(value)
        elif key == "required" and isinstance(value, list):
            if value:
                yield here, there, []
        elif key == "$ref" and isinstance(value, str):
            yield here, there, "#"
        elif isinstance(value, bool):
            # Who lists properties says that there are no others; templates write no more.
            if key != "additionalProperties" or "properties" not in schema:
                yield (*here, value), there, not value
        else:
            yield from _facts(value, here, there)


def _is_implied(schema: dict[str, Any]) -> bool:
    """Whether the type follows from what is beside it."""
    told = schema["type"]
    return "enum" in schema or "const" in schema or (isinstance(told, str) and _IMPLYING.get(told) in schema)


def _other_type(told: Any) -> Any:
    if isinstance(told, list) and len(told) > 1:
        return told[:-1]
    # Some templates write number for integer, as their models have learned it.
    return "boolean" if told in ("string", ["string"]) else "string"


def _with(schema: Any, path: Path, value: Any) -> Any:
    """A copy with another value at the path."""
    if not path:
        return value
    step, *rest = path
    copy = list(schema) if isinstance(schema, list) else dict(schema)
    copy[step] = _with(schema[step], tuple(rest), value)
    return copy
