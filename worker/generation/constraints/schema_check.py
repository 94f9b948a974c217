"""Whether a JSON text follows a client's schema, within bounds.

Importing jsonschema takes 50 ms, so review.py imports this file for the first answer that needs it.
"""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import regex
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry

from broker.wire.failure import one_line
from worker.generation.constraints.bounds import Schema, subschemas

_SEARCH_SECONDS = 0.1  # of all patterns together
_MAX_STEPS = 20_000  # keywords, and the elements of what they are about
_MAX_FORMATTED = 1000  # characters
# What the library follows for `unevaluatedProperties` and `unevaluatedItems` on a way of its own.
_UNCOUNTED = frozenset({"patternProperties", "dependentSchemas", "$dynamicRef", "$recursiveRef"})
_FORMATS = FormatChecker()  # those that need nothing else installed

_Keyword = Callable[[Any, Any, Any, Schema], Iterator[ValidationError] | None]


class UncheckableError(Exception):
    """The check would take too long, or search with `re`, which cannot be bounded."""


def miss_of(schema: Schema, text: str) -> str | None:
    """Why this JSON text does not follow the schema; None if it does."""
    try:
        _validator(schema).validate(json.loads(text))
    except ValidationError as error:
        return one_line(f"{error.json_path}: {error.message}")
    return None


class _Budget:
    """What one check may still take: mutable state. The schema is the client's, and references may multiply."""

    def __init__(self) -> None:
        self._steps = _MAX_STEPS
        self._seconds = _SEARCH_SECONDS

    def counted(self, check: _Keyword) -> _Keyword:
        """The same check of a keyword, which now takes steps."""

        def count(validator: Validator, value: Any, instance: Any, schema: Schema) -> Iterator[ValidationError] | None:
            self._steps -= 1 + sum(len(one) for one in (value, instance) if isinstance(one, list | dict))
            if self._steps < 0:
                raise UncheckableError("too many steps")
            return check(validator, value, instance, schema)

        return count

    def pattern(self, _validator: Any, pattern: str, instance: Any, _schema: Schema) -> Iterator[ValidationError]:
        if not isinstance(instance, str):
            return
        began = time.monotonic()
        is_there = regex.search(pattern, instance, timeout=max(self._seconds, 0.001))
        self._seconds -= time.monotonic() - began
        if not is_there:
            yield ValidationError(f"does not match {pattern!r}")


def _pattern_properties(*_arguments: Any) -> Iterator[ValidationError]:
    raise UncheckableError("patternProperties")


def _unevaluated(*_arguments: Any) -> Iterator[ValidationError]:
    raise UncheckableError("unevaluated")


def _unique_items(_validator: Any, is_wanted: Any, instance: Any, _schema: Schema) -> Iterator[ValidationError]:
    """In one pass; the library compares each element with each other."""
    if is_wanted is True and isinstance(instance, list) and len(set(map(_canonical, instance))) < len(instance):
        yield ValidationError("has non-unique elements")


def _canonical(value: Any) -> str:
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: Any) -> Any:
    """With integers in place of floats that are whole: these are equal."""
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _format(validator: Validator, name: Any, instance: Any, _schema: Schema) -> Iterator[ValidationError]:
    if isinstance(instance, str) and len(instance) <= _MAX_FORMATTED and not _FORMATS.conforms(instance, name):
        yield ValidationError(f"is not a {name!r}")


def _validator(schema: Schema) -> Validator:
    """Fetches nothing, and bounds what a client's schema may take."""
    library: Any = validator_for(schema, default=Draft202012Validator)
    budget = _Budget()
    own = {"patternProperties": _pattern_properties, "uniqueItems": _unique_items, "format": _format}
    keywords = {**library.VALIDATORS, **own, "pattern": budget.pattern}
    if any(node.keys() & _UNCOUNTED for node in subschemas(schema)):
        keywords |= {"unevaluatedProperties": _unevaluated, "unevaluatedItems": _unevaluated}
    kind: Any = extend(library, {keyword: budget.counted(check) for keyword, check in keywords.items()})
    validator: Validator = kind(_undeclared(schema), registry=Registry())
    return validator


def _undeclared(value: Any) -> Any:
    """Without `$schema`, with which the library would go on with its own unbounded validator."""
    if isinstance(value, list):
        return [_undeclared(one) for one in value]
    if isinstance(value, dict):
        return {key: _undeclared(one) for key, one in value.items() if key != "$schema"}
    return value
