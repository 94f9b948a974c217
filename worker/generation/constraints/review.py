"""Whether an answer follows the parts of its schema that no constraint could enforce. A miss is logged: the answer has
been sent. Knows no tokens.
"""

import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

from worker.generation.constraints.enforce import Enforced

log = logging.getLogger("worker")

# (the text, the calls as on the wire) of a whole answer.
Review = Callable[[str, list[dict[str, Any]]], None]

_MAX_CHARACTERS = 1_000_000


def review_of_text(wanted: Enforced) -> Review | None:
    """None where the constraint enforces everything."""
    if not wanted.ignored:
        return None

    def review(text: str, calls: list[dict[str, Any]]) -> None:
        if not calls:
            _check(wanted, text)

    return review


def review_of_calls(wanted: dict[str, Enforced]) -> Review | None:
    """For each call the schema of its function."""
    if not any(one.ignored for one in wanted.values()):
        return None

    def review(_text: str, calls: list[dict[str, Any]]) -> None:
        for call in calls:
            one = wanted.get(call["name"])
            if one is not None and one.ignored:
                _check(one, call["arguments"])

    return review


def both(first: Review | None, second: Review | None) -> Review | None:
    """One after the other."""
    if first is None or second is None:
        return first or second

    def review(text: str, calls: list[dict[str, Any]]) -> None:
        first(text, calls)
        second(text, calls)

    return review


def _check(wanted: Enforced, text: str) -> None:
    if len(text) > _MAX_CHARACTERS:
        return
    names = ", ".join(wanted.names)
    try:
        miss = import_module("worker.generation.constraints.schema_check").miss_of(wanted.whole, text)
    except Exception as error:  # noqa: BLE001 # the schema is the client's: a reference may lead nowhere or in a circle
        log.info("an answer could not be checked against %s: %s", names, type(error).__name__)
        return
    if miss is not None:
        log.warning("an answer does not follow %s, which could not be enforced", names)
