"""The parts of a chat model's answer: reasoning, text and tool calls. Text in, parts out.

mlx-lm knows from the tokenizer which tags a model writes around its reasoning and its calls; its TextStateMachine finds
them, even if they arrive in pieces. A malformed call is returned as text. Knows nothing of tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mlx_lm.generate import TextStateMachine, make_text_state_machine

from worker.generation.reasoning import NO_REASONING, Reasoning
from worker.generation.tools import read_calls, whole_calls


@dataclass(slots=True)
class Parts:
    """A piece of an answer. text, reasoning: pieces to join; tool_calls, logprobs, ignored: as on the wire."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        """The wire's form: always `text`, the others only if there are any."""
        body: dict[str, Any] = {"text": "".join(self.text)}
        if self.reasoning:
            body["reasoning"] = "".join(self.reasoning)
        if self.tool_calls:
            body["tool_calls"] = self.tool_calls
        if self.logprobs:
            body["logprobs"] = self.logprobs
        if self.ignored:
            body["ignored"] = self.ignored
        return body


class AnswerFormat:
    """How one model marks the parts of its answers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._machine: Any = make_text_state_machine(tokenizer)
        self._has_marks = bool(
            tokenizer.has_thinking
            or tokenizer.has_tool_calling
            or tokenizer.structural_markers
            or tokenizer.response_transitions
        )

    def answer(self, reasoning: Reasoning, tools: list[dict[str, Any]], *, one_call: bool = False) -> "Answer | None":
        """For one request; None for a model that marks nothing. one_call: the answer ends with its first call."""
        if not self._has_marks:
            return None
        initial = self._tokenizer.response_initial_state or ("reasoning" if reasoning.is_open else "normal")
        start, end = self._tokenizer.tool_call_start or "", self._tokenizer.tool_call_end or ""
        parse = self._tokenizer.tool_parser

        def read(text: str) -> list[dict[str, Any]] | None:
            return read_calls(lambda: parse(text, tools)) if tools and parse is not None else None

        return Answer(self._machine.make_state(initial), read, start, end, one_call=one_call)

    def constrained(self, reasoning: Reasoning, *, is_call: bool) -> "Answer":
        """For a request whose answer must follow a grammar: only the reasoning before it is marked. is_call: the
        grammar is that of `constraints.calls.call_schema`."""
        # The whole answer is the call.
        said = "tool" if is_call else "normal"
        ends = [(self._tokenizer.think_end, said)] if self._tokenizer.has_thinking else []
        machine = TextStateMachine({"reasoning": ends, said: []})
        opening = (self._tokenizer.think_start, machine.make_state("reasoning")) if reasoning.openings else None
        state = machine.make_state("reasoning" if reasoning.is_open else said)
        # A call that is cut short is no answer; nothing of it is sent.
        return Answer(
            state,
            lambda text: read_calls(lambda: whole_calls(text)),
            "",
            "",
            opening=opening,
            drops_malformed=is_call,
        )

    @property
    def call_openings(self) -> tuple[tuple[int, ...], ...]:
        """The tokens that begin a call; none for a model that has no mark for that."""
        start, parse = self._tokenizer.tool_call_start, self._tokenizer.tool_parser
        if not start or parse is None:
            return ()
        return (tuple(self._tokenizer.encode(start, add_special_tokens=False)),)

    def calls_alone(self, tools: list[dict[str, Any]], *, one_call: bool) -> "Answer":
        """For the part of an answer after its reasoning that is a plain text, unless it begins with a call."""
        answer = self.answer(NO_REASONING, tools, one_call=one_call)
        assert answer is not None  # there are call_openings
        calls, plain = self._machine.make_state("tool"), TextStateMachine({"normal": []}).make_state("normal")
        answer.begin_plain(plain, self._tokenizer.tool_call_start, calls)
        return answer


class Answer:
    """The answer to one request. `has_called`: at least one call has been read."""

    def __init__(
        self,
        state: Any,
        read: Callable[[str], list[dict[str, Any]] | None] | None,
        start: str,
        end: str,
        *,
        one_call: bool = False,
        opening: tuple[str, Any] | None = None,
        drops_malformed: bool = False,
    ) -> None:
        """opening: a tag that counts only at the very beginning, apart from blanks, and the state that it leads to.
        drops_malformed: a call that cannot be read is not returned as text."""
        self.has_called = False
        self._one_call = one_call
        self._state = state
        self._read = read
        self._marks = start, end
        self._opening = opening
        self._drops_malformed = drops_malformed
        self._held = ""  # while it may become the opening
        self._call: list[str] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow."""
        return self._one_call and self.has_called

    def begin_plain(self, plain: Any, tag: str, marked: Any) -> None:
        """Before any text: `plain` is the state, or `marked` if the text begins with `tag`."""
        self._state, self._opening = plain, (tag, marked)

    def push(self, text: str, parts: Parts) -> None:
        """Take some text; add what is certain by now to `parts`."""
        if self._opening is not None:
            text = self._without_opening(text, *self._opening)
        if text:
            self._state, segments = TextStateMachine.split(self._state, text)
            for name, segment in segments:
                self._take(name, segment, parts)

    def finish(self, parts: Parts) -> None:
        """Add the rest to `parts`: no more text will come."""
        self._opening = None
        self.push(self._held, parts)
        self._state, held, name = TextStateMachine.flush(self._state)
        self._take(name, held, parts)
        if self._call is not None:
            self._end_call(parts, end="")

    def _without_opening(self, text: str, tag: str, state: Any) -> str:
        """The part of the text so far that is certain, without the opening tag."""
        text, self._held = self._held + text, ""
        begun = text.lstrip()
        if len(begun) < len(tag) and tag.startswith(begun):
            self._held = text
            return ""
        self._opening = None
        if not begun.startswith(tag):
            return text
        self._state = state
        return begun.removeprefix(tag)

    def _take(self, name: str, text: str, parts: Parts) -> None:
        if name != "tool" and self._call is not None:
            self._end_call(parts, self._marks[1])
        if self.is_over:
            return
        if name == "tool":
            self._call = self._call or []
            self._call.append(text)
        elif text and name in ("normal", "reasoning"):  # other states are headers
            (parts.text if name == "normal" else parts.reasoning).append(text)

    def _end_call(self, parts: Parts, end: str) -> None:
        text = "".join(self._call or [])
        self._call = None
        calls = self._read(text) if self._read is not None else None
        if calls is None and self._drops_malformed:
            return
        if calls is None:
            parts.text.append(self._marks[0] + text + end)
            return
        self.has_called = True
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
