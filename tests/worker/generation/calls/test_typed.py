"""Text to values by a schema."""

from typing import Any

import pytest

from worker.generation.calls.typed import items_of, kind_of, property_of, typed


def value(text: str, schema: Any, root: dict[str, Any] | None = None) -> Any:
    return typed(text, kind_of(schema, root or {}))


STRING = {"type": "string"}
MAYBE = {"type": ["string", "null"]}


@pytest.mark.parametrize(
    ("text", "schema", "wanted"),
    [
        ("null", STRING, "null"),
        ("4", STRING, "4"),
        ("true", STRING, "true"),
        ('{"a": 1}', STRING, '{"a": 1}'),
        ("  \n    indented\n", STRING, "  \n    indented\n"),
        ("4", MAYBE, "4"),
        ("null", MAYBE, None),
        ("None", MAYBE, "None"),
        ("4", {"type": "string", "nullable": True}, "4"),
        ("123456789012345678", {"type": "integer"}, 123456789012345678),
        ("-7", {"type": "integer"}, -7),
        (" 7\n", {"type": "integer"}, 7),
        ("7.0", {"type": "integer"}, 7),
        ("7.5", {"type": "integer"}, "7.5"),
        ("9" * 5000, {"type": "integer"}, "9" * 5000),
        ("123456789012345678", {"type": "number"}, 123456789012345678),
        ("0.1", {"type": "number"}, 0.1),
        ("1e400", {"type": "number"}, "1e400"),
        ("NaN", {"type": "number"}, "NaN"),
        ("True", {"type": "boolean"}, True),
        ("no", {"type": "boolean"}, "no"),
        ("True", {"type": ["boolean", "string"]}, "True"),
        ("4", {"type": ["integer", "string"]}, 4),
        ("007", {"type": ["integer", "string"]}, "007"),
        ('{"a": [1]}', {"type": "object"}, {"a": [1]}),
        ("{'a': [True, None]}", {"type": "object"}, {"a": [True, None]}),
        ('{"a": 123456789012345678}', {"type": "object"}, {"a": 123456789012345678}),
        ("[1]", {"type": "object"}, "[1]"),
        ("{1, 2}", {"type": "array"}, "{1, 2}"),
        ("[" * 5000, {"type": "array"}, "[" * 5000),
        ("4", {"enum": ["4", None]}, "4"),
        ("null", {"enum": ["4", None]}, None),
        ("4", {"enum": [4, 5]}, 4),
        ("4", {"enum": ["4", 4]}, "4"),
        (" red\n", {"enum": ["red"]}, "red"),
        ("1", {"const": 1}, 1),
        ("1", {"const": "1"}, "1"),
        ("true", {"const": True}, True),
        ("4", {"anyOf": [STRING, {"type": "null"}]}, "4"),
        ("4", {"oneOf": [{"type": "integer"}, {"type": "null"}]}, 4),
        ("4", {"allOf": [MAYBE, STRING]}, "4"),
        ("null", {"allOf": [MAYBE, STRING]}, "null"),
        ("4", {}, 4),
        ("text", {}, "text"),
        ("4", True, 4),
        ("4", {"type": [{}, "string"]}, "4"),
    ],
)
def test_a_value_by_its_schema(text: str, schema: Any, wanted: Any) -> None:
    got = value(text, schema)
    assert (got, type(got)) == (wanted, type(wanted))


def test_references_are_followed() -> None:
    root = {
        "$defs": {"a/b": {"$ref": "#/$defs/word"}, "word": STRING, "loop": {"$ref": "#/$defs/loop"}},
        "allOf": [{"properties": {"inner": {"$ref": "#/$defs/word"}}}],
        "additionalProperties": STRING,
    }
    assert value("4", {"$ref": "#/$defs/a~1b"}, root) == "4"
    assert value("4", {"$ref": "#/$defs/loop"}, root) == 4
    assert value("4", {"$ref": "#/$defs/none"}, root) == 4
    assert value("4", {"anyOf": [{"$ref": "#/$defs/word"}, {"type": "null"}]}, root) == "4"
    assert property_of(root, "inner", root) == {"$ref": "#/$defs/word"}
    assert property_of(root, "other", root) == STRING


@pytest.mark.parametrize("word", ["allOf", "anyOf", "oneOf"])
@pytest.mark.parametrize("last", [{"type": "integer"}, {"enum": [4]}])
def test_each_part_is_looked_at_once(word: str, last: Any) -> None:
    links = {f"d{n}": {word: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    root = {"$ref": "#/$defs/d0", "$defs": {**links, "d30": last}}
    assert value("4", root, root) == 4
    assert property_of(root, "a", root) == {}
    assert items_of(root, root) == {}
