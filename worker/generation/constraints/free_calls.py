"""Calls of a model that is free to call: its text is free until a mark begins a call, and the call follows a grammar.

Behind the mark at the end of a call the text is free again.
"""

from dataclasses import dataclass, replace

import llguidance
import mlx.core as mx

from broker.wire.failure import FailureError
from broker.wire.work import Generate
from worker.generation.calls.formats import HARMONY, CallFormat
from worker.generation.calls.harmony import CALL_MARKS, ROLE_START
from worker.generation.calls.shapes import ObjectCalls, Shape, shape_of
from worker.generation.constraints.bare_calls import BareCalls, bare_grammar
from worker.generation.constraints.bounds import Schema
from worker.generation.constraints.call_grammars import BoundTool, UnboundError, calls_grammar, check_bound
from worker.generation.constraints.calls import parameters_of
from worker.generation.constraints.enforce import Enforced, read_schema, settled
from worker.generation.constraints.inputs import read_input
from worker.generation.constraints.native import UnreadableError, failure_of, grammar_matcher
from worker.generation.constraints.vocabulary import Vocabulary, among, following

_ANY_OBJECT: Schema = {"type": "object"}


class FreeCalls:
    """Binds the calls in one answer.

    Mutable state: the end of the text so far, as far as it may belong to a mark; whether a call is open.
    """

    def __init__(self, matcher: llguidance.LLMatcher, form: CallFormat, vocabulary: Vocabulary, eos: list[int]) -> None:
        is_harmony = form is HARMONY
        marks = CALL_MARKS if is_harmony else (form.start,)
        self._marks = tuple(mark.encode() for mark in marks)
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._eos = eos
        self._has_end = bool(form.end)
        self._tail = ROLE_START.encode() if is_harmony else b""
        self._is_open = False

    def begin(self) -> None:
        """A mark has been read elsewhere."""
        self._is_open = True

    def take(self, token: int) -> None:
        """The next token of the answer."""
        if self._is_open:
            self._matcher.consume_token(token)
            if self._has_end and self._matcher.is_accepting():
                self._is_open, self._tail = False, b""
                self._matcher.reset()
            return
        text = self._tail + self._vocabulary.text(token)
        self._is_open = text.endswith(self._marks)
        self._tail = text[1 - max(map(len, self._marks)) :]

    def allowed(self, width: int) -> mx.array | None:
        """For each id below `width`, whether it may come next; None for all."""
        if self._is_open:
            return following(self._matcher, self._eos, width)
        # A token that has a mark and more would begin a call out of the reach of the grammar.
        beyond = self._vocabulary.beyond(self._marks, self._tail)
        return mx.logical_not(among(beyond, width)) if beyond else None

    def check(self) -> None:
        """Raises FailureError once the grammar has exceeded llguidance's limits."""
        if self._matcher.is_error():
            raise failure_of(self._matcher, "tools: a call cannot follow its grammar any further", "tools")


@dataclass(slots=True, frozen=True)
class _Wanted:
    """A tool of the request. field: what the client asks to be enforced, "" for nothing; enforced: of a strict one."""

    tool: BoundTool
    field: str = ""
    enforced: Enforced | None = None

    @property
    def loose(self) -> "_Wanted":
        """The same without what was asked."""
        return _Wanted(BoundTool(self.tool.name, _ANY_OBJECT))


def wants_bound_calls(request: Generate) -> bool:
    """Whether a call that the model is free to write is to follow a schema or a grammar."""
    return any(
        isinstance(function := tool.get("function"), dict)
        and (function.get("strict") is True or function.get("name") in request.input_grammars)
        for tool in request.tools
    )


def wished_fields(request: Generate) -> list[str]:
    """The fields of tools that ask for this. Raises FailureError."""
    return [one.field for one in _all_wanted(request) if one.field]


def free_calls(
    request: Generate, form: CallFormat, guide: llguidance.LLTokenizer, vocabulary: Vocabulary, eos: list[int]
) -> tuple[FreeCalls | BareCalls | None, dict[str, Enforced], list[str]]:
    """What binds the calls, None if nothing does; the schemas of strict functions; and the fields of tools that are
    not enforced. Raises FailureError."""
    wanted = _all_wanted(request)
    shape = ObjectCalls() if form.openings else shape_of(form.name, vocabulary.is_token)
    if shape is None:
        return None, {}, [one.field for one in wanted if one.field]
    ignored = [one.field for one in wanted if one.field and not _can_bind(shape, one.tool, vocabulary)]
    wanted = [one.loose if one.field in ignored else one for one in wanted]
    if not any(one.field for one in wanted):
        return None, {}, ignored
    try:
        matcher, wanted = _matcher(shape, wanted, form, guide, vocabulary)
    except (UnreadableError, FailureError):
        return None, {}, [*ignored, *(one.field for one in wanted if one.field)]
    enforced = {one.tool.name: one.enforced for one in wanted if one.enforced is not None}
    left_out = [name for one in enforced.values() for name in one.names]
    binds = BareCalls if form.openings else FreeCalls
    return binds(matcher, form, vocabulary, eos), enforced, [*ignored, *left_out]


def _all_wanted(request: Generate) -> list[_Wanted]:
    return [
        _wanted(request, position, tool["function"])
        for position, tool in enumerate(request.tools)
        if isinstance(tool.get("function"), dict)
    ]


def _wanted(request: Generate, position: int, function: dict[str, object]) -> _Wanted:
    name = str(function.get("name"))
    if (given := read_input(request, position)) is not None:
        grammar = given.grammar if given.pattern is None else None
        tool = BoundTool(name, given.schema, is_strict=True, pattern=given.pattern, grammar=grammar)
        return _Wanted(tool, f"tools[{position}].format")
    if function.get("strict") is not True:
        return _Wanted(BoundTool(name, _ANY_OBJECT))
    # What of it cannot be enforced is left out and named: the model is free to call, so nothing is promised.
    enforced = read_schema(parameters_of(request.tools[position]), f"tools[{position}]", strict=False)
    return _Wanted(BoundTool(name, enforced.schema, is_strict=True), f"tools[{position}].function.strict", enforced)


def _can_bind(shape: Shape, tool: BoundTool, vocabulary: Vocabulary) -> bool:
    try:
        check_bound(shape, tool, vocabulary.literal)
    except UnboundError:
        return False
    return True


def _matcher(
    shape: Shape, wanted: list[_Wanted], form: CallFormat, guide: llguidance.LLTokenizer, vocabulary: Vocabulary
) -> tuple[llguidance.LLMatcher, list[_Wanted]]:
    """Raises UnreadableError or FailureError if no grammar of these calls can be read."""
    try:
        return grammar_matcher(guide, _grammar(shape, wanted, form, vocabulary)), wanted
    except UnreadableError:
        wanted = [_settled(one) for one in wanted]
    return grammar_matcher(guide, _grammar(shape, wanted, form, vocabulary)), wanted


def _grammar(shape: Shape, wanted: list[_Wanted], form: CallFormat, vocabulary: Vocabulary) -> str:
    tools = [one.tool for one in wanted]
    if form.openings:
        return bare_grammar(tools, vocabulary)
    return calls_grammar(shape, tools, form.end, vocabulary.literal)


def _settled(one: _Wanted) -> _Wanted:
    if one.enforced is None:
        return one
    enforced = settled(one.enforced)
    return replace(one, tool=replace(one.tool, arguments=enforced.schema), enforced=enforced)
