"""The content of a message in Anthropic's blocks -> texts, images, calls, results and thoughts. Pure.

Each block keeps the place that it had in the content, `.2` or `.2.content.0`, empty for a content that is one text.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.core.content import Image, image_at, image_in
from gateway.core.validation import at

# Blocks of tools that Anthropic's own servers run: nothing here can read what is in them.
_OF_SERVERS = re.compile(r"(?:server|mcp)_tool_use|\w+_tool_result|container_upload")
_MAX_DEPTH = 2  # a document in a result
_MEDIA_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")


@dataclass(slots=True, frozen=True)
class TextBlock:
    """A text, also of a block that is a text in the end."""

    text: str
    place: str = ""


@dataclass(slots=True, frozen=True)
class ImageBlock:
    """An image; its place is that of its source."""

    image: Image
    place: str


@dataclass(slots=True, frozen=True)
class ThoughtBlock:
    """Reasoning of an earlier answer."""

    text: str
    place: str


@dataclass(slots=True, frozen=True)
class CallBlock:
    """A call. arguments: JSON text."""

    id: str
    name: str
    arguments: str
    place: str


@dataclass(slots=True, frozen=True)
class ResultBlock:
    """The result of a call."""

    call_id: str
    parts: Sequence[TextBlock | ImageBlock]
    is_error: bool
    place: str


@dataclass(slots=True, frozen=True)
class ForeignBlock:
    """A block that is left out, as its content is only for Anthropic's own servers."""

    place: str


Block = TextBlock | ImageBlock | ThoughtBlock | CallBlock | ResultBlock | ForeignBlock


def blocks_of(content: object, place: str = "") -> list[Block]:
    """A text is one block. place: of the content itself. Raises a ValueError that names the place."""
    if isinstance(content, str):
        return [TextBlock(content, place)]
    if not isinstance(content, list):
        raise at(place, "must be a string or a list of blocks")
    if place.count(".content") > _MAX_DEPTH:
        raise at(place, "is nested too deeply")
    return [read for index, block in enumerate(content) for read in _read(block, f"{place}.{index}")]


def texts_of(content: object, place: str = "") -> list[TextBlock]:
    """The same where only texts may be, or nothing. Raises a ValueError that names the place."""
    texts: list[TextBlock] = []
    for block in [] if content is None else blocks_of(content, place):
        if not isinstance(block, TextBlock):
            raise at(block.place, 'must be {"type": "text", "text": "..."}')
        texts.append(block)
    return texts


def _read(block: Any, place: str) -> Sequence[Block]:
    """Most are one block; redacted thinking is none."""
    kind = block.get("type") if isinstance(block, dict) else None
    match kind:
        case "text":
            return [TextBlock(_text(block, "text", place), place)]
        case "image":
            return [_image(block.get("source"), f"{place}.source")]
        case "tool_use":
            return [_call(block, place)]
        case "tool_result":
            return [_result(block, place)]
        case "thinking":
            return [ThoughtBlock(_text(block, "thinking", place), place)]
        case "redacted_thinking":
            return []
        case "document":
            return _document(block, place)
        case "search_result":
            told = [_text(block, name, place) for name in ("title", "source")]
            found = [text.text for text in texts_of(block.get("content"), f"{place}.content")]
            return [TextBlock("\n".join([*told, *found]) + "\n\n", place)]
        case "compaction":  # the text that stands for earlier turns
            return [TextBlock(block["content"], place)] if isinstance(block.get("content"), str) else []
        case str() if _OF_SERVERS.fullmatch(kind):
            return [ForeignBlock(place)]
        case str():
            raise at(f"{place}.type", f"{kind!r:.80} is not a type of block that is served")
    raise at(place, "must be an object with a type")


def _text(block: dict[str, Any], name: str, place: str, least: int = 0) -> str:
    text = block.get(name)
    if not isinstance(text, str) or len(text) < least:
        raise at(f"{place}.{name}", "must be a string that is not empty" if least else "must be a string")
    return text


def _image(source: Any, place: str) -> ImageBlock:
    match source:
        case {"type": "base64"}:
            if (media_type := source.get("media_type")) not in _MEDIA_TYPES:
                raise at(f"{place}.media_type", f"must be one of {', '.join(_MEDIA_TYPES)}, not {media_type!r:.80}")
            read: Callable[[str], Image] = image_in
            text = _text(source, "data", place)
        case {"type": "url"}:
            read, text = image_at, _text(source, "url", place)
        case _:
            raise at(place, 'must be {"type": "base64", "media_type", "data"} or {"type": "url", "url"}; no files here')
    try:
        return ImageBlock(read(text), place)
    except ValueError as error:
        raise at(place, str(error)) from None


def _call(block: dict[str, Any], place: str) -> CallBlock:
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        raise at(f"{place}.input", "must be an object")
    try:
        written = orjson.dumps(arguments).decode()
    except orjson.JSONEncodeError as error:  # too deep
        raise at(f"{place}.input", f"cannot be written as JSON: {error}") from None
    return CallBlock(_text(block, "id", place, 1), _text(block, "name", place, 1), written, place)


def _result(block: dict[str, Any], place: str) -> ResultBlock:
    is_error = block.get("is_error")
    if is_error is not None and not isinstance(is_error, bool):
        raise at(f"{place}.is_error", "must be true or false")
    parts = _parts(block.get("content"), f"{place}.content")
    return ResultBlock(_text(block, "tool_use_id", place, 1), parts, bool(is_error), place)


def _parts(content: object, place: str) -> list[TextBlock | ImageBlock]:
    if content is None:
        return []
    if isinstance(content, list):
        content = [_as_text(block) for block in content]
    parts: list[TextBlock | ImageBlock] = []
    for block in blocks_of(content, place):
        if not isinstance(block, TextBlock | ImageBlock):
            raise at(block.place, "must be a text, an image, a document or a search result")
        parts.append(block)
    return parts


def _as_text(block: Any) -> Any:
    """A reference to a tool, which a search for tools has found, is its name."""
    if isinstance(block, dict) and block.get("type") == "tool_reference":
        return {"type": "text", "text": block.get("tool_name")}
    return block


def _document(block: dict[str, Any], place: str) -> list[TextBlock | ImageBlock]:
    """Its title and context, then what is in it."""
    told = "".join(f"{text}\n" for name in ("title", "context") if isinstance(text := block.get(name), str))
    source: Any = block.get("source")
    match source:
        case {"type": "text"}:
            parts: list[TextBlock | ImageBlock] = [TextBlock(_text(source, "data", f"{place}.source"), place)]
        case {"type": "content"}:
            parts = _parts(source.get("content"), f"{place}.source.content")
        case _:
            raise at(f"{place}.source", 'must have the type "text" or "content"; no PDFs or files are read here')
    return [TextBlock(told, place), *parts, TextBlock("\n\n", place)]
