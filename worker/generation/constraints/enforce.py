"""From the schemas of a request to one matcher: what cannot be enforced is left out and named, or refused where the
client says `strict`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import llguidance

from broker.wire.failure import invalid
from broker.wire.work import Generate
from worker.generation.constraints import keywords
from worker.generation.constraints.bounds import Schema, check_grammar, check_schema
from worker.generation.constraints.calls import call_or_text_schema, call_schema, parameters_of
from worker.generation.constraints.inputs import read_input
from worker.generation.constraints.native import (
    UnreadableError,
    check_readable,
    grammar_matcher,
    is_unreadable,
    schema_matcher,
)


@dataclass(slots=True, frozen=True)
class Enforced:
    """A client's schema, and what of it is enforced. field: its name on the wire; ignored: keywords left out."""

    field: str
    whole: Schema
    schema: Schema
    strict: bool
    ignored: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """What is left out, as the wire names it."""
        return [f"{self.field}.{keyword}" for keyword in self.ignored]

    def without(self, rest: keywords.Rest, reason: str = "no such answer can be forced") -> "Enforced":
        """With only this rest of its schema. Raises FailureError where all of it is to be enforced."""
        schema, gone = rest
        if gone and self.strict:
            raise invalid(f"{self.field}: the keyword {gone[0]!r} cannot be enforced: {reason}", self.field)
        return replace(self, schema=schema, ignored=(*self.ignored, *gone))


def wanted_schema(request: Generate) -> Enforced | None:
    """The schema of the text. Raises FailureError."""
    if request.json_schema is None:
        return None
    return read_schema(request.json_schema, "json_schema", strict=request.strict)


def wanted_calls(request: Generate) -> dict[str, Enforced]:
    """By their names the functions of which at least one has to be called. Raises FailureError."""
    found = {}
    for position, tool in enumerate(request.tools):
        function = tool.get("function")
        if not isinstance(function, dict) or function.get("name") not in request.required_tools:
            continue
        field = f"tools[{position}]"
        if (given := read_input(request, position)) is not None:
            left_out = () if given.pattern is not None else ("format",)
            found[function["name"]] = Enforced(field, given.schema, given.schema, strict=False, ignored=left_out)
            continue
        found[function["name"]] = read_schema(parameters_of(tool), field, strict=function.get("strict") is True)
    if not found:
        raise invalid("required_tools names no tool of tools", "required_tools")
    return found


def text_matcher(
    guide: llguidance.LLTokenizer, wanted: Enforced, callable_names: list[str]
) -> tuple[llguidance.LLMatcher, Enforced]:
    """For a text, or a call of one of these functions that nothing marks. Raises FailureError."""

    def schema() -> Schema:
        return call_or_text_schema(callable_names, wanted.schema) if callable_names else wanted.schema

    try:
        return schema_matcher(guide, schema()), wanted
    except UnreadableError:
        wanted = settled(wanted)
    try:
        return schema_matcher(guide, schema()), wanted
    except UnreadableError as error:
        raise invalid(f"{wanted.field}: {error}", wanted.field) from error


def calls_matcher(
    guide: llguidance.LLTokenizer, wanted: dict[str, Enforced], *, one_call: bool
) -> tuple[llguidance.LLMatcher, dict[str, Enforced]]:
    """For calls of these functions. Raises FailureError."""

    def schema() -> Schema:
        together = call_schema([(name, one.schema) for name, one in wanted.items()], one_call=one_call)
        check_schema(together, "tools")
        return together

    try:
        return schema_matcher(guide, schema()), wanted
    except UnreadableError:
        wanted = {name: settled(one) for name, one in wanted.items()}
    try:
        return schema_matcher(guide, schema()), wanted
    except UnreadableError as error:
        raise invalid(f"tools: {error}", "tools") from error


def text_grammar_matcher(guide: llguidance.LLTokenizer, grammar: str) -> llguidance.LLMatcher:
    """For a text. A schema inside the grammar is enforced as a whole. Raises FailureError."""
    for schema in check_grammar(grammar):
        Enforced("grammar", schema, schema, strict=True).without(keywords.enforceable(schema, "grammar"))
    try:
        return grammar_matcher(guide, grammar)
    except UnreadableError as error:
        raise invalid(f"grammar: {error}", "grammar") from error


def read_schema(schema: Schema, field: str, *, strict: bool) -> Enforced:
    """The schema without what cannot be enforced. Raises FailureError for what must be."""
    check_schema(schema, field)
    return Enforced(field, schema, schema, strict).without(keywords.enforceable(schema, field))


def settled(wanted: Enforced) -> Enforced:
    """With a schema that llguidance reads. Raises FailureError if leaving out does not help."""
    try:
        check_readable(wanted.schema)
    except UnreadableError as error:
        first = error
    else:
        return wanted
    for step in _steps():
        rest = step(wanted.schema)
        if rest[1]:
            try:
                check_readable(rest[0])
            except UnreadableError:
                wanted = replace(wanted, schema=rest[0], ignored=(*wanted.ignored, *rest[1]))
                continue
            return wanted.without(rest, str(first))
    raise invalid(f"{wanted.field}: {first}", wanted.field) from first


def _steps() -> Iterator[Callable[[Schema], keywords.Rest]]:
    """What may be left out, one after the other, until the rest can be read."""
    yield keywords.without_unknown
    yield lambda schema: keywords.without_unreadable(schema, is_unreadable)
    yield keywords.with_any_of
    yield keywords.without_pattern_properties
