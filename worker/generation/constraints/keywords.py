"""What of a JSON schema can be enforced token by token, and what is left out. Pure.

Leaving out makes a schema looser, never tighter: whatever follows the whole schema follows the rest.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from broker.wire.failure import invalid
from worker.generation.constraints.bounds import DATA, MAPS, References, Schema, subschemas

# Keywords that llguidance does not know.
_UNENFORCED = frozenset(
    {
        *("propertyNames", "uniqueItems", "not", "if", "then", "else", "contains", "minContains", "maxContains"),
        *("dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems"),
        *("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"),
    }
)
# Values with which they say nothing.
_SILENT = {
    "uniqueItems": False,
    "propertyNames": {},
    "unevaluatedProperties": True,
    "unevaluatedItems": True,
    "dependentRequired": {},
    "dependentSchemas": {},
    "dependencies": {},
    "not": False,
}
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
# Numbers are floats inside llguidance.
_MAX_EXACT = 2**53
# Larger ones than these it cannot read: lengths become repetitions of a regular expression.
_MAX_COUNTS = {
    **dict.fromkeys(("minLength", "maxLength"), 2**32 - 1),
    **dict.fromkeys(("minItems", "maxItems", "minProperties", "maxProperties"), _MAX_EXACT),
}
_TYPES = frozenset({"string", "integer", "number", "boolean", "null", "object", "array"})
# Keywords that are combined with what stands beside them.
_CHOICES = frozenset({"$ref", "anyOf", "oneOf"})
# The states of its automaton: 10,000 take 0.04 s, a million more than 25 s.
_MAX_MULTIPLE = 10_000
# Each pattern of properties is compared with each other: 100 take 0.1 s, 300 take 3 s.
_MAX_PATTERNS = 100

# A schema without what cannot be enforced, and the keywords that are gone.
Rest = tuple[Schema, list[str]]


def enforceable(schema: Schema, field: str) -> Rest:
    """Raises FailureError for an integer that cannot be kept exactly."""
    gone: dict[str, None] = {}
    is_wide = _wide_multiples(schema)
    has_crowd = sum(_patterns(node) for node in subschemas(schema)) > _MAX_PATTERNS

    def rule(node: Schema) -> Schema:
        for keyword in ("const", "enum"):
            if keyword in node and _is_inexact(node[keyword]):
                raise invalid(f"{field}: {keyword} has a number beyond 2^53, which cannot be kept exactly", field)
        if has_crowd and _patterns(node):
            node = _without_pattern_properties(node, gone)
        kept = {}
        for keyword, value in node.items():
            if keyword in _UNENFORCED:
                if keyword not in _SILENT or value != _SILENT[keyword]:
                    gone[keyword] = None
            elif _is_too_large(keyword, value) or (keyword == "multipleOf" and is_wide(value)):
                gone[keyword] = None
            elif keyword in _MAX_COUNTS and isinstance(value, float) and value.is_integer():
                kept[keyword] = int(value)
            else:
                kept[keyword] = value
        return kept

    return rewritten(schema, rule), list(gone)


def without_unknown(schema: Schema) -> Rest:
    """Without types that JSON does not have, and references that lead nowhere or to another host."""
    gone: dict[str, None] = {}
    references = References(schema, list(subschemas(schema)))

    def rule(node: Schema) -> Schema:
        bad = {"type"} if _names_other_types(node.get("type")) else set()
        if isinstance(node.get("$ref"), str) and references.leads_nowhere(node["$ref"]):
            bad.add("$ref")
        gone.update(dict.fromkeys(sorted(bad)))
        return {keyword: value for keyword, value in node.items() if keyword not in bad}

    return rewritten(schema, rule), list(gone)


def without_unreadable(schema: Schema, is_unreadable: Callable[[str, Any], bool]) -> Rest:
    """is_unreadable: (keyword, its value) -> whether these alone cannot be enforced."""
    gone: dict[str, None] = {}

    def rule(node: Schema) -> Schema:
        bad = {
            keyword
            for keyword, value in node.items()
            if (keyword in ("pattern", "format") and isinstance(value, str) and is_unreadable(keyword, value))
            or (keyword in _BOUNDS and isinstance(value, int | float) and is_unreadable(keyword, value))
        }
        gone.update(dict.fromkeys(sorted(bad)))
        node = {keyword: value for keyword, value in node.items() if keyword not in bad}
        patterns = node.get("patternProperties")
        if isinstance(patterns, dict) and any(is_unreadable("pattern", pattern) for pattern in patterns):
            node = _without_pattern_properties(node, gone)
        return node

    return rewritten(schema, rule), list(gone)


def with_any_of(schema: Schema) -> Rest:
    """`anyOf` in place of `oneOf`."""
    gone: dict[str, None] = {}

    def rule(node: Schema) -> Schema:
        if "oneOf" not in node:
            return node
        gone["oneOf"] = None
        node = dict(node)
        choices = node.pop("oneOf")
        if "anyOf" in node:
            return {**node, "allOf": [*node.get("allOf", []), {"anyOf": choices}]}
        return {**node, "anyOf": choices}

    return rewritten(schema, rule), list(gone)


def without_pattern_properties(schema: Schema) -> Rest:
    """Nor what `additionalProperties` says beside them."""
    gone: dict[str, None] = {}

    def rule(node: Schema) -> Schema:
        return _without_pattern_properties(node, gone) if "patternProperties" in node else node

    return rewritten(schema, rule), list(gone)


def rewritten(schema: Schema, rule: Callable[[Schema], Schema]) -> Schema:
    """The schema with each of its subschemas, inner ones last, as `rule` makes it."""

    def inside(value: Any) -> Any:
        if isinstance(value, list):
            return [inside(one) for one in value]
        return rewritten(value, rule) if isinstance(value, dict) else value

    node = {}
    for keyword, value in rule(schema).items():
        if keyword in DATA or keyword.startswith("x-"):
            node[keyword] = value
        elif keyword in MAPS and isinstance(value, dict):
            node[keyword] = {name: inside(one) for name, one in value.items()}
        else:
            node[keyword] = inside(value)
    return node


def _patterns(node: Schema) -> int:
    patterns = node.get("patternProperties")
    return len(patterns) if isinstance(patterns, dict) else 0


def _without_pattern_properties(node: Schema, gone: dict[str, None]) -> Schema:
    gone["patternProperties"] = None
    left = ("patternProperties", "additionalProperties")
    if node.get("additionalProperties", True) not in (True, {}):
        gone["additionalProperties"] = None
    return {keyword: value for keyword, value in node.items() if keyword not in left}


def _names_other_types(declared: Any) -> bool:
    names = declared if isinstance(declared, list) else [declared]
    return all(isinstance(name, str) for name in names) and not _TYPES.issuperset(names)


def _is_too_large(keyword: str, value: Any) -> bool:
    if keyword in _BOUNDS:
        return _is_inexact(value)
    return isinstance(value, int | float) and value > _MAX_COUNTS.get(keyword, math.inf)


def _is_inexact(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_inexact, value))
    if isinstance(value, dict):
        return any(map(_is_inexact, value.values()))
    if isinstance(value, float):  # 2^53 + 1 may have been written: as a float it is 2^53
        return abs(value) >= _MAX_EXACT
    return isinstance(value, int) and abs(value) > _MAX_EXACT


def _wide_multiples(schema: Schema) -> Callable[[Any], bool]:
    """Whether a value of multipleOf needs too many states, alone or with those that it may be combined with."""
    nodes = list(subschemas(schema))
    found = [_numerator(node["multipleOf"]) for node in nodes if "multipleOf" in node]
    combines = any("allOf" in node or (len(node) > 1 and node.keys() & _CHOICES) for node in nodes)
    if combines and math.lcm(*filter(None, found)) > _MAX_MULTIPLE:
        return lambda _value: True
    return lambda value: _numerator(value) > _MAX_MULTIPLE


def _numerator(multiple: Any) -> int:
    if isinstance(multiple, bool) or not isinstance(multiple, int | float) or not math.isfinite(multiple):
        return 0  # llguidance says what is wrong with it
    return Fraction(str(multiple)).numerator
