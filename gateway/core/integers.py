"""Integers that the reader of bodies rounds: they are refused where a model would read them. Pure."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from broker.wire.failure import invalid

# The least number that may be a rounded integer: a whole float. Up to it integers are exact.
_ROUNDED = 2**63

# The values of a body that a model reads, each with its path. Nobody has checked the body.
Fields = Callable[[dict[str, Any]], Iterator[tuple[str, Any]]]


def refuse_rounded(raw: dict[str, Any], body: bytes, fields: Fields) -> None:
    """Raises FailureError naming the field with an integer beyond 64 bits. raw: the body, read."""
    if not any(value is not None and _has(value, float) for _, value in fields(raw)):
        return
    try:
        exact = json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("the body has an integer that cannot be kept exactly") from None
    for param, value in fields(exact):
        if _has(value, int):
            raise invalid(f"{param} has an integer beyond 64 bits, which cannot be kept exactly", param)


def entries_of(value: Any) -> Sequence[tuple[int, dict[str, Any]]]:
    """What is of use of a list that nobody has checked."""
    if not isinstance(value, list):
        return ()
    return [(index, entry) for index, entry in enumerate(value) if isinstance(entry, dict)]


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
