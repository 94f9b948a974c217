"""A conversation as the wire has it, with the places of the request that it came from. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.core.content import Content, Image, wire_content


@dataclass(slots=True)
class PlacedTurn:
    """One message of the wire. path: of the item that began it; the others: of its content, of the parts of that, of
    its reasoning and of its calls."""

    role: str
    path: str
    content: Content = ""
    content_path: str = ""
    part_paths: Sequence[str] = ()
    reasoning: str = ""
    reasoning_path: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    call_paths: list[tuple[str, str]] = field(default_factory=list)  # of the call, and of its arguments
    call_id: str | None = None
    name: str | None = None

    def to_map(self) -> dict[str, Any]:
        """As the wire has it."""
        message: dict[str, Any] = {"role": self.role, "content": wire_content(self.content)}
        given = {
            "reasoning_content": self.reasoning,
            "tool_calls": self.calls,
            "tool_call_id": self.call_id,
            "name": self.name,
        }
        return message | {name: value for name, value in given.items() if value}

    @property
    def images(self) -> list[tuple[Image, str]]:
        """Its images and where they are."""
        if isinstance(self.content, str):
            return []
        parts = zip(self.content, self.part_paths, strict=True)
        return [(part, path) for part, path in parts if isinstance(part, Image)]


def led_by(instructions: str | None, turns: Sequence[PlacedTurn]) -> list[PlacedTurn]:
    """With one system turn in front: the instructions, and all system turns that begin the conversation. Later ones
    stay where they are: what stands before them is in the prompt cache, and the worker moves them where a template
    has no place for them."""
    leading = 0
    while leading < len(turns) and turns[leading].role == "system":
        leading += 1
    said = [PlacedTurn("system", "instructions", instructions, "instructions")] if instructions else []
    said += [turn for turn in turns[:leading] if turn.content]
    rest = list(turns[leading:])
    if not said:
        return rest
    text = "\n\n".join(turn.content for turn in said if isinstance(turn.content, str))
    return [PlacedTurn("system", said[0].path, text, said[0].content_path), *rest]
