"""How long a model is to stay: the field `keep_alive` of Ollama's requests. Pure."""

import math
import re
from typing import Annotated

from pydantic import Field, PlainValidator

FOR_GOOD = -1.0

_SECONDS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PIECE = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_UNIT = "|".join(sorted(_SECONDS, key=len, reverse=True))
_DURATION = re.compile(rf"[-+]?(?:{_PIECE}(?:{_UNIT}))+")
_NUMBER = re.compile(rf"[-+]?{_PIECE}")
_PIECES = re.compile(rf"({_PIECE})({_UNIT})")
_LONGEST = 10 * 365 * 86400.0  # longer is as good as that, and fits into every clock
_MAX_LETTERS = 100


def _stay_of(value: object) -> float | None:
    """Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, str):
        seconds = _seconds_in(value.strip())
    elif type(value) in (int, float):
        seconds = float(value)  # type: ignore[arg-type] # a number
    else:
        seconds = math.nan
    if math.isnan(seconds):
        raise ValueError('must be a number of seconds or a duration such as "5m", "1h30m" or "300ms"')
    return FOR_GOOD if seconds < 0 else min(seconds, _LONGEST)


def _seconds_in(text: str) -> float:
    if len(text) > _MAX_LETTERS:
        return math.nan
    if _NUMBER.fullmatch(text):  # which Ollama itself refuses, and people write
        return float(text)
    if not _DURATION.fullmatch(text):
        return math.nan
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PIECES.findall(text))
    return -seconds if text[0] == "-" else seconds


_Written = (
    float | Annotated[str, Field(max_length=_MAX_LETTERS, pattern=rf"^({_NUMBER.pattern}|{_DURATION.pattern})$")] | None
)
# Seconds; FOR_GOOD for anything negative, None where it is left out.
KeepAlive = Annotated[float | None, PlainValidator(_stay_of, json_schema_input_type=_Written)]
