"""Reasoning as `encrypted_content`, which some clients keep of a reasoning item while they drop its text. Pure.

It is the text in base64: the client has had it anyway, and nothing here is secret from it.
"""

from base64 import b64decode, b64encode
from binascii import Error

_MARK = "mlx-broker."


def sealed(text: str) -> str:
    """For an item that goes out."""
    return _MARK + b64encode(text.encode()).decode()


def unsealed(content: object) -> str | None:
    """The text of an item that comes back. None for what another server has made."""
    if not isinstance(content, str) or not content.startswith(_MARK):
        return None
    try:
        return b64decode(content[len(_MARK) :], validate=True).decode()
    except (Error, UnicodeDecodeError):
        return None
