"""Settings as frozen dataclasses: each field is Annotated with a check, and `read` makes an instance of what was given.

A check takes a value as the environment (always text) or TOML has it and returns the setting, or raises ValueError,
which says what the setting must be. Standard library only: pydantic would be a quarter of the broker's memory.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")
Check = Callable[[Any], Any]
# Of a mistake: where it is, its kind and what is wrong, under the names that pydantic gives them.
Mistake = Mapping[str, Any]

# What every reader of JSON takes for the number that it is.
_LARGEST = 2**53 - 1

_SWITCHES = {
    **dict.fromkeys(("true", "yes", "on", "1", "t", "y"), True),
    **dict.fromkeys(("false", "no", "off", "0", "f", "n"), False),
}


class MistakesError(ValueError):
    """errors: all that is wrong with a table."""

    def __init__(self, errors: list[Mistake]) -> None:
        super().__init__(f"{len(errors)} mistakes")
        self.errors = errors


def read(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make a `cls` of these values; a field without a value gets its default. Raises MistakesError."""
    declared = fields(cls)  # type: ignore[arg-type] # every caller's class is a dataclass
    hints = get_type_hints(cls, include_extras=True)
    known: dict[str, Any] = {}
    errors: list[Mistake] = []
    for one in declared:
        default = one.default if one.default_factory is MISSING else one.default_factory()
        try:
            (check,) = hints[one.name].__metadata__
            known[one.name] = check(values.get(one.name, default))
        except MistakesError as error:
            errors += [{**inner, "loc": (one.name, *inner["loc"])} for inner in error.errors]
        except ValueError as error:
            errors.append(_mistake((one.name,), error))
    unknown = values.keys() - {one.name for one in declared}
    errors += [_mistake((name,), "unknown", "extra_forbidden") for name in values if name in unknown]
    if not errors:
        try:
            return cls(**known)
        except ValueError as error:
            errors.append(_mistake((), error))
    raise MistakesError(errors)


def _mistake(place: tuple[str, ...], what: object, kind: str = "value_error") -> Mistake:
    return {"loc": place, "type": kind, "msg": str(what)}


# ---- checks ---------------------------------------------------------------------------------------------------------


def whole(least: int, most: int | None = None) -> Check:
    """A whole number within these bounds, and within those of every reader of JSON."""

    def check(value: Any) -> int:
        number = value
        if isinstance(value, str):
            try:
                number = int(_ascii(value))
            except ValueError:
                number = None
        elif isinstance(value, float) and value.is_integer():
            number = int(value)
        if type(number) is not int:
            raise ValueError(f"must be a whole number, not {value!r}")
        if number < least or (most is not None and number > most):
            bounds = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ValueError(f"must be {bounds}, not {number}")
        if abs(number) > _LARGEST:
            raise ValueError(f"must be at most {_LARGEST} above or below 0")
        return number

    return check


def number(*, least: float = -math.inf, above: float = -math.inf) -> Check:
    """A finite number that is not below `least` and greater than `above`."""

    def check(value: Any) -> float:
        try:
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                raise ValueError
            found = float(_ascii(value) if isinstance(value, str) else value)
        except (ValueError, OverflowError):
            found = math.nan
        if not math.isfinite(found):
            raise ValueError(f"must be a finite number, not {value!r}")
        if found < least:
            raise ValueError(f"must be at least {least:g}, not {value}")
        if found <= above:
            raise ValueError(f"must be greater than {above:g}, not {value}")
        return found

    return check


def _ascii(digits: str) -> str:
    """Python reads the digits of every script. Raises ValueError."""
    if not digits.isascii():
        raise ValueError
    return digits


def switch(value: Any) -> bool:
    """true or false, or a word for it."""
    found = _SWITCHES.get(str(value).lower()) if isinstance(value, str | bool | int) else None
    if found is None:
        raise ValueError(f"must be true or false, not {value!r}")
    return found


def text(value: Any) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {value!r}")
    return value


def choice(*words: str) -> Check:
    """One of these words, in any case."""

    def check(value: Any) -> str:
        found = value.lower() if isinstance(value, str) else None
        if found not in words:
            raise ValueError(f"must be one of {', '.join(words)}, not {value!r}")
        return found

    return check


def folder(value: Any) -> Path:
    """An absolute path."""
    if not isinstance(value, str | Path):
        raise ValueError(f"must be a path, not {value!r}")
    if not str(value).isprintable():  # neither a message nor a log line could name it
        raise ValueError("must be printable text")
    return Path(value).absolute()


def names(value: Any) -> list[str]:
    """`a,b` in the environment, a list in the file."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be a list of names")
    return value


def table(value: Any) -> dict[str, Any]:
    """Any table."""
    if not isinstance(value, dict):
        raise ValueError("must be a table")
    return value


def tables(cls: type[T]) -> Check:
    """A table whose values are tables: `read` makes a `cls` of each."""

    def check(value: Any) -> dict[str, T]:
        found: dict[str, T] = {}
        errors: list[Mistake] = []
        for name, values in table(value).items():
            try:
                found[name] = read(cls, table(values))
            except MistakesError as error:
                errors += [{**inner, "loc": (name, *inner["loc"])} for inner in error.errors]
            except ValueError as error:
                errors.append(_mistake((name,), error))
        if errors:
            raise MistakesError(errors)
        return found

    return check


def optional(check: Check) -> Check:
    """What `check` takes, or nothing."""
    return lambda value: None if value is None else check(value)
