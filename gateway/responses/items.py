"""The items of a request -> the turns of a conversation. Pure.

What one answer consisted of (reasoning, texts, calls) are several items in a row, and one turn. Every mistake names its
place within `input`.
"""

from dataclasses import dataclass, field
from typing import Any

from gateway.core.content import Image, content_from
from gateway.core.custom_tools import arguments_of
from gateway.core.validation import at
from gateway.responses.parts import part_of, reasoning_in, text_field
from gateway.responses.sealed import unsealed
from gateway.responses.tools import refuse_many, wire_name
from gateway.responses.turns import PlacedTurn

# Reading a body holds up all streams of this gateway.
_MAX_ITEMS = 8192
_MAX_PARTS = 16_384  # of all items together
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
# What cannot be left out: the answer would be to another question.
_REFUSED = {
    "item_reference": "refers to an item that is not stored here; send the item itself",
    "compaction_trigger": "asks for a compaction, which is not supported",
}


@dataclass(slots=True)
class InputItems:
    """ignored: items that are left out. tools: those that items bring along, and their paths."""

    turns: list[PlacedTurn] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    tools: list[tuple[str, Any]] = field(default_factory=list)


def conversation_of(value: object) -> InputItems:
    """The field `input`: a text, or items. Raises ValueError, also of pydantic's kind."""
    if isinstance(value, str):
        return InputItems([PlacedTurn("user", "input", value, "input")])
    if not isinstance(value, list) or not value:
        raise ValueError("must be a text or a list of items that is not empty")
    if len(value) > _MAX_ITEMS:
        raise ValueError(f"has more than {_MAX_ITEMS} items")
    reader = _Reader()
    for position, item in enumerate(value):
        reader.read(item, f"[{position}]")
    reader.finish()
    return reader.conversation


class _Reader:
    """where: the place of an item within `input`."""

    def __init__(self) -> None:
        self.conversation = InputItems()
        self._answer: PlacedTurn | None = None  # the assistant's turn that the next item may belong to
        self._said: list[str] = []  # paragraphs of its text
        self._thought: list[str] = []  # and of its reasoning
        self._calls: set[str] = set()
        self._left_out: set[str] = set()  # ids of calls that are left out, as their results then are
        self._pictures: list[tuple[Image, str]] = []  # of results: only a user's turn may have images
        self._parts = 0

    def read(self, item: Any, where: str) -> None:
        """Raises pydantic's error."""
        if not isinstance(item, dict):
            raise at(where, "must be an object")
        kind = item.get("type") or ("message" if "role" in item else None)
        if not isinstance(kind, str):
            raise at(f"{where}.type", "must be the type of an item, such as message")
        if problem := _REFUSED.get(kind):
            raise at(where, f"{kind} {problem}")
        match kind:
            case "message":
                self._message(item, where)
            case "reasoning":
                self._reasoning(item, where)
            case "function_call" | "custom_tool_call":
                self._call(item, where, is_custom=kind == "custom_tool_call")
            case "function_call_output" | "custom_tool_call_output":
                self._result(item, where, kind)
            case "additional_tools":
                self._tools(item, where)
            case _:
                if isinstance(call_id := item.get("call_id"), str):
                    self._left_out.add(call_id)
                self._leave_out(where, kind)

    def finish(self) -> None:
        """There are no more items."""
        self._place_images()
        self._end_answer()

    def _place_images(self) -> None:
        """Those of results, in a user's turn behind them."""
        if self._pictures:
            images, paths = zip(*self._pictures, strict=True)
            path = paths[0].rpartition("[")[0]
            self.conversation.turns.append(PlacedTurn("user", path, list(images), path, paths))
            self._pictures = []

    def _add(self, turn: PlacedTurn) -> PlacedTurn:
        if turn.role != "tool":
            self._place_images()
        self._end_answer()
        self._answer = turn if turn.role == "assistant" else None
        self.conversation.turns.append(turn)
        return turn

    def _end_answer(self) -> None:
        if self._answer is not None:
            self._answer.content = "\n\n".join(self._said)
            self._answer.reasoning = "\n\n".join(self._thought)
            self._answer, self._said, self._thought = None, [], []

    def _in_answer(self, where: str, *, is_call: bool = False) -> PlacedTurn:
        """The assistant's turn of this item. A text without calls is complete, but calls may follow it."""
        if self._answer is None or (self._said and not self._answer.calls and not is_call):
            return self._add(PlacedTurn("assistant", f"input{where}"))
        return self._answer

    def _message(self, item: dict[str, Any], where: str) -> None:
        role = _ROLES.get(item["role"]) if isinstance(item.get("role"), str) else None
        if role is None:
            raise at(f"{where}.role", "must be user, assistant, system or developer")
        place = f"{where}.content"
        parts, paths = self._parts_of(item.get("content"), place)
        content = content_from(parts)
        if role == "user":
            self._add(PlacedTurn(role, f"input{where}", content, f"input{place}", paths))
            return
        if not isinstance(content, str):
            raise at(place, "only a user's message and the output of a call may have images")
        if role == "system":
            self._add(PlacedTurn(role, f"input{where}", content, f"input{place}"))
            return
        turn = self._in_answer(where)
        self._said += [content] if content else []
        turn.content_path = turn.content_path or f"input{place}"

    def _reasoning(self, item: dict[str, Any], where: str) -> None:
        for name in ("content", "summary"):
            self._count(item.get(name), f"{where}.{name}")
        text = reasoning_in(item.get("content"), f"{where}.content", ("reasoning_text", "text"))
        summary = reasoning_in(item.get("summary"), f"{where}.summary", ("summary_text",))
        sealed = item.get("encrypted_content")
        reasoning = text or unsealed(sealed) or summary
        if reasoning:
            turn = self._in_answer(where)
            self._thought.append(reasoning)
            turn.reasoning_path = turn.reasoning_path or f"input{where}"
        elif sealed:
            self.conversation.ignored.append(f"input{where}.encrypted_content")

    def _call(self, item: dict[str, Any], where: str, *, is_custom: bool) -> None:
        field = "input" if is_custom else "arguments"
        call_id, name, text = (text_field(item, name, where) for name in ("call_id", "name", field))
        namespace = item.get("namespace")
        if namespace is not None and not isinstance(namespace, str):
            raise at(f"{where}.namespace", "must be a text")
        if not name:
            raise at(f"{where}.name", "must not be empty")
        arguments = arguments_of(text) if is_custom else text.strip() or "{}"
        turn = self._in_answer(where, is_call=True)
        function = {"name": wire_name(name, namespace), "arguments": arguments}
        turn.calls.append({"id": call_id, "type": "function", "function": function})
        turn.call_paths.append((f"input{where}", f"input{where}.{field}"))
        self._calls.add(call_id)

    def _result(self, item: dict[str, Any], where: str, kind: str) -> None:
        call_id, name = item.get("call_id"), item.get("name")
        if call_id is not None and not isinstance(call_id, str):
            raise at(f"{where}.call_id", "must be a text")
        if call_id in self._left_out:
            self._leave_out(where, kind)
            return
        if call_id is not None and call_id not in self._calls:
            raise at(f"{where}.call_id", f"no call before it has the id {call_id!r:.80}")
        place = f"{where}.output"
        parts, paths = self._parts_of(item.get("output"), place)
        text = "".join(part for part in parts if isinstance(part, str))
        turn = self._add(PlacedTurn("tool", f"input{where}", text, f"input{place}", call_id=call_id))
        turn.name = name if call_id is None and isinstance(name, str) else None
        images = [(part, path) for part, path in zip(parts, paths, strict=True) if isinstance(part, Image)]
        self._pictures += images

    def _tools(self, item: dict[str, Any], where: str) -> None:
        tools = item.get("tools")
        if not isinstance(tools, list):
            raise at(f"{where}.tools", "must be a list of tools")
        refuse_many(tools)
        self._count(tools, f"{where}.tools")
        path = f"input{where}.tools"
        self.conversation.tools += [(f"{path}[{number}]", tool) for number, tool in enumerate(tools)]

    def _leave_out(self, where: str, kind: str) -> None:
        self.conversation.ignored.append(f"input{where} ({kind:.80})")

    def _count(self, parts: Any, place: str) -> None:
        self._parts += len(parts) if isinstance(parts, list) else 0
        if self._parts > _MAX_PARTS:
            raise at(place, f"the items have more than {_MAX_PARTS} parts")

    def _parts_of(self, content: Any, place: str) -> tuple[list[str | Image], list[str]]:
        """Texts and images, and where they are."""
        if isinstance(content, str):
            return [content], [f"input{place}"]
        if not isinstance(content, list):
            raise at(place, "must be a text or a list of parts")
        self._count(content, place)
        parts = [part_of(part, f"{place}[{number}]") for number, part in enumerate(content)]
        ends = (".image_url" if isinstance(part, Image) else "" for part in parts)
        return parts, [f"input{place}[{number}]{end}" for number, end in enumerate(ends)]
