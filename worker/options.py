"""The options of an engine, from the settings file: checks their names and types.

Must stay free of mlx. Only the engine knows what a value means.
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
    """A field for a chat template or the path of its file, None by default."""
    return _text("a chat template or the path of its file")


def one_of(*words: str) -> Any:
    """A field for one of these words, None by default."""
    return field(default=None, metadata={"least": None, "words": words, "what": f"one of {', '.join(words)}"})


def _text(what: str) -> Any:
    return field(default=None, metadata={"least": None, "what": what})


def read_options(kind: type[T], given: dict[str, Any], engine: str) -> T:
    """An instance of a dataclass of the fields above. engine: its name in messages. Raises ValueError."""
    known = {option.name: option.metadata for option in fields(kind)}  # type: ignore[arg-type] # a dataclass
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"option {name!r} is unknown, the {engine} engine has {', '.join(sorted(known))}")
        least = known[name]["least"]
        if least is None:
            if not isinstance(value, str) or value not in known[name].get("words", (value,)):
                raise ValueError(f"option {name!r} must be {known[name]['what']}, not {value!r}")
        elif type(value) is not int or value < least:
            raise ValueError(f"option {name!r} must be a whole number of at least {least}, not {value!r}")
    return kind(**given)
