from typing import Any

import pytest

from tests.timing import assert_cheap
from worker.generation.constraints.schema_check import UncheckableError, miss_of


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"uniqueItems": True}, "[1, 1]"),
        ({"propertyNames": {"pattern": "^a"}}, '{"b": 1}'),
        ({"uniqueItems": True}, '[{"a": 1, "b": [2]}, "x", {"b": [2.0], "a": 1}]'),
        ({"format": "idn-email"}, '"b"'),
        ({"format": "regex"}, '"("'),
        ({"not": {"const": 3}}, "3"),
        ({"pattern": "^(?!b)"}, '"b"'),
        ({"if": {"type": "string"}, "then": {"minLength": 2}}, '"b"'),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True}, "3"),
    ],
)
def test_misses_are_found(schema: dict[str, Any], text: str) -> None:
    assert miss_of(schema, text) is not None
    assert miss_of(schema, '{"a": [1, 2, true]}' if "$schema" in schema else '"ab@c"') is None


def test_nothing_is_fetched() -> None:
    with pytest.raises(Exception, match="example"):
        miss_of({"$ref": "http://example.org/x.json"}, "1")


def test_searches_end() -> None:
    def search() -> None:
        with pytest.raises(TimeoutError):
            miss_of({"pattern": "^(a|aa|a?a)+$"}, f'"{"a" * 5000}b"')

    assert_cheap(5, search)
    with pytest.raises(UncheckableError):
        miss_of({"patternProperties": {"^(a+)+$": {}}}, "{}")


DECLARED = {"$schema": "https://json-schema.org/draft/2020-12/schema"}


@pytest.mark.parametrize("declared", [{}, DECLARED])
def test_references_that_multiply_end(declared: dict[str, Any]) -> None:
    links = {f"d{n}": {**declared, "allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(18)}

    def follow() -> None:
        with pytest.raises(UncheckableError):
            miss_of({**declared, "$ref": "#/$defs/d0", "$defs": {**links, "d18": {}}}, "1")

    assert_cheap(3, follow)


@pytest.mark.parametrize("keyword", ["unevaluatedProperties", "unevaluatedItems"])
def test_what_the_library_follows_uncounted_is_not_checked(keyword: str) -> None:
    assert miss_of({keyword: False}, '{"a": 1}' if "Prop" in keyword else "[1]") is not None
    uncounted: dict[str, Any] = {"patternProperties": {"a": {}}, "dependentSchemas": {"a": {}}, "$dynamicRef": "#x"}
    for odd in ({name: value} for name, value in uncounted.items()):
        with pytest.raises(UncheckableError):
            miss_of({keyword: False, "allOf": [odd]}, '{"a": 1}')


def test_long_lists_end() -> None:
    def check() -> None:
        assert miss_of({"uniqueItems": True}, str([[[n]] if n % 2 else n for n in range(10_000)])) is None
        with pytest.raises(UncheckableError):
            miss_of({"items": {"enum": list(range(1000))}}, str([999] * 1000))

    assert_cheap(3, check)
