"""Splits the text of an answer where a model's marks are: reasoning, calls, and what it says. Text in, parts out.

A part is (kind, text), and kind is `normal`, `reasoning`, `tool`, or anything else for what nobody sees.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from mlx_lm.generate import TextStateMachine

from worker.generation.calls.formats import CallFormat


class Split(Protocol):
    """Splits one answer."""

    def push(self, text: str, /) -> list[tuple[str, str]]:
        """The parts that are certain by now."""

    def finish(self) -> list[tuple[str, str]]:
        """The rest: no more text will come."""

    @property
    def is_reasoning(self) -> bool:
        """Whether the text that is certain by now ends inside reasoning."""


@dataclass(slots=True, frozen=True)
class Opening:
    """How an answer may begin, apart from blanks, and what it is then. tags: one of these. stays: the tag is a part of
    it, and blanks inside the tag do not count."""

    tags: tuple[str, ...]
    state: Any
    stays: bool = False

    def begins(self, text: str) -> str | None:
        """The tag with which the text begins; "" while that is open, None if there is none."""
        begun = "".join(text.split()) if self.stays else text.lstrip()
        for tag in self.tags:
            if begun.startswith(tag):
                return tag
        return "" if any(tag.startswith(begun) for tag in self.tags) else None


class MarkSplit:
    """Splits by mlx-lm's TextStateMachine, which finds marks even if they arrive in pieces."""

    def __init__(self, state: Any, opening: Opening | None = None) -> None:
        """opening: counts only at the very beginning."""
        self._state = state
        self._opening = opening
        self._held = ""  # while it may become the opening

    def push(self, text: str) -> list[tuple[str, str]]:
        if self._opening is not None:
            text = self._begun(text, self._opening)
        if not text:
            return []
        self._state, segments = TextStateMachine.split(self._state, text)
        return list(segments)

    def finish(self) -> list[tuple[str, str]]:
        self._opening = None
        parts = self.push(self._held)
        self._state, held, name = TextStateMachine.flush(self._state)
        return [*parts, (name, held)]

    @property
    def is_reasoning(self) -> bool:
        is_open: bool = self._state[0] == "reasoning"
        return is_open

    def _begun(self, text: str, opening: Opening) -> str:
        """The part of the text so far that is certain, without the opening tag."""
        text, self._held = self._held + text, ""
        tag = opening.begins(text)
        if tag == "":
            self._held = text
            return ""
        self._opening = None
        if tag is None:
            return text
        self._state = opening.state
        return text if opening.stays else text.lstrip().removeprefix(tag)


def text_machine(tokenizer: Any, think: tuple[str, str] | None, calls: CallFormat | None) -> TextStateMachine:
    """The marks of one model. think: those around its reasoning."""
    normal: list[tuple[str, str]] = []
    reasoning: list[tuple[str, str]] = []
    tool: list[tuple[str, str]] = []
    transitions = {"normal": normal, "reasoning": reasoning, "tool": tool}
    if think is not None:
        normal.append((think[0], "reasoning"))
        reasoning.append((think[1], "normal"))
    leads_to_calls = any(state == "tool" for edges in tokenizer.response_transitions.values() for _, state in edges)
    if calls is not None and calls.start:
        if not leads_to_calls:  # a response format that goes to "tool" decides where calls start
            normal.append((calls.start, "tool"))
        reasoning.append((calls.start, "tool"))
        if calls.end:
            tool.append((calls.end, "normal"))
    normal += [(mark, "normal") for mark in tokenizer.structural_markers]
    vocabulary = tokenizer.get_vocab()
    normal += [(mark, "normal") for mark in _AROUND if mark in vocabulary]
    for name, edges in tokenizer.response_transitions.items():
        transitions.setdefault(name, []).extend(edges)
    return TextStateMachine(transitions)


# Around what the model says, of the families that mlx-lm does not know (Cohere).
_AROUND = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")
