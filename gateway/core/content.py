"""The content of a message in all dialects: text, images and sounds in their order. Pure: it fetches none."""

from binascii import Error, a2b_base64
from collections.abc import Sequence
from dataclasses import dataclass
from string import whitespace


@dataclass(slots=True, frozen=True)
class Image:
    """source: the file itself where the client sent it, else the URL to fetch it from."""

    source: bytes | str


@dataclass(slots=True, frozen=True)
class SoundFile:
    """A sound file."""

    source: bytes


Part = str | Image | SoundFile
Content = str | list[Part]

_KINDS = {Image: "image", SoundFile: "audio"}


def content_from(parts: Sequence[Part]) -> Content:
    """Text alone as one string; with files all parts as they are."""
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else list(parts)


def wire_content(content: str | Sequence[Part]) -> str | list[dict[str, str]]:
    """As the wire has it: the files themselves travel beside the messages."""
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": _KINDS[type(part)]} for part in content
    ]


def image_at(url: str) -> Image:
    """The image that a URL names, or that is in it. Raises ValueError."""
    return _in_data_url(url) if url[:5].lower() == "data:" else Image(url)


def image_in(base64: str) -> Image:
    """The image in a text of base64. Raises ValueError."""
    return Image(file_in(base64))


def file_in(base64: str) -> bytes:
    """The file in a text of base64, which may have line breaks. Raises ValueError."""
    try:
        data = a2b_base64(base64.encode("ascii").translate(None, whitespace.encode()), strict_mode=True)
    except Error as error:
        raise ValueError(f"the data is not base64: {error}") from None
    except UnicodeEncodeError:
        raise ValueError("the data is not base64: it has characters that are not ASCII") from None
    if not data:
        raise ValueError("the data is empty")
    return data


def _in_data_url(url: str) -> Image:
    comma = url.find(",", 0, 1024)  # what stands before it is short, what follows may be megabytes
    media_type, *parameters = (part.strip() for part in url[5 : max(comma, 5)].lower().split(";"))
    if comma < 0 or parameters[-1:] != ["base64"]:
        raise ValueError("a data URL must be data:image/...;base64,...")
    if not media_type.startswith("image/"):
        raise ValueError(f"a data URL of type {media_type!r:.80} is not an image")
    return image_in(url[comma + 1 :])
