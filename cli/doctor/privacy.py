"""Takes out of a report what concerns nobody else: the home folder and its owner, folders of other disks, names of
models. Pure.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Folders that every machine has: what lies there says nothing about a person.
_COMMON = (
    *("/Applications", "/Library", "/System", "/bin", "/dev", "/etc", "/opt", "/private", "/proc", "/sbin"),
    *("/tmp", "/usr", "/var"),  # noqa: S108 # compared only
)
_PATH = re.compile(r"(?<![\w~.:/])/[^\s'\"`|,;()<>]+")
# Of a Mac, the folder that its user alone has.
_OWN_TEMPORARY = re.compile(r"(/var/folders)/[^/]+/[^/]+")


@dataclass(slots=True, frozen=True)
class Privacy:
    """home: the folder of the user. names: of models, none if they may be told. paths: known ones, which may have
    spaces."""

    home: str
    names: Sequence[str] = ()
    paths: Sequence[str] = ()

    def text(self, text: str) -> str:
        """The same without them."""
        for number, name in enumerate(sorted(self.names, key=len, reverse=True), start=1):
            for form in (name, f"models--{name.replace('/', '--')}", name.rpartition("/")[2]):
                text = text.replace(form, f"<model {number}>")
        if len(self.home) > 1:
            text = re.sub(rf"{re.escape(self.home.rstrip('/'))}(?=/|\W|$)", "~", text)
        for path in sorted(self.paths, key=len, reverse=True):
            text = text.replace(path, _short(path))
        return _PATH.sub(lambda found: _short(found[0]), text)

    def value(self, value: Any) -> Any:
        """The same for whatever JSON holds."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {name: self.value(entry) for name, entry in value.items()}
            case list() | tuple():
                return [self.value(entry) for entry in value]
            case _:
                return value


def _short(path: str) -> str:
    """`/Volumes/Jane/models` is `/Volumes/.../models`."""
    if any(path == folder or path.startswith(f"{folder}/") for folder in _COMMON):
        return _OWN_TEMPORARY.sub(r"\1/...", path)
    first, *others = path.strip("/").split("/")
    return f"/{first}" if not others else f"/{first}/.../{others[-1]}" if len(others) > 1 else f"/{first}/..."
