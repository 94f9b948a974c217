"""The content of a message: OpenAI's parts -> text and images in the client's order. Pure: it fetches nothing."""

from binascii import Error, a2b_base64
from dataclasses import dataclass
from typing import Any

_DETAILS = (None, "auto", "low", "high")  # for models that scale by it; those served here have a way of their own


class PartError(ValueError):
    """A part that cannot be served. path: from the content to what is wrong, such as `[1].image_url`."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(slots=True, frozen=True)
class Image:
    """source: the file itself where the client sent it, else the URL to fetch it from."""

    source: bytes | str


Content = str | list[str | Image]


def content_of(content: object) -> Content:
    """Text alone as one string, whatever its parts; with images all parts as they came. Raises ValueError."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError("must be a string or a list of parts")
    parts = [_part(part, f"[{position}]") for position, part in enumerate(content)]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else parts


def wire_content(content: Content) -> str | list[dict[str, str]]:
    """As the wire has it: the images themselves travel beside the messages."""
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in content]


def _part(part: object, path: str) -> str | Image:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image_url", "image_url": value}:
            return _image(value, f"{path}.image_url")
    raise PartError(
        'is neither {"type": "text", "text": "..."} nor {"type": "image_url", "image_url": {"url": "..."}}; '
        "no other kind is served",
        path,
    )


def _image(value: Any, path: str) -> Image:
    named = {"url": value} if isinstance(value, str) else value  # some clients send the URL alone
    if not isinstance(named, dict) or not isinstance(named.get("url"), str):
        raise PartError('must be {"url": "..."}', path)
    if named.get("detail") not in _DETAILS:
        raise PartError("detail must be auto, low or high", path)
    url: str = named["url"]
    if url[:5].lower() != "data:":
        return Image(url)
    try:
        return Image(_data_of(url))
    except ValueError as error:
        raise PartError(str(error), path) from None


def _data_of(url: str) -> bytes:
    """The file in a data URL. Raises ValueError."""
    comma = url.find(",", 0, 1024)  # what stands before it is short, what follows may be megabytes
    media_type, *parameters = url[5:comma].lower().split(";")
    if comma < 0 or parameters[-1:] != ["base64"]:
        raise ValueError("a data URL must be data:image/...;base64,...")
    if not media_type.startswith("image/"):
        raise ValueError(f"a data URL of type {media_type!r:.80} is no image")
    try:
        data = a2b_base64(url[comma + 1 :], strict_mode=True)
    except Error as error:
        raise ValueError(f"the data URL is not base64: {error}") from None
    except ValueError:
        raise ValueError("the data URL is not base64: it has characters that are not ASCII") from None
    if not data:
        raise ValueError("the data URL is empty")
    return data
