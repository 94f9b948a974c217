"""Which names a model can have, which of them a file system may take for one, and where aliases lead."""

import unicodedata
from collections.abc import Mapping


def is_model_name(model_id: str) -> bool:
    """Whether this is `name` or `org/name`, and never a path that leads elsewhere."""
    parts = model_id.split("/")
    return len(parts) <= 2 and not any(part[:1] in ("", ".") or "\\" in part or "\0" in part for part in parts)


def folded(name: str) -> str:
    """Two names with the same result may be one to a file system that does not tell cases and forms of Unicode apart,
    as that of macOS. Only the file system knows whether they are."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def end_of(name: str, aliases: Mapping[str, str]) -> str | None:
    """The model at the end of a chain of aliases, which is `name` itself if it is none; None for a loop."""
    passed = set[str]()
    while name in aliases:
        if name in passed:
            return None
        passed.add(name)
        name = aliases[name]
    return name
