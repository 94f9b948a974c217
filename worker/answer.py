"""The parts of a chat model's answer: what it thinks, what it says, and the tools it calls. Text in, parts out.

mlx-lm knows from the tokenizer which tags a model writes around its thoughts and its calls; its TextStateMachine finds
them, also where they come in pieces. What looks like a call and cannot be read is text. Knows nothing of tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mlx_lm.generate import TextStateMachine, make_text_state_machine

from worker.tools import read_calls, whole_calls

# Enough for a tag and the blanks behind it.
_END_TOKENS = 16


@dataclass(slots=True)
class Parts:
    """Some of an answer. text, reasoning: pieces to be joined; tool_calls, logprobs: as on the wire."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        """As it goes to the wire: `text` in any case, the others where there are any."""
        body: dict[str, Any] = {"text": "".join(self.text)}
        if self.reasoning:
            body["reasoning"] = "".join(self.reasoning)
        if self.tool_calls:
            body["tool_calls"] = self.tool_calls
        if self.logprobs:
            body["logprobs"] = self.logprobs
        return body


class AnswerFormat:
    """How one model marks the parts of its answers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._machine: Any = make_text_state_machine(tokenizer)
        # An answer that must follow a grammar has no marks of its own but the end of the thoughts before it.
        thoughts = [(tokenizer.think_end, "normal")] if tokenizer.has_thinking else []
        self._constrained: Any = TextStateMachine({"normal": [], "reasoning": thoughts})
        self._has_marks = bool(
            tokenizer.has_thinking
            or tokenizer.has_tool_calling
            or tokenizer.structural_markers
            or tokenizer.response_transitions
        )

    def is_thinking(self, prompt: list[int]) -> bool:
        """Whether the prompt opens the model's thoughts, as some templates have it."""
        return self._tokenizer.has_thinking and self._end(prompt).endswith(self._tokenizer.think_start)

    def answer(self, prompt: list[int], tools: list[dict[str, Any]], *, one_call: bool = False) -> "Answer | None":
        """For one request; None for a model that marks nothing. one_call: it is over with its first call."""
        if not self._has_marks:
            return None
        initial = self._tokenizer.response_initial_state or ("reasoning" if self.is_thinking(prompt) else "normal")
        start, end = self._tokenizer.tool_call_start or "", self._tokenizer.tool_call_end or ""
        parse = self._tokenizer.tool_parser

        def read(text: str) -> list[dict[str, Any]] | None:
            return read_calls(lambda: parse(text, tools)) if tools and parse is not None else None

        return Answer(self._machine.make_state(initial), read, start, end, one_call=one_call)

    def constrained(self, prompt: list[int], *, is_call: bool) -> "Answer":
        """For a request whose answer must follow a grammar. is_call: that of `tools.call_schema`."""
        if is_call:
            # What is said is the call.
            state = self._call_machine(self.is_thinking(prompt))
            return Answer(state, lambda text: read_calls(lambda: whole_calls(text)), "", "")
        return Answer(self._constrained.make_state("reasoning" if self.is_thinking(prompt) else "normal"), None, "", "")

    def _end(self, prompt: list[int]) -> str:
        """The last words of a prompt, where templates open thoughts or close them. Tags further up are somebody's who
        talks about them, or belong to earlier turns."""
        text: str = self._tokenizer.decode(prompt[-_END_TOKENS:])
        return text.rstrip()

    def _call_machine(self, thinks: bool) -> Any:
        thoughts = [(self._tokenizer.think_end, "tool")] if thinks else []
        return TextStateMachine({"reasoning": thoughts, "tool": []}).make_state("reasoning" if thinks else "tool")


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
    ) -> None:
        self.has_called = False
        self._one_call = one_call
        self._state = state
        self._read = read
        self._marks = start, end
        self._call: list[str] | None = [] if state[0] == "tool" else None

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow."""
        return self._one_call and self.has_called

    def push(self, text: str, parts: Parts) -> None:
        """Add what is certain by now to `parts`."""
        if text:
            self._state, segments = TextStateMachine.split(self._state, text)
            for name, segment in segments:
                self._take(name, segment, parts)

    def finish(self, parts: Parts) -> None:
        """Add the rest to `parts`, once no text will follow."""
        self._state, held, name = TextStateMachine.flush(self._state)
        self._take(name, held, parts)
        if self._call is not None:
            self._end_call(parts, end="")

    def _take(self, name: str, text: str, parts: Parts) -> None:
        if name != "tool" and self._call is not None:
            self._end_call(parts, self._marks[1])
        if self.is_over:
            return
        if name == "tool":
            self._call = self._call or []
            self._call.append(text)
        elif text and name in ("normal", "reasoning"):  # there are also states for headers
            (parts.text if name == "normal" else parts.reasoning).append(text)

    def _end_call(self, parts: Parts, end: str) -> None:
        text = "".join(self._call or [])
        self._call = None
        calls = self._read(text) if self._read is not None else None
        if calls is None:
            parts.text.append(self._marks[0] + text + end)
            return
        self.has_called = True
        parts.tool_calls += calls[:1] if self._one_call else calls
