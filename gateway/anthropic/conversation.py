"""Anthropic's messages -> those of the wire, and the way back from fields of the wire to the client's paths. Pure.

Results of calls stand in user messages there, and are messages of their own on the wire. So one message may become
several, and each keeps where it came from.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import PlainValidator

from broker.wire.failure import invalid
from gateway.anthropic.blocks import (
    Block,
    CallBlock,
    ForeignBlock,
    ImageBlock,
    ResultBlock,
    TextBlock,
    ThoughtBlock,
    blocks_of,
)
from gateway.anthropic.shapes import AnthropicContent
from gateway.core.content import Image, content_from, wire_content
from gateway.core.validation import RequestBody

# Names the client's billing, differs in every request, and is nothing for the model.
_BILLING_LINE = re.compile(r"x-anthropic-billing-header:[^\n]*\n?")
_WIRE_IMAGE = re.compile(r"images\[(\d+)\]")
_WIRE_MESSAGE = re.compile(r"messages\[(\d+)\](?:\.(parts|tool_calls)\[(\d+)\]|\.(content))?")

# What each role's messages may have, apart from blocks that are left out.
_ALLOWED = {
    "user": (TextBlock, ImageBlock, ResultBlock, ForeignBlock),
    "assistant": (TextBlock, ThoughtBlock, CallBlock, ForeignBlock),
    "system": (TextBlock,),
}


class AnthropicMessage(RequestBody):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[list[Block], PlainValidator(blocks_of, json_schema_input_type=AnthropicContent)]


@dataclass(slots=True, frozen=True)
class MessagePlace:
    """Where a message of the wire came from: paths of the whole, of its content, of each part, of each call."""

    whole: str
    content: str
    parts: Sequence[str] = ()
    calls: Sequence[str] = ()


@dataclass(slots=True)
class Conversation:
    """The messages of the wire and their images, where they came from, and the paths of blocks that are left out."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    _places: list[MessagePlace] = field(default_factory=list)
    _image_places: list[str] = field(default_factory=list)

    def path_of(self, wire: str) -> str | None:
        """The client's path of `messages[0].parts[1]` or `images[2]`, None for any other field of the wire."""
        if image := _WIRE_IMAGE.match(wire):
            number = int(image[1])
            return self._image_places[number] if number < len(self._image_places) else "messages"
        found = _WIRE_MESSAGE.match(wire)
        if found is None or int(found[1]) >= len(self._places):
            return None
        place = self._places[int(found[1])]
        if found[4]:
            return place.content
        if found[2]:
            paths = place.parts if found[2] == "parts" else place.calls
            return paths[int(found[3])] if int(found[3]) < len(paths) else place.whole
        return place.whole

    def add(self, message: dict[str, Any], place: MessagePlace) -> None:
        """The next message of the wire."""
        self.messages.append(message)
        self._places.append(place)

    def add_image(self, image: Image, path: str) -> None:
        """The next image, in the order of the wire."""
        self.images.append(image)
        self._image_places.append(path)


def conversation_of(system: Sequence[TextBlock], messages: Sequence[AnthropicMessage]) -> Conversation:
    """Raises FailureError for a block in the wrong role, and for calls and results that do not fit each other."""
    whole = Conversation()
    _add_system(whole, system, MessagePlace("system", "system"))
    waiting: set[str] = set()  # ids of calls without a result
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        whole.ignored += _left_out(message, where)
        if message.role == "assistant":
            _add_answer(whole, message.content, where, waiting)
        elif message.role == "user":
            _add_question(whole, message.content, where, waiting)
        else:
            texts = [block for block in message.content if isinstance(block, TextBlock)]
            _add_system(whole, texts, MessagePlace(where, f"{where}.content"))
    return whole


def _left_out(message: AnthropicMessage, where: str) -> list[str]:
    """The paths of blocks that nothing here can read. Raises FailureError for those of another role."""
    for block in message.content:
        if not isinstance(block, _ALLOWED[message.role]):
            path = _path(where, block)
            raise invalid(f"{path}: a message of the role {message.role} must not have such a block", path)
    return [_path(where, block) for block in message.content if isinstance(block, ForeignBlock)]


def _add_system(whole: Conversation, blocks: Sequence[TextBlock], place: MessagePlace) -> None:
    texts = [block.text for block in blocks]
    if texts and (found := _BILLING_LINE.match(texts[0])):
        texts[0] = texts[0][found.end() :]
    if text := "\n\n".join(filter(None, texts)):
        whole.add({"role": "system", "content": text}, place)


def _add_answer(whole: Conversation, blocks: Sequence[Block], where: str, waiting: set[str]) -> None:
    calls = [block for block in blocks if isinstance(block, CallBlock)]
    for call in calls:
        if call.id in waiting:
            path = f"{_path(where, call)}.id"
            raise invalid(f"{path}: another call without a result has this id", path)
        waiting.add(call.id)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join([block.text for block in blocks if isinstance(block, TextBlock)]),
    }
    if thought := "".join([block.text for block in blocks if isinstance(block, ThoughtBlock)]):
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    paths = [_path(where, call) for call in calls]
    whole.add(message, MessagePlace(where, f"{where}.content", calls=paths))


def _add_question(whole: Conversation, blocks: Sequence[Block], where: str, waiting: set[str]) -> None:
    """Results first, each a message of its own; then a user message with all else. Only that may have images, so those
    of results go there, with a number by which the result names them."""
    parts: list[tuple[str | Image, str]] = []
    results = [block for block in blocks if isinstance(block, ResultBlock)]
    for block in results:
        path = _path(where, block)
        if block.call_id not in waiting:
            param = f"{path}.tool_use_id"
            raise invalid(f"{param}: no call before it has this id and no result yet", param)
        waiting.remove(block.call_id)
        text = "Error: " if block.is_error else ""
        for part in block.parts:
            if isinstance(part, TextBlock):
                text += part.text
            else:
                number = f"[image {1 + len(parts) // 2}]"
                text += number
                parts += [(number, path), (part.image, _path(where, part))]
        message = {"role": "tool", "tool_call_id": block.call_id, "content": text}
        whole.add(message, MessagePlace(path, f"{path}.content"))
    for other in blocks:
        if isinstance(other, TextBlock):
            parts.append((other.text, _path(where, other)))
        elif isinstance(other, ImageBlock):
            parts.append((other.image, _path(where, other)))
    if results and not parts:
        return
    for shown, path in parts:
        if isinstance(shown, Image):
            whole.add_image(shown, path)
    content = wire_content(content_from([shown for shown, _ in parts]))
    whole.add(
        {"role": "user", "content": content}, MessagePlace(where, f"{where}.content", [path for _, path in parts])
    )


def _path(where: str, block: Block) -> str:
    """Of a block in the message `where`."""
    return f"{where}.content{block.place}"
