"""How large a schema or a grammar may be. Checked before native code reads it: llguidance recurses along references,
and a chain that is too long would end the process. Pure.
"""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from broker.wire.failure import invalid

Schema = dict[str, Any]

# llguidance 1.9 takes up to 23 kB of stack for one level; native.py gives it a stack for far more than these.
_MAX_LEVELS = 100  # subschemas inside each other, along references
_MAX_NESTING = 64  # of the JSON itself
_MAX_DEFINITIONS = 1000
_MAX_SUBSCHEMAS = 10_000
_MAX_BYTES = 256_000
_MAX_RULES = 500  # of a grammar, terminals included

# Keywords whose value is a map from names to schemas; those whose value is data.
MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
DATA = frozenset({"const", "enum", "default", "example", "examples", "required", "dependentRequired", "type"})

# What ends a rule's head: its name, priority, attributes or parameter, and the colon. Linear: it never looks back.
_RULE = re.compile(r"[\w}\]-]\s*+:(?!:)")
_EMBEDDED_SCHEMA = re.compile(r'(?<!["\w])%json\s*')


def check_schema(schema: Schema, field: str) -> None:
    """Raises FailureError naming `field`."""
    if _nests_deeper(schema, _MAX_NESTING):
        raise invalid(f"{field} must not nest deeper than {_MAX_NESTING} levels", field)
    if len(json.dumps(schema)) > _MAX_BYTES:
        raise invalid(f"{field} must not have more than {_MAX_BYTES} bytes", field)
    nodes = list(subschemas(schema))
    if len(nodes) > _MAX_SUBSCHEMAS:
        raise invalid(f"{field} must not have more than {_MAX_SUBSCHEMAS} subschemas", field)
    if sum(_definitions(node) for node in nodes) > _MAX_DEFINITIONS:
        raise invalid(f"{field} must not have more than {_MAX_DEFINITIONS} definitions", field)
    if not _Levels(schema, nodes).are_few():
        raise invalid(f"{field} must not nest deeper than {_MAX_LEVELS} levels, references included", field)


def check_grammar(grammar: str, field: str = "grammar") -> list[Schema]:
    """The schemas that it embeds. Raises FailureError naming `field`."""
    schemas = []
    if len(_RULE.findall(grammar)) > _MAX_RULES:
        raise invalid(f"{field} must not have more than {_MAX_RULES} rules", field)
    for found in _EMBEDDED_SCHEMA.finditer(grammar):
        try:
            schema, _ = json.JSONDecoder().raw_decode(grammar, found.end())
        except (ValueError, RecursionError):
            raise invalid(f"{field}: what follows %json must be a JSON schema", field) from None
        if isinstance(schema, dict):
            check_schema(schema, field)
            schemas.append(schema)
    return schemas


def subschemas(schema: Schema) -> Iterator[Schema]:
    """The schema and everything in it that is a schema, outermost first."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += parts_of(node)


def parts_of(node: Schema) -> Iterator[Schema]:
    """The schemas directly inside one."""
    for keyword, value in node.items():
        if keyword in DATA:
            continue
        inner = value.values() if keyword in MAPS and isinstance(value, dict) else [value]
        for one in inner:
            yield from (part for part in (one if isinstance(one, list) else [one]) if isinstance(part, dict))


def _nests_deeper(value: Any, levels: int) -> bool:
    inside: list[Any] = [value]
    while inside and levels >= 0:
        inside = [
            part
            for one in inside
            if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]
        levels -= 1
    return bool(inside)


def _definitions(node: Schema) -> int:
    named = (node.get(keyword) for keyword in ("$defs", "definitions"))
    return sum(len(definitions) for definitions in named if isinstance(definitions, dict))


class References:
    """Where the references of a schema lead."""

    def __init__(self, root: Schema, nodes: list[Schema]) -> None:
        self._root = root
        self._named = {node["$id"]: node for node in nodes if isinstance(node.get("$id"), str)}
        for keyword in ("$anchor", "$dynamicAnchor"):
            self._named |= {f"#{node[keyword]}": node for node in nodes if isinstance(node.get(keyword), str)}

    def leads_nowhere(self, reference: str) -> bool:
        """Or to another host."""
        base, _, fragment = reference.partition("#")
        is_path = not fragment or fragment.startswith("/")
        is_known = reference in self._named or (
            base in ("", *self._named) and (is_path or f"#{fragment}" in self._named)
        )
        return not is_known or self.target(reference) is None

    def target(self, reference: Any) -> Schema | bool | None:
        """None for nowhere; from the root if the rest of the reference is unknown."""
        if not isinstance(reference, str):
            return None
        if reference in self._named:
            return self._named[reference]
        base, _, fragment = reference.partition("#")
        found: Any = self._named.get(f"#{fragment}") or self._named.get(base, self._root)
        for step in unquote(fragment).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                found = found[int(key)] if key.isdecimal() and int(key) < len(found) else None
            else:
                found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, dict | bool) else None


class _Levels:
    """Follows references. Those that lead back to where they come from end there, as llguidance has it.

    Mutable state: of each subschema, by its identity, the levels in it; None while it is being looked at.
    """

    def __init__(self, root: Schema, nodes: list[Schema]) -> None:
        self._root = root
        self._known: dict[int, int | None] = {}
        self._references = References(root, nodes)

    def are_few(self) -> bool:
        return self._levels(self._root, 1) <= _MAX_LEVELS

    def _levels(self, node: Schema, above: int) -> int:
        """Of `node`; more than the limit as soon as that is certain. above: levels up to this one."""
        if id(node) in self._known:
            return self._known[id(node)] or 0
        if above > _MAX_LEVELS:
            return above
        self._known[id(node)] = None
        parts = list(parts_of(node))
        target = self._references.target(node.get("$ref"))
        if isinstance(target, dict):
            parts.append(target)
        levels = 0
        for part in parts:
            levels = max(levels, self._levels(part, above + 1))
            if above + levels > _MAX_LEVELS:
                return levels + _MAX_LEVELS
        self._known[id(node)] = levels + 1
        return levels + 1
