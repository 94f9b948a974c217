"""The parts of an item's content -> texts and images. Pure. Every mistake names its place within `input`."""

from collections.abc import Sequence
from typing import Any

from gateway.core.content import Image, image_at
from gateway.core.validation import at

_TEXTS = ("input_text", "output_text", "text")
_DETAILS = (None, "auto", "low", "high", "original")  # accepted and ignored, as in chats
_UNKNOWN = (
    'is neither {"type": "input_text", "text": "..."} nor {"type": "input_image", "image_url": "..."}; '
    "no other kind is served"
)


def part_of(part: Any, place: str) -> str | Image:
    """A refusal is a text. Raises pydantic's error."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXTS and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return str(part["refusal"])
    if kind != "input_image":
        raise at(place, _UNKNOWN)
    url = part.get("image_url")
    if not isinstance(url, str):  # nobody has uploaded a file to which file_id could refer
        raise at(f"{place}.image_url", "must be a URL or a data URL")
    if part.get("detail") not in _DETAILS:
        raise at(f"{place}.detail", "must be auto, low, high or original")
    try:
        return image_at(url)
    except ValueError as error:
        raise at(f"{place}.image_url", str(error)) from None


def reasoning_in(content: Any, place: str, kinds: Sequence[str]) -> str:
    """The texts of parts of these kinds, a paragraph each. Raises pydantic's error."""
    if content is None:
        return ""
    if not isinstance(content, list):
        raise at(place, "must be a list of parts")
    texts = []
    for position, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") not in kinds or not isinstance(part.get("text"), str):
            raise at(f"{place}[{position}]", f'is not {{"type": "{kinds[0]}", "text": "..."}}')
        texts.append(part["text"])
    return "\n\n".join(texts)


def text_field(item: dict[str, Any], name: str, where: str) -> str:
    """A field that an item must have. Raises pydantic's error."""
    value = item.get(name)
    if not isinstance(value, str):
        raise at(f"{where}.{name}", "must be a text")
    return value
