"""Functions whose only argument is the text `input`, which must follow a grammar of the client."""

from dataclasses import dataclass
from functools import lru_cache

from broker.wire.failure import invalid
from broker.wire.work import Generate
from worker.generation.constraints import keywords
from worker.generation.constraints.bounds import Schema, check_grammar
from worker.generation.constraints.lark import NotRegularError
from worker.generation.constraints.lark_pattern import LEVELS, expression_of
from worker.generation.constraints.native import UnreadableError, check_grammar_readable, check_readable

# Of one request. Each grammar takes up to a tenth of a second.
_MAX_CHARACTERS = 200_000
_MAX_GRAMMARS = 32


@dataclass(slots=True, frozen=True)
class Input:
    """The grammar of a text, and one pattern for its texts, None where there is none."""

    grammar: str
    pattern: str | None

    @property
    def schema(self) -> Schema:
        """Of the arguments."""
        text = {"type": "string"} if self.pattern is None else {"type": "string", "pattern": f"^(?:{self.pattern})$"}
        return {"type": "object", "properties": {"input": text}, "required": ["input"], "additionalProperties": False}


def read_input(request: Generate, position: int) -> Input | None:
    """The grammar of the input of the tool at this position, None without one. Raises FailureError naming
    `tools[position].format`."""
    function = request.tools[position].get("function")
    name = function.get("name") if isinstance(function, dict) else None
    grammar = request.input_grammars.get(name) if isinstance(name, str) else None
    if grammar is None:
        return None
    field = f"tools[{position}].format"
    if sum(map(len, request.input_grammars.values())) > _MAX_CHARACTERS:
        raise invalid(f"{field}: the grammars of all tools have more than {_MAX_CHARACTERS} characters", field)
    if len(request.input_grammars) > _MAX_GRAMMARS:
        raise invalid(f"{field}: more than {_MAX_GRAMMARS} tools have a grammar", field)
    for schema in check_grammar(grammar, field):
        if gone := keywords.enforceable(schema, field)[1]:
            raise invalid(f"{field}: the keyword {gone[0]!r} cannot be enforced: no such text can be forced", field)
    try:
        check_grammar_readable(grammar)
    except UnreadableError as error:
        raise invalid(f"{field}: {error}", field) from error
    return _with_pattern(grammar)


# Agents send the same tools with every request.
@lru_cache(maxsize=32)
def _with_pattern(grammar: str) -> Input:
    """With the pattern that has most levels of what contains itself, and can still be read."""
    for levels in LEVELS:
        try:
            given = Input(grammar, expression_of(grammar, levels))
            check_readable(given.schema)
        except (NotRegularError, UnreadableError):
            continue
        return given
    return Input(grammar, None)
