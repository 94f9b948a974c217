"""Integers that the reader of bodies rounds: they are refused where a model would read them. Pure."""

import json
from collections.abc import Iterator
from typing import Any

from broker.wire.failure import invalid

# The least number that may be a rounded integer: a whole float. Up to it integers are exact.
_ROUNDED = 2**63


def refuse_rounded(raw: dict[str, Any], body: bytes) -> None:
    """For chats. Raises FailureError naming the tool or the arguments with an integer beyond 64 bits. raw: the body,
    read."""
    if not any(_has(value, float) for _, value in _fields(raw)):
        return
    try:
        exact = json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("the body has an integer that cannot be kept exactly") from None
    for param, value in _fields(exact):
        if _has(value, int):
            raise invalid(f"{param} has an integer beyond 64 bits; only arguments as JSON text may have it", param)


def _fields(raw: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "chat_template_kwargs", raw.get("chat_template_kwargs")
    for index, tool in _entries(raw.get("tools")):
        yield f"tools[{index}]", tool
    for index, message in _entries(raw.get("messages")):
        where = f"messages[{index}]"
        for number, call in _entries(message.get("tool_calls")):
            yield f"{where}.tool_calls[{number}].function.arguments", _arguments(call.get("function"))
        yield f"{where}.function_call.arguments", _arguments(message.get("function_call"))


def _entries(value: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """What is of use of a list that nobody has checked."""
    if isinstance(value, list):
        yield from ((index, entry) for index, entry in enumerate(value) if isinstance(entry, dict))


def _arguments(function: Any) -> Any:
    return function.get("arguments") if isinstance(function, dict) else None


def _has(value: Any, kind: type[int] | type[float]) -> bool:
    """Whether there is a number of this kind that may be, or is, an integer beyond 64 bits."""
    level = [value]
    while level:
        entry = level.pop()
        if isinstance(entry, dict):
            level += entry.values()
        elif isinstance(entry, list):
            level += entry
        elif type(entry) is kind and not -_ROUNDED <= entry < (_ROUNDED if kind is float else 2**64):
            return True
    return False
