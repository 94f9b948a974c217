"""Tool calls: from the result of a model's parser to the wire, and the grammar that forces a call.

A call on the wire is `{id, name, arguments}`, and `arguments` is JSON text. Must stay free of mlx.
"""

import json
import logging
import secrets
from collections.abc import Callable
from typing import Any

from broker.wire.failure import invalid

log = logging.getLogger("worker")


def read_calls(parse: Callable[[], Any]) -> list[dict[str, Any]] | None:
    """The calls that `parse` returns, one or a list of `{name, arguments}`; None if there is no well-formed call."""
    try:
        parsed = parse()
        calls = [_call_of(call) for call in (parsed if isinstance(parsed, list) else [parsed])]
    except Exception as error:  # noqa: BLE001 # the input is model output: a parser may raise anything
        log.info("a tool call is malformed: %s", type(error).__name__)
        return None
    return calls or None


def _call_of(call: Any) -> dict[str, Any]:
    name, arguments = call["name"], call.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise ValueError("a call must have a name and an object of arguments")
    given = call.get("id")
    call_id = given if isinstance(given, str) and given else f"call_{secrets.token_hex(12)}"
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    # Raises for half a surrogate pair, which JSON can spell and UTF-8 cannot encode.
    f"{call_id}{name}{text}".encode()
    return {"id": call_id, "name": name, "arguments": text}


def whole_calls(text: str) -> list[Any]:
    """The calls in an answer that follows `call_schema`, without one that was cut short."""
    read = json.JSONDecoder().raw_decode
    calls, begin = [], text.find("{")
    while begin >= 0:
        try:
            call, end = read(text, begin)
        except ValueError:
            break
        calls.append(call)
        begin = text.find("{", end)
    return calls


def call_schema(tools: list[dict[str, Any]], names: list[str], *, one_call: bool) -> dict[str, Any]:
    """The JSON schema of a call of one of these tools, or of a list of calls. Raises FailureError."""
    choices = []
    shared: dict[str, dict[str, Any]] = {"$defs": {}, "definitions": {}}
    for tool in tools:
        function = tool.get("function")
        if not isinstance(function, dict) or function.get("name") not in names:
            continue
        # Whatever else `parameters` says: arguments must be an object.
        arguments = {**(function.get("parameters") or {}), "type": "object"}
        for key, known in shared.items():
            # References start at the root, so definitions must be there.
            for name, definition in (arguments.pop(key, None) or {}).items():
                if known.setdefault(name, definition) != definition:
                    raise invalid(f"two tools have different {key} named {name!r}", param="tools")
        choices.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    if not choices:
        raise invalid("tool_choice names no tool of tools", param="tool_choice")
    call = {"anyOf": choices}
    wanted = call if one_call else {"type": "array", "items": call, "minItems": 1}
    return {**wanted, **{key: known for key, known in shared.items() if known}}
