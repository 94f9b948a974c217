import time
from typing import Any

import pytest

from worker.generation.constraints.review import UncheckableError, miss_of


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"uniqueItems": True}, "[1, 1]"),
        ({"propertyNames": {"pattern": "^a"}}, '{"b": 1}'),
        ({"not": {"const": 3}}, "3"),
        ({"pattern": "^(?!b)"}, '"b"'),
        ({"if": {"type": "string"}, "then": {"minLength": 2}}, '"b"'),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True}, "3"),
    ],
)
def test_misses_are_found(schema: dict[str, Any], text: str) -> None:
    assert miss_of(schema, text) is not None
    assert miss_of(schema, '{"a": [1, 2]}' if "$schema" in schema else '"ab"') is None


def test_nothing_is_fetched() -> None:
    with pytest.raises(Exception, match="example"):
        miss_of({"$ref": "http://example.org/x.json"}, "1")


def test_searches_end() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        miss_of({"pattern": "^(a|aa|a?a)+$"}, f'"{"a" * 5000}b"')
    assert time.monotonic() - began < 5
    with pytest.raises(UncheckableError):
        miss_of({"patternProperties": {"^(a+)+$": {}}}, "{}")
