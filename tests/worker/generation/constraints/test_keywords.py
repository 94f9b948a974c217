from typing import Any

import pytest

from broker.wire.failure import FailureError
from worker.generation.constraints import keywords

TEXT = {"type": "string"}


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("propertyNames", {"pattern": "^a"}),
        ("uniqueItems", True),
        ("not", TEXT),
        ("if", TEXT),
        ("then", TEXT),
        ("else", TEXT),
        ("contains", TEXT),
        ("minContains", 1),
        ("dependentRequired", {"a": ["b"]}),
        ("dependentSchemas", {"a": TEXT}),
        ("dependencies", {"a": ["b"]}),
        ("unevaluatedProperties", False),
        ("unevaluatedItems", TEXT),
        ("$dynamicRef", "#x"),
        ("maximum", 2**64),
        ("minimum", -(2**53) - 1),
        ("exclusiveMaximum", 1e300),
        ("multipleOf", 1_000_003),
        ("maximum", 9007199254740993.0),
        ("maxLength", 2**32),
        ("minLength", 1e300),
        ("maxItems", 2**64),
    ],
)
def test_what_is_left_out_anywhere_in_a_schema(keyword: str, value: Any) -> None:
    plain = {"type": ["object", "array", "number"], "title": "t"}
    odd = {**plain, keyword: value}
    for wrap in (
        lambda inner: inner,
        lambda inner: {"properties": {keyword: inner, "b": TEXT}},
        lambda inner: {"items": {"anyOf": [TEXT, inner]}},
        lambda inner: {"$defs": {"x": {"prefixItems": [inner]}}, "additionalProperties": {"allOf": [inner]}},
        lambda inner: {"patternProperties": {"a": inner}},
    ):
        assert keywords.enforceable(wrap(odd), "f") == (wrap(plain), [keyword])
        assert keywords.enforceable(wrap(plain), "f") == (wrap(plain), [])


def test_data_with_the_name_of_a_keyword_stays() -> None:
    schema = {
        "const": {"not": 1},
        "default": {"if": 2},
        "enum": [{"then": 3}],
        "x-note": {"not": 4},
        "examples": [{"not": 5}],
    }
    assert keywords.enforceable(schema, "f") == (schema, [])


def test_values_that_say_nothing_are_not_named() -> None:
    silent = {"uniqueItems": False, "propertyNames": {}, "unevaluatedProperties": True, "not": False}
    assert keywords.enforceable({**TEXT, **silent}, "f") == (TEXT, [])


@pytest.mark.parametrize("number", [2**53 + 1, -(2**63), 123456789012345678, 1e17, 9007199254740993.0])
def test_numbers_that_would_become_others_are_refused(number: float) -> None:
    for schema in ({"const": number}, {"enum": [1, number]}, {"properties": {"a": {"const": {"deep": [number]}}}}):
        with pytest.raises(FailureError, match="2\\^53") as raised:
            keywords.enforceable(schema, "json_schema")
        assert raised.value.failure.param == "json_schema"
    exact = {"enum": [2**53, -(2**53), 1.5, True], "maximum": 2**53}
    assert keywords.enforceable(exact, "f") == (exact, [])


def test_multiples_that_are_combined() -> None:
    few = {"allOf": [{"multipleOf": 97}, {"multipleOf": 101}]}
    assert keywords.enforceable(few, "f") == (few, [])
    many = {"allOf": [{"multipleOf": 4999}, {"multipleOf": 4993}]}
    assert keywords.enforceable(many, "f") == ({"allOf": [{}, {}]}, ["multipleOf"])
    apart = {"properties": {"a": {"multipleOf": 4999}, "b": {"multipleOf": 4993}, "c": {"multipleOf": 0.01}}}
    assert keywords.enforceable(apart, "f") == (apart, [])


def test_many_patterns_of_properties() -> None:
    def of(count: int) -> dict[str, Any]:
        patterns = {f"^p{number}$": TEXT for number in range(count)}
        return {"items": {"patternProperties": patterns, "properties": {"a": TEXT}, "additionalProperties": False}}

    assert keywords.enforceable(of(100), "f") == (of(100), [])
    left = {"items": {"properties": {"a": TEXT}}}
    assert keywords.enforceable(of(101), "f") == (left, ["patternProperties", "additionalProperties"])


def test_what_is_left_out_when_it_cannot_be_read() -> None:
    def is_unreadable(keyword: str, value: Any) -> bool:
        return (keyword, value) in {("pattern", "(?=a)"), ("format", "regex"), ("minimum", 1e-300)}

    fine = {"type": "string", "pattern": "^a", "format": "email", "minimum": 0}
    assert keywords.without_unreadable(fine, is_unreadable) == (fine, [])
    odd = {"type": "string", "pattern": "(?=a)", "format": "regex", "minimum": 1e-300}
    assert keywords.without_unreadable({"items": odd}, is_unreadable) == (
        {"items": TEXT},
        ["format", "minimum", "pattern"],
    )
    named = {"patternProperties": {"(?=a)": TEXT}, "additionalProperties": False, "type": "object"}
    assert keywords.without_unreadable(named, is_unreadable) == (
        {"type": "object"},
        ["patternProperties", "additionalProperties"],
    )


def test_counts_are_whole_numbers() -> None:
    counts = {"minLength": 3.0, "maxLength": 2**32 - 1, "maxItems": 2**53}
    assert keywords.enforceable(counts, "f") == ({**counts, "minLength": 3}, [])
    assert type(keywords.enforceable(counts, "f")[0]["minLength"]) is int


def test_unknown_types_and_references_are_left_out() -> None:
    for odd, keyword in (
        ({"type": "text"}, "type"),
        ({"type": ["string", "text"]}, "type"),
        ({"$ref": "#/$defs/none"}, "$ref"),
        ({"$ref": "#gone"}, "$ref"),
        ({"$ref": "https://example.org/x"}, "$ref"),
        ({"$ref": "https://example.org/x#/$defs/a"}, "$ref"),
    ):
        schema = {"properties": {"a": {"title": "t", **odd}}, "$defs": {"a": TEXT}}
        assert keywords.without_unknown(schema) == ({**schema, "properties": {"a": {"title": "t"}}}, [keyword])
    definitions = {"a": True, "b": {"$anchor": "b"}, "c": {"$id": "https://example.org/c", "items": TEXT}}
    for reference in ("#", "#/$defs/a", "#b", "https://example.org/c", "https://example.org/c#/items"):
        fine = {"properties": {"p": {"$ref": reference, "type": ["string", "null"]}}, "$defs": definitions}
        assert keywords.without_unknown(fine) == (fine, [])


def test_one_of_becomes_any_of() -> None:
    assert keywords.with_any_of({"oneOf": [TEXT, {}]}) == ({"anyOf": [TEXT, {}]}, ["oneOf"])
    both = {"oneOf": [TEXT], "anyOf": [{}], "allOf": [{"minLength": 1}]}
    assert keywords.with_any_of(both)[0] == {"anyOf": [{}], "allOf": [{"minLength": 1}, {"anyOf": [TEXT]}]}
    assert keywords.with_any_of(TEXT) == (TEXT, [])
