import json
from typing import Any

from worker.generation.constraints.calls import call_schema, parameters_of
from worker.generation.constraints.native import check_readable

PLACE = {"properties": {"at": {"$ref": "#/$defs/place"}}}


def choice(name: str, **parameters: Any) -> tuple[str, dict[str, Any]]:
    return name, parameters_of({"type": "function", "function": {"name": name, "parameters": parameters}})


def test_each_function_keeps_its_own_definitions() -> None:
    one = choice("one", **PLACE, **{"$defs": {"place": {"type": "string"}}})
    two = choice("two", **PLACE, **{"$defs": {"place": {"type": "integer"}}})
    before = json.dumps([one, two])
    schema = call_schema([one, two], one_call=True)
    first, second = schema["$defs"]["0"], schema["$defs"]["1"]
    assert first["properties"]["at"] == {"$ref": "#/$defs/0/$defs/place"}
    assert second["properties"]["at"] == {"$ref": "#/$defs/1/$defs/place"}
    assert (first["$defs"]["place"], second["$defs"]["place"]) == ({"type": "string"}, {"type": "integer"})
    assert [call["properties"]["name"]["const"] for call in schema["anyOf"]] == ["one", "two"]
    # The client's own tools stay as they are: the model's template reads them too.
    assert json.dumps([one, two]) == before
    check_readable(schema)


def test_references_of_every_form_are_moved() -> None:
    address = "https://example.org/f.json"
    references = ["#", "#/properties/a", "#/definitions/x~1y", f"{address}#/definitions/x~1y", address]
    moved = ["", "/properties/a", "/definitions/x~1y", "/definitions/x~1y", ""]
    parameters = {"$id": address, "definitions": {"x/y": {"type": "null"}}, "properties": {"a": {"type": "string"}}}
    for reference, place in zip(references, moved, strict=True):
        tree = {"type": "array", "items": {"$ref": reference}, "default": {"$ref": "data"}}
        function = choice("f", **parameters, additionalProperties=tree)
        schema = call_schema([choice("other"), function], one_call=False)
        inner = schema["$defs"]["1"]["additionalProperties"]
        assert inner == {**tree, "items": {"$ref": f"#/$defs/1{place}"}}
        check_readable(schema)


def test_arguments_are_an_object_whatever_parameters_say() -> None:
    at = {"type": "string"}
    for parameters in ({}, {"properties": {"at": at}}, {"type": ["object", "null"], "properties": {"at": at}}):
        assert choice("f", **parameters) == ("f", {**parameters, "type": "object"})
    assert parameters_of({"function": {"name": "f"}}) == {"type": "object"}
