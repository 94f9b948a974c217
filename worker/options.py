"""The options of an engine, from the settings file: names that it knows, each with a value of its kind.

Must stay free of mlx. What a value means is the engine's matter.
"""

from dataclasses import field, fields
from typing import Any, TypeVar

T = TypeVar("T")


def whole_number(default: int | None, *, least: int = 1) -> Any:
    """A field for a whole number of at least `least`."""
    return field(default=default, metadata={"least": least})


def folder_path() -> Any:
    """A field for the path of a folder, None by default."""
    return _text("the path of a folder")


def template() -> Any:
    """A field for a chat template or the path of a file with one, None by default."""
    return _text("a chat template or the path of a file with one")


def _text(what: str) -> Any:
    return field(default=None, metadata={"least": None, "what": what})


def read_options(kind: type[T], given: dict[str, Any], engine: str) -> T:
    """A dataclass of the fields above, as the settings have it. Raises ValueError for what it cannot have; engine: its
    name for people."""
    known = {option.name: option.metadata for option in fields(kind)}  # type: ignore[arg-type] # a dataclass
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"option {name!r} is unknown, the {engine} engine has {', '.join(sorted(known))}")
        least = known[name]["least"]
        if least is None:
            if not isinstance(value, str):
                raise ValueError(f"option {name!r} is {value!r}, {known[name]['what']} is expected")
        elif type(value) is not int or value < least:
            raise ValueError(f"option {name!r} is {value!r}, a whole number of at least {least} is expected")
    return kind(**given)
