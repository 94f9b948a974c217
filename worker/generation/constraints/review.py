"""Whether an answer follows the parts of its schema that no constraint could enforce. A miss is logged: the answer has
been sent. Knows no tokens.
"""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import regex
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry

from broker.wire.failure import one_line
from worker.generation.constraints.bounds import Schema
from worker.generation.constraints.enforce import Enforced

log = logging.getLogger("worker")

# (the text, the calls as on the wire) of a whole answer.
Review = Callable[[str, list[dict[str, Any]]], None]

_MAX_CHARACTERS = 1_000_000
_SEARCH_SECONDS = 0.1


class UncheckableError(Exception):
    """The library would search with `re`, which cannot be bounded."""


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


def miss_of(schema: Schema, text: str) -> str | None:
    """Why this JSON text does not follow the schema; None if it does."""
    try:
        _validator(schema).validate(json.loads(text))
    except ValidationError as error:
        return one_line(f"{error.json_path}: {error.message}")
    return None


def _check(wanted: Enforced, text: str) -> None:
    if len(text) > _MAX_CHARACTERS:
        return
    names = ", ".join(wanted.names)
    try:
        miss = miss_of(wanted.whole, text)
    except Exception as error:  # noqa: BLE001 # the schema is the client's: a reference may lead nowhere or in a circle
        log.info("an answer could not be checked against %s: %s", names, type(error).__name__)
        return
    if miss is not None:
        log.warning("an answer does not follow %s, which could not be enforced", names)


def _pattern(_validator: Validator, pattern: str, instance: Any, _schema: Schema) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not regex.search(pattern, instance, timeout=_SEARCH_SECONDS):
        yield ValidationError(f"does not match {pattern!r}")


def _pattern_properties(*_arguments: Any) -> Iterator[ValidationError]:
    raise UncheckableError("patternProperties")


_KEYWORDS = {"pattern": _pattern, "patternProperties": _pattern_properties}


def _validator(schema: Schema) -> Validator:
    """Fetches nothing, and bounds the searches with a client's pattern, which might take for ever."""
    kind: Any = extend(validator_for(schema, default=Draft202012Validator), _KEYWORDS)
    validator: Validator = kind(schema, registry=Registry())
    return validator
