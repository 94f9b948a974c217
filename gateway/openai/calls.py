"""Calls -> OpenAI's JSON: of functions, of custom tools, and of `functions`, which were before tools. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.core.answer import ToolUse
from gateway.core.custom_tools import InputText, input_of

Object = dict[str, object]


@dataclass(slots=True, frozen=True)
class CallStyle:
    """How the calls of one answer are written. custom: the names of custom tools; is_legacy: as `function_call`."""

    custom: frozenset[str] = frozenset()
    is_legacy: bool = False

    def whole(self, calls: Sequence[ToolUse]) -> Object:
        """The field of a message that has these calls."""
        if self.is_legacy:
            return {"function_call": {"name": calls[0].name, "arguments": calls[0].arguments}}
        return {"tool_calls": [self._call(call) for call in calls]}

    def finish_reason(self, reason: str) -> str:
        """OpenAI's."""
        return "function_call" if self.is_legacy and reason == "tool_calls" else reason

    def _call(self, call: ToolUse) -> Object:
        if call.name in self.custom:
            return {
                "id": call.id,
                "type": "custom",
                "custom": {"name": call.name, "input": input_of(call.arguments)},
            }
        return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


FUNCTION_CALLS = CallStyle()


class CallWriter:
    """The calls of one streamed choice, whole or in pieces. Mutable state: how many have begun, and the input of the
    custom tool whose call is open."""

    def __init__(self, style: CallStyle) -> None:
        self._style = style
        self._begun = 0
        self._input = InputText()

    def pieces(self, calls: Sequence[ToolUse]) -> Object:
        """The field of a delta that has these."""
        if self._style.is_legacy:
            names = [call.name for call in calls if call.starts]
            function = {"arguments": "".join(call.arguments for call in calls)}
            return {"function_call": {"name": names[0], **function} if names else function}
        return {"tool_calls": list(self._entries(calls))}

    def _entries(self, calls: Sequence[ToolUse]) -> Iterator[Object]:
        """Id and name come with the first piece of a call only."""
        for call in calls:
            self._begun += call.starts
            kind, text = "function", {"arguments": call.arguments}
            if call.name in self._style.custom:
                kind, text = "custom", {"input": self._input_text(call)}
            identity = {"id": call.id, "type": kind} if call.starts else {}
            name = {"name": call.name} if call.starts else {}
            yield {"index": self._begun - 1, **identity, kind: {**name, **text}}

    def _input_text(self, call: ToolUse) -> str:
        if call.starts:
            self._input = InputText()
        text = self._input.push(call.arguments)
        return text + self._input.finish() if call.ends else text
