"""Which names a model can have, and which of them a file system may take for one."""

import unicodedata


def is_model_name(model_id: str) -> bool:
    """Whether this is `name` or `org/name`, and never a path that leads elsewhere."""
    parts = model_id.split("/")
    return len(parts) <= 2 and not any(part[:1] in ("", ".") or "\\" in part or "\0" in part for part in parts)


def folded(name: str) -> str:
    """Two names with the same result may be one to a file system that does not tell cases and forms of Unicode apart,
    as that of macOS. Only the file system knows whether they are."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
