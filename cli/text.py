"""How numbers, times and foreign text look in a terminal. Pure."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
# C0 and C1 controls, line and paragraph separators, and what reorders text: none may reach a terminal from outside.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: object, keep: str = "") -> str:
    """Text from outside with everything escaped that could steer a terminal. keep: characters that stay."""
    return _CONTROLS.sub(
        lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1],
        str(text),
    )


def json_text(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """The same value for any reader, and nothing in it can steer a terminal: JSON itself escapes only what is below
    U+0020."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    return _CONTROLS.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def size(count: float | None) -> str:
    """Bytes, three digits: `1.62 GiB`."""
    if count is None:
        return "-"
    exponent = 0
    while abs(count) >= 1000 and exponent < len(_UNITS) - 1:
        count /= 1024
        exponent += 1
    digits = 0 if exponent == 0 else max(0, 2 - int(math.log10(max(abs(count), 1))))
    return f"{count:.{digits}f} {_UNITS[exponent]}"


def gigabytes(count: object) -> str:
    """A size that is told in GiB."""
    return size(count * 2**30) if isinstance(count, int | float) else "-"


def duration(seconds: float) -> str:
    """The largest unit and the next one: `2h 5m`, `41s`."""
    left = max(0, round(seconds))
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    first = next((place for place, (_, length) in enumerate(units) if left >= length), 3)
    parts: list[str] = []
    for name, length in units[first : first + 2]:
        count, left = divmod(left, length)
        if count or not parts:
            parts.append(f"{count}{name}")
    return " ".join(parts)


def rate(per_second: float | None) -> str:
    """Tokens per second."""
    if per_second is None:
        return "-"
    return f"{per_second:.0f}" if per_second >= 100 or per_second == 0 else f"{per_second:.1f}"


def plural(count: int, thing: str) -> str:
    """`1 request`, `2 requests`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def fitting(widths: Sequence[int], ranks: Sequence[int], width: int, gap: int = 2) -> list[int]:
    """The columns of a table that have room beside each other: those of the highest rank are left out first. The one
    of rank 0 always stays."""
    kept = list(range(len(widths)))
    while len(kept) > 1 and sum(widths[column] + gap for column in kept) - gap > width:
        kept.remove(max(kept, key=lambda column: ranks[column]))
    return kept
