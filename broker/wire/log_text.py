"""Text that may stand in a log, harmless to a terminal, and the ids of requests. Pure."""

import json
import re

MAX_TRACE = 128  # characters of a request's id
_URL = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]{0,20}://)([^\s?#\"'<>]*)([?#][^\s\"'<>]*)?")
_PLAIN_ID = re.compile(r"[\w.:/@=+-]+", re.ASCII)


def harmless(text: str) -> str:
    """`text` with everything escaped that is no printable character: line ends, terminal escapes, marks that change the
    direction of writing. Of URLs, passwords and queries are left out. Applied again it changes nothing."""
    if "://" in text:
        text = _URL.sub(_without_secrets, text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _without_secrets(url: re.Match[str]) -> str:
    scheme, place, query = url.groups()
    host, slash, path = place.partition("/")
    return f"{scheme}{host.rpartition('@')[2]}{slash}{path}{'?…' if query else ''}"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def trace_of(value: bytes) -> str | None:
    """The id that a client has given its request, if it can be kept: 1 to 128 printable ASCII characters."""
    text = value.decode("latin-1")
    return text if 0 < len(text) <= MAX_TRACE and text.isascii() and text.isprintable() else None


def shown_trace(trace: str) -> str:
    """An id of a request as one word, in quotes if it has spaces."""
    return trace if _PLAIN_ID.fullmatch(trace) else json.dumps(trace)
