"""The content of a message in OpenAI's parts -> text, images and sounds in the client's order, and reasoning. Pure."""

from dataclasses import dataclass
from typing import Any

from gateway.core.content import Content, Image, Part, SoundFile, content_from, file_in, image_at
from gateway.core.validation import at

_DETAILS = (None, "auto", "low", "high")  # accepted and ignored: the models here scale images in their own way
_TEXTS = ("text", "input_text", "output_text")  # the longer names are those of OpenAI's Responses
_IMAGES = ("image_url", "input_image")
# Which of them a file is, its first bytes say.
_SOUND_FORMATS = ("wav", "mp3", "flac")
_UNKNOWN = (
    'is neither {"type": "text", "text": "..."} nor {"type": "image_url", "image_url": {"url": "..."}} '
    'nor {"type": "input_audio", "input_audio": {"data": "...", "format": "wav"}}; no other kind is served'
)


@dataclass(slots=True, frozen=True)
class Said:
    """reasoning: that of parts of type `thinking`, which an earlier answer began with."""

    content: Content = ""
    reasoning: str = ""


def said_in(content: object) -> Said:
    """Text alone as one string, its parts joined; with files all parts as they came. Raises ValueError, also of
    pydantic's kind."""
    if content is None:
        return Said()
    if isinstance(content, str):
        return Said(content)
    if not isinstance(content, list):
        raise ValueError("must be a string or a list of parts")
    parts: list[Part] = []
    reasoning = ""
    for position, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXTS and isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            parts.append(part["refusal"])
        elif kind == "thinking" and (thought := _thought(part.get("thinking"))) is not None:
            reasoning += thought
        elif kind in _IMAGES and "image_url" in part:
            try:
                parts.append(_image(part["image_url"]))
            except ValueError as error:
                raise at(f"[{position}].image_url", str(error)) from None
        elif kind == "input_audio":
            try:
                parts.append(_sound(part.get("input_audio")))
            except ValueError as error:
                raise at(f"[{position}]", f"input_audio: {error}") from None
        else:
            raise at(f"[{position}]", _UNKNOWN)
    return Said(content_from(parts), reasoning)


def _thought(thinking: Any) -> str | None:
    """Mistral's is a list of texts. None for what is neither a text nor that."""
    if not isinstance(thinking, list):
        return thinking if isinstance(thinking, str) else None
    texts = [part.get("text") for part in thinking if isinstance(part, dict) and part.get("type") == "text"]
    whole = [text for text in texts if isinstance(text, str)]
    return "".join(whole) if len(whole) == len(thinking) else None


def _image(value: Any) -> Image:
    """Raises ValueError."""
    url, detail = (value.get("url"), value.get("detail")) if isinstance(value, dict) else (value, None)
    if not isinstance(url, str):  # which some clients send alone
        raise ValueError('must be {"url": "..."}')
    if detail not in _DETAILS:
        raise ValueError("detail must be auto, low or high")
    return image_at(url)


def _sound(value: Any) -> SoundFile:
    """Raises ValueError."""
    data, format_ = (value.get("data"), value.get("format")) if isinstance(value, dict) else (None, None)
    if not isinstance(data, str):
        raise ValueError('must be {"data": "...", "format": "wav"}, with the file in base64')
    if format_ not in _SOUND_FORMATS:
        raise ValueError("format must be wav, mp3 or flac")
    return SoundFile(file_in(data))
