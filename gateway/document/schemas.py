"""Models of bodies and answers -> JSON schemas, as components of an OpenAPI document."""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

JSON = "application/json"

Object = dict[str, Any]

_PREFIX = "#/components/schemas/"


class Schemas:
    """The schemas of these models and of all that they consist of. Fields with a default are optional in answers as in
    bodies: what is not said is left out."""

    def __init__(self, models: Iterable[type[BaseModel]]) -> None:
        wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in models]
        references, whole = models_json_schema(wanted, ref_template=f"{_PREFIX}{{model}}", schema_generator=_Generator)
        self._references = {model: schema for (model, _mode), schema in references.items()}
        self._all: dict[str, Any] = whole.get("$defs", {})

    def of(self, model: type[BaseModel]) -> dict[str, Any]:
        """A reference to its schema."""
        return dict(self._references[model])

    def fields(self, model: type[BaseModel]) -> dict[str, Any]:
        """The schemas of its fields."""
        [name] = names_in(self._references[model], _PREFIX)
        return dict(self._all[name]["properties"])

    def behind(self, value: Any) -> dict[str, Any]:
        """All schemas to which `value` refers, and to which those do, by their names."""
        found: dict[str, Any] = {}
        left = list(names_in(value, _PREFIX))
        while left:
            if (name := left.pop()) not in found:
                found[name] = self._all[name]
                left += names_in(found[name], _PREFIX)
        return dict(sorted(found.items()))


def any_of(schemas: Sequence[Object]) -> Object:
    """What fits to one of them."""
    different = [schema for index, schema in enumerate(schemas) if schema not in schemas[:index]]
    return different[0] if len(different) == 1 else {"anyOf": different}


def names_in(value: Any, prefix: str) -> Iterable[str]:
    """What the references in `value` that begin so name."""
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith(prefix):
            yield reference.removeprefix(prefix)
        for one in value.values():
            yield from names_in(one, prefix)
    elif isinstance(value, list):
        for one in value:
            yield from names_in(one, prefix)


class _Generator(GenerateJsonSchema):
    """Without titles, which repeat the names, and without defaults that are objects of ours."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if isinstance(schema.get("default"), bool | int | float | str):
            return super().default_schema(schema)
        return self.generate_inner(schema["schema"])
