"""The base of all messages: a dataclass whose fields are the keys of a msgpack map.

`from_map` checks values against the annotations of the class and raises ProtocolError, which names the field at fault.
packing.py turns messages into bytes.
"""

import math
from dataclasses import MISSING, fields
from enum import StrEnum
from types import UnionType
from typing import Any, ClassVar, TypeVar, get_origin, get_type_hints


class ProtocolError(Exception):
    """A peer has sent a malformed message. The receiver logs and drops it."""


class Body:
    """Base of all messages: the fields of a subclass are the keys of its msgpack body."""

    COMMAND: ClassVar[bytes]


T = TypeVar("T", bound=Body)


def to_map(body: Body) -> dict[str, Any]:
    """The fields of a message as a map, for a body or an output."""
    return {f.name: getattr(body, f.name) for f in fields(body)}  # type: ignore[arg-type]  # every Body is a dataclass


def stated(body: Body) -> dict[str, Any]:
    """The fields of a message as a map that `from_map` reads: those that are not at their default."""
    cls = type(body)
    defaults = _DEFAULTS.get(cls) or _defaults(cls)
    return {name: value for name, default in defaults if (value := getattr(body, name)) != default}


def from_map(cls: type[T], values: dict[str, Any]) -> T:
    """`values` as a `cls`, checked. Raises ProtocolError naming the field at fault."""
    known, enums, required = _SHAPES.get(cls) or _shape(cls)
    for name, value in values.items():
        if name not in known:
            raise ProtocolError(f"{cls.__name__} has no field {name!r}")
        types = known[name]
        if type(value) not in types and (isinstance(value, bool) or not isinstance(value, types)):
            raise ProtocolError(f"{cls.__name__}.{name} is a {type(value).__name__}")
        if type(value) is float and not math.isfinite(value):
            raise ProtocolError(f"{cls.__name__}.{name} is {value}")  # NaN as a deadline would hide all others
    missing = required - values.keys()
    if missing:
        raise ProtocolError(f"{cls.__name__} lacks {', '.join(sorted(missing))}")
    for name, enum in enums.items():
        if name in values:
            try:
                values = {**values, name: enum(values[name])}
            except ValueError:
                raise ProtocolError(f"{cls.__name__}.{name} is {values[name]!r:.80}") from None
    return cls(**values)


# Name and default of each field; MISSING, which equals nothing else, where there is none.
_Defaults = tuple[tuple[str, Any], ...]
_DEFAULTS: dict[type[Body], _Defaults] = {}  # filled as classes are met


def _defaults(cls: type[Any]) -> _Defaults:
    defaults = tuple((f.name, f.default if f.default_factory is MISSING else f.default_factory()) for f in fields(cls))
    _DEFAULTS[cls] = defaults
    return defaults


# Of each field the classes it admits; the enumerations among the fields; the fields that must be there.
_Shape = tuple[dict[str, tuple[type, ...]], dict[str, type[StrEnum]], frozenset[str]]
_SHAPES: dict[type[Body], _Shape] = {}  # filled as classes are met


def _shape(cls: type[Any]) -> _Shape:
    hints = {name: hint for name, hint in get_type_hints(cls).items() if name != "COMMAND"}
    enums = {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, StrEnum)}
    required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    shape = {name: _plain_types(hint) for name, hint in hints.items()}, enums, frozenset(required)
    _SHAPES[cls] = shape
    return shape


def _plain_types(hint: Any) -> tuple[type, ...]:
    """The classes an annotation admits at run time: `list[int] | None` -> (list, NoneType); int counts as float, and an
    enumeration of words travels as the word."""
    parts = hint.__args__ if isinstance(hint, UnionType) else (hint,)
    plain = tuple(get_origin(part) or part for part in parts)
    plain = tuple(str if issubclass(part, StrEnum) else part for part in plain)
    return (*plain, int) if float in plain else plain
