"""The JSON schemas of answers that are calls, or may be. Pure."""

from collections.abc import Callable
from typing import Any

from worker.generation.constraints.bounds import Schema
from worker.generation.constraints.keywords import rewritten


def parameters_of(tool: dict[str, Any]) -> Schema:
    """The schema of a tool's arguments. Whatever else it says: they are an object."""
    return {**(tool["function"].get("parameters") or {}), "type": "object"}


def call_schema(
    choices: list[tuple[str, Schema]],
    *,
    one_call: bool,
    name: str = "name",
    arguments: str = "arguments",
    before: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
) -> Schema:
    """Of a call of one of these functions, (name, schema of the arguments), or of a list of calls. name, arguments: the
    keys of a call; before, after: those of texts that come first, and that may come last."""
    calls = [
        {
            "type": "object",
            "properties": {
                **{key: {"type": "string"} for key in before},
                name: {"const": function},
                arguments: {"$ref": f"#/$defs/{number}"},
                **{key: {"type": "string"} for key in after},
            },
            "required": [*before, name, arguments],
            "additionalProperties": False,
        }
        for number, (function, _) in enumerate(choices)
    ]
    # References start at the root. So each function's own schema stands there as a whole, with its definitions, and
    # equal names of two functions do not meet.
    roots = {str(number): _moved(schema, f"#/$defs/{number}") for number, (_, schema) in enumerate(choices)}
    call = {"anyOf": calls}
    wanted = call if one_call else {"type": "array", "items": call, "minItems": 1}
    return {**wanted, "$defs": roots}


def call_or_text_schema(names: list[str], text: Schema) -> Schema:
    """Of a text with this schema, or of one call as Llama 3 writes it, whose arguments are free: so are those that
    models choose to write elsewhere."""
    call = {
        "type": "object",
        "properties": {"name": {"enum": names}, "parameters": {"type": "object"}},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }
    return {"anyOf": [call, {"$ref": "#/$defs/text"}], "$defs": {"text": _moved(text, "#/$defs/text")}}


def _moved(schema: Schema, root: str) -> Schema:
    """The schema with references that fit its place at `root`."""
    own = schema.get("$id")
    schema = {keyword: value for keyword, value in schema.items() if keyword not in ("$id", "$schema")}
    return rewritten(schema, _reference_rule(own, root))


def _reference_rule(own: Any, root: str) -> Callable[[Schema], Schema]:
    def rule(node: Schema) -> Schema:
        reference = node.get("$ref")
        if not isinstance(reference, str):
            return node
        if isinstance(own, str) and own:
            reference = reference.removeprefix(own) or "#"
        if reference == "#" or reference.startswith("#/"):
            return {**node, "$ref": root + reference[1:]}
        return node

    return rule
