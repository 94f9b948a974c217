"""The content of a message: OpenAI's parts -> text and images in the client's order. Pure: it fetches nothing."""

from binascii import Error, a2b_base64
from dataclasses import dataclass
from string import whitespace
from typing import Any

_DETAILS = (None, "auto", "low", "high")  # for models that scale by it; those served here have a way of their own
_TEXTS = ("text", "input_text", "output_text")  # the longer names are those of OpenAI's Responses
_IMAGES = ("image_url", "input_image")
_UNKNOWN = (
    'is neither {"type": "text", "text": "..."} nor {"type": "image_url", "image_url": {"url": "..."}}; '
    "no other kind is served"
)


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
    parts: list[str | Image] = []
    for position, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXTS and isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif kind in _IMAGES and "image_url" in part:
            try:
                parts.append(_image(part["image_url"]))
            except ValueError as error:
                raise PartError(str(error), f"[{position}].image_url") from None
        else:
            raise PartError(_UNKNOWN, f"[{position}]")
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else parts


def wire_content(content: Content) -> str | list[dict[str, str]]:
    """As the wire has it: the images themselves travel beside the messages."""
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in content]


def _image(value: Any) -> Image:
    """Raises ValueError."""
    url, detail = (value.get("url"), value.get("detail")) if isinstance(value, dict) else (value, None)
    if not isinstance(url, str):  # which some clients send alone
        raise ValueError('must be {"url": "..."}')
    if detail not in _DETAILS:
        raise ValueError("detail must be auto, low or high")
    return Image(_data_of(url) if url[:5].lower() == "data:" else url)


def _data_of(url: str) -> bytes:
    """The file in a data URL. Raises ValueError."""
    comma = url.find(",", 0, 1024)  # what stands before it is short, what follows may be megabytes
    media_type, *parameters = (part.strip() for part in url[5:comma].lower().split(";"))
    if comma < 0 or parameters[-1:] != ["base64"]:
        raise ValueError("a data URL must be data:image/...;base64,...")
    if not media_type.startswith("image/"):
        raise ValueError(f"a data URL of type {media_type!r:.80} is no image")
    try:
        # `base64 file` writes lines.
        data = a2b_base64(url[comma + 1 :].encode("ascii").translate(None, whitespace.encode()), strict_mode=True)
    except Error as error:
        raise ValueError(f"the data URL is not base64: {error}") from None
    except UnicodeEncodeError:
        raise ValueError("the data URL is not base64: it has characters that are not ASCII") from None
    if not data:
        raise ValueError("the data URL is empty")
    return data
