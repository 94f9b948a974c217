"""The parts of a chat model's answer: reasoning, text and tool calls. Text in, parts out.

A malformed call is returned as text. Blanks before the first text that follows reasoning or a call are dropped: they
belong to the form. Knows nothing of tokens.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_lm.generate import TextStateMachine

from worker.generation.calls.formats import GENERIC, HARMONY, CallFormat, call_format
from worker.generation.calls.harmony import CALL_OPENING, HarmonySplit
from worker.generation.calls.pieces import CallPiece, CallPieces, add_piece
from worker.generation.calls.readers import BOUND_CALL, read_bound_json
from worker.generation.calls.shapes import SHAPES, ObjectCalls
from worker.generation.reasoning import Reasoning, think_tags
from worker.generation.split import MarkSplit, Opening, Split, text_machine
from worker.generation.tools import CallIds, calls_reader, new_id, whole_calls


@dataclass(slots=True)
class Parts:
    """A piece of an answer. text, reasoning: pieces to join; tool_calls, logprobs, ignored, prompt: as on the wire, but
    calls that come in pieces."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[Any] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    prompt: dict[str, int] | None = None

    def body(self) -> dict[str, Any]:
        """The wire's form: always `text`, the others only if there are any."""
        body: dict[str, Any] = {"text": "".join(self.text)}
        if self.reasoning:
            body["reasoning"] = "".join(self.reasoning)
        if self.tool_calls:
            body["tool_calls"] = [call.body() if isinstance(call, CallPiece) else call for call in self.tool_calls]
        if self.logprobs:
            body["logprobs"] = self.logprobs
        if self.ignored:
            body["ignored"] = self.ignored
        if self.prompt is not None:
            body["prompt"] = self.prompt
        return body


class AnswerFormat:
    """How one model marks the parts of its answers. calls: the form of its tool calls, None if it has none."""

    def __init__(self, tokenizer: Any, *, generic: bool = False) -> None:
        """generic: for prompts that ask for calls in the generic form instead of the model's own."""
        self._tokenizer = tokenizer
        self._think = think_tags(tokenizer)
        own = call_format(tokenizer)
        self._is_harmony = own is HARMONY
        self.calls = GENERIC if generic else own
        self._machine = text_machine(tokenizer, self._think, self.calls)
        self._has_marks = bool(
            self._think or self.calls or tokenizer.structural_markers or tokenizer.response_transitions
        )

    def answer(
        self,
        reasoning: Reasoning,
        tools: list[dict[str, Any]],
        *,
        one_call: bool = False,
        in_pieces: bool = False,
        ids: CallIds = new_id,
    ) -> "Answer | None":
        """For one request; None for a model that marks nothing. one_call: the answer ends with its first call;
        in_pieces: its calls, which follow a grammar, are wanted as they come; ids: of its calls."""
        if not self._has_marks:
            return None
        calls = self.calls
        return Answer(
            self._split(reasoning, has_tools=bool(tools)),
            _reader(calls, tools, ids),
            calls.start if calls else "",
            calls.end if calls else "",
            one_call=one_call,
            trims=reasoning.is_closed,
            pieces=CallPieces(ids) if in_pieces else None,
        )

    def constrained(
        self, reasoning: Reasoning, *, is_call: bool, in_pieces: bool = False, ids: CallIds = new_id
    ) -> "Answer":
        """For a request whose answer must follow a grammar: only the reasoning before it is marked. is_call: the
        grammar is that of `constraints.calls.call_schema`; in_pieces: and its calls are wanted as they come."""
        # The whole answer is the call.
        said = "tool" if is_call else "normal"
        if self.calls is HARMONY:
            return self._following(HarmonySplit(said), is_call=is_call, in_pieces=in_pieces, ids=ids)
        ends = [(self._think[1], said)] if self._think else []
        machine = TextStateMachine({"reasoning": ends, said: []})
        opening = None
        if self._think and reasoning.openings:
            opening = Opening((self._think[0],), machine.make_state("reasoning"))
        state = machine.make_state("reasoning" if reasoning.is_open else said)
        return self._following(MarkSplit(state, opening), is_call=is_call, in_pieces=in_pieces, ids=ids)

    def _following(self, split: Split, *, is_call: bool, in_pieces: bool, ids: CallIds) -> "Answer":
        # Not trimmed: a grammar may ask for blanks. A call that is cut short is no answer; nothing of it is sent.
        return Answer(
            split,
            calls_reader(whole_calls, ids),
            "",
            "",
            trims=None,
            drops_malformed=is_call,
            pieces=CallPieces(ids) if is_call and in_pieces else None,
        )

    @property
    def call_openings(self) -> tuple[tuple[int, ...], ...]:
        """The tokens that begin a call; none for a model that has no mark for that."""
        start = CALL_OPENING if self.calls is HARMONY else self.calls.start if self.calls else ""
        return (tuple(self._tokenizer.encode(start, add_special_tokens=False)),) if start else ()

    @property
    def has_object_calls(self) -> bool:
        """Whether calls are JSON objects of nothing but a name and arguments."""
        match SHAPES.get(self.calls.name) if self.calls is not None else None:
            case ObjectCalls(name="name", arguments="arguments", before=(), after=()):
                return True
        return False

    @property
    def has_bare_calls(self) -> bool:
        """Whether calls are JSON that nothing marks."""
        return self.calls is not None and bool(self.calls.openings)

    def either(
        self, reasoning: Reasoning, tools: list[dict[str, Any]], *, one_call: bool, ids: CallIds = new_id
    ) -> "Answer | EitherAnswer":
        """For a request whose answer must follow a grammar, unless it is calls."""
        calls = self.calls
        assert calls is not None  # there are call_openings, or has_bare_calls
        if calls is HARMONY:
            return Answer(HarmonySplit(), _reader(calls, tools, ids), "", "", one_call=one_call, trims=None)
        rest = self._calls_alone(calls, tools, one_call, ids)
        return EitherAnswer(self.constrained(reasoning, is_call=False), rest)

    def _calls_alone(self, calls: CallFormat, tools: list[dict[str, Any]], one_call: bool, ids: CallIds) -> "Answer":
        """For the part of an answer after its reasoning that is a plain text, unless it begins with a call."""
        plain = TextStateMachine({"normal": []}).make_state("normal")
        tool = self._machine.make_state("tool")
        opening = Opening((BOUND_CALL,), tool, stays=True) if calls.openings else Opening((calls.start,), tool)
        reader = _reader(replace(calls, read=read_bound_json) if calls.openings else calls, tools, ids)
        return Answer(MarkSplit(plain, opening), reader, calls.start, calls.end, one_call=one_call, trims=None)

    def _split(self, reasoning: Reasoning, *, has_tools: bool) -> Split:
        if self._is_harmony:
            return HarmonySplit()
        machine, calls = self._machine, self.calls
        opening = None
        if calls is not None and calls.openings and has_tools:
            opening = Opening(calls.openings, machine.make_state("tool"), stays=True)
        initial = self._tokenizer.response_initial_state or ("reasoning" if reasoning.is_open else "normal")
        return MarkSplit(machine.make_state(initial), opening)


def _reader(
    calls: CallFormat | None, tools: list[dict[str, Any]], ids: CallIds
) -> Callable[[str], list[dict[str, Any]] | None] | None:
    if calls is None or not tools:
        return None
    read = calls.read
    return calls_reader(lambda text: read(text, tools), ids)


class Answer:
    """The answer to one request. `has_called`: at least one call has been read."""

    def __init__(
        self,
        split: Split,
        read: Callable[[str], list[dict[str, Any]] | None] | None,
        start: str,
        end: str,
        *,
        one_call: bool = False,
        trims: bool | None = False,
        drops_malformed: bool = False,
        pieces: CallPieces | None = None,
    ) -> None:
        """start, end: marks that `split` takes off calls. trims: whether the text begins after reasoning; None to
        leave its blanks as they are. drops_malformed: a call that cannot be read is not returned as text. pieces:
        reads calls as they come, in place of `read`."""
        self.has_called = False
        self._one_call = one_call
        self._split = split
        self._read = read
        self._marks = start, end
        self._call: list[str] | None = None
        self._trims = trims
        self._drops_malformed = drops_malformed
        self._pieces = pieces
        self._has_text = False

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow."""
        return self._one_call and self.has_called

    @property
    def is_reasoning(self) -> bool:
        """Whether reasoning is open."""
        return self._split.is_reasoning

    def reasoning_split(self) -> Split:
        """A split that says where the reasoning of this answer is. To be taken before the first text."""
        return copy(self._split)

    def push(self, text: str, parts: Parts) -> None:
        """Take some text; add what is certain by now to `parts`."""
        for name, segment in self._split.push(text):
            self._take(name, segment, parts)

    def finish(self, parts: Parts) -> None:
        """Add the rest to `parts`: no more text will come."""
        for name, segment in self._split.finish():
            self._take(name, segment, parts)
        if self._call is not None:
            self._end_call(parts, end="")

    def _take(self, name: str, text: str, parts: Parts) -> None:
        if name != "tool" and self._call is not None:
            self._end_call(parts, self._marks[1])
        if self.is_over:
            return
        if name == "tool" and self._pieces is not None:
            self._take_pieces(text, self._pieces, parts)
        elif name == "tool":
            self._call = self._call or []
            self._call.append(text)
        elif name == "normal":
            self._say(text, parts)
        elif text and name == "reasoning":  # other states are headers
            self._follows()
            parts.reasoning.append(text)

    def _take_pieces(self, text: str, pieces: CallPieces, parts: Parts) -> None:
        for piece in pieces.push(text):
            add_piece(parts.tool_calls, piece)
            if piece.ends:
                self.has_called = True
                self._follows()
            if self.is_over:
                return

    def _follows(self) -> None:
        """From here on, text follows reasoning or a call."""
        self._trims = None if self._trims is None else True

    def _say(self, text: str, parts: Parts) -> None:
        if self._trims and not self._has_text:
            text = text.lstrip()
        if text:
            self._has_text = True
            parts.text.append(text)

    def _end_call(self, parts: Parts, end: str) -> None:
        text = "".join(self._call or [])
        self._call = None
        calls = self._read(text) if self._read is not None else None
        if calls is None and self._drops_malformed:
            return
        if calls is None:
            self._say(self._marks[0] + text + end, parts)
            return
        self.has_called = True
        self._follows()
        parts.tool_calls += calls[:1] if self._one_call else calls


class EitherAnswer:
    """An answer that must follow a grammar, unless it is calls: the text after the reasoning is read once more."""

    def __init__(self, reasoning: Answer, rest: Answer) -> None:
        self._reasoning = reasoning
        self._rest = rest

    @property
    def has_called(self) -> bool:
        """At least one call has been read."""
        return self._rest.has_called

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow."""
        return self._rest.is_over

    @property
    def is_reasoning(self) -> bool:
        """Whether reasoning is open."""
        return self._reasoning.is_reasoning

    def reasoning_split(self) -> Split:
        """As Answer."""
        return self._reasoning.reasoning_split()

    def push(self, text: str, parts: Parts) -> None:
        """As Answer."""
        first = Parts()
        self._reasoning.push(text, first)
        self._pass_on(first, parts)

    def finish(self, parts: Parts) -> None:
        """As Answer."""
        first = Parts()
        self._reasoning.finish(first)
        self._pass_on(first, parts)
        self._rest.finish(parts)

    def _pass_on(self, first: Parts, parts: Parts) -> None:
        parts.reasoning += first.reasoning
        if first.text:
            self._rest.push("".join(first.text), parts)
