import json
from typing import Any

import pytest

from broker.wire.failure import FailureError
from worker.generation.tools import call_schema, read_calls, whole_calls


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_the_schema_of_a_call_has_its_definitions_at_the_root() -> None:
    place = {"type": "string"}
    one = tool("one", type="object", properties={"at": {"$ref": "#/$defs/place"}}, **{"$defs": {"place": place}})
    schema = call_schema([one, tool("two"), tool("three")], ["one", "two"], one_call=True)
    assert schema["$defs"] == {"place": place}
    first, second = schema["anyOf"]
    assert first["properties"]["name"] == {"const": "one"}
    assert first["properties"]["arguments"] == {"type": "object", "properties": {"at": {"$ref": "#/$defs/place"}}}
    assert second["properties"] == {"name": {"const": "two"}, "arguments": {"type": "object"}}
    # The client's own tools stay as they are: the model's template reads them too.
    assert "$defs" in one["function"]["parameters"]
    assert "$defs" not in call_schema([one, tool("two")], ["two"], one_call=True)


def test_arguments_are_an_object_whatever_parameters_say() -> None:
    at = {"type": "string"}
    for parameters in ({}, {"properties": {"at": at}}, {"type": ["object", "null"], "properties": {"at": at}}):
        (call,) = call_schema([tool("f", **parameters)], ["f"], one_call=True)["anyOf"]
        assert call["properties"]["arguments"] == {**parameters, "type": "object"}


def test_definitions_that_contradict_each_other_are_refused() -> None:
    tools = [tool(name, **{"$defs": {"x": {"const": name}}}) for name in ("a", "b")]
    with pytest.raises(FailureError, match="'x'") as raised:
        call_schema(tools, ["a", "b"], one_call=True)
    assert raised.value.failure.param == "tools"
    assert call_schema(tools, ["a"], one_call=False)["$defs"] == {"x": {"const": "a"}}


def test_calls_in_every_form_that_parsers_give() -> None:
    def read(parsed: Any) -> list[tuple[str, str]] | None:
        calls = read_calls(lambda: parsed)
        return None if calls is None else [(call["name"], call["arguments"]) for call in calls]

    assert read({"name": "f", "arguments": {"a": "é"}}) == [("f", '{"a": "é"}')]
    assert read({"name": "f", "arguments": '{"a": 1}'}) == [("f", '{"a": 1}')]
    assert read({"name": "f"}) == [("f", "{}")]
    assert read([{"name": "f"}, {"name": "g", "arguments": None}]) == [("f", "{}"), ("g", "{}")]
    for garbled in (None, [], "f", {}, {"name": ""}, {"name": "f", "arguments": "x"}, [{"name": "f"}, {"name": 1}]):
        assert read(garbled) is None
    for half in ({"name": "f\ud83d"}, {"name": "f", "arguments": {"a": "\ud83d"}}, {"name": "f", "id": "\ud83d"}):
        assert read(half) is None
    own = read_calls(lambda: {"name": "f", "id": "functions.f:0"})
    assert own is not None
    assert own[0]["id"] == "functions.f:0"


def test_what_a_list_of_calls_has_when_it_is_cut_short() -> None:
    text = '[{"name": "f", "arguments": {"a": ["{", {}]}},\n {"name": "g"}]'
    both = json.loads(text)
    for length in range(len(text) + 1):
        got = whole_calls(text[:length])
        assert got == both[: len(got)]
        assert len(got) == (length >= text.index(",\n")) + (length > text.rindex("}"))
    assert whole_calls(text[1 : text.index(",\n")]) == both[:1]  # one call alone
