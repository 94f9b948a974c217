"""What the pool does when the system as a whole runs short of memory, in numbers. Pure.

Idle models leave early, whichever program takes the memory: they are what this project can give back. A load would make
the shortage worse, so it waits; but not for ever, because another program may cause the shortage and never end it.
"""

from enum import StrEnum


class Pressure(StrEnum):
    """As the system says it: macOS has these levels, Linux shares of stalled time."""

    NORMAL = "normal"
    WARNING = "warning"
    CRITICAL = "critical"


# Seconds after which an idle unpinned model leaves.
EARLY_SECONDS = {Pressure.WARNING: 60.0, Pressure.CRITICAL: 5.0}

# While it is critical: seconds between two loads, and before the first one if nothing is loaded.
LOAD_PAUSE_SECONDS = 30.0
FIRST_LOAD_PAUSE_SECONDS = 10.0

# How long a load waits for the memory of the process before it, and how much is worth naming.
RETURN_SECONDS = 5.0
_NAMED_BYTES = 1 << 30


def keep_seconds(keep: float, pressure: Pressure) -> float:
    """How long an idle model stays. keep: without pressure, negative for ever."""
    early = EARLY_SECONDS.get(pressure)
    if early is None:
        return keep
    return early if keep < 0 else min(keep, early)


def missing_bytes(wired_bytes: int | None, ours_bytes: int, reserve_bytes: int) -> int:
    """Wired memory that no process of ours accounts for, beyond the system's reserve: macOS may keep what a killed
    process had wired. Whole GiB. wired_bytes: of the whole system, None where it is not known."""
    if wired_bytes is None:
        return 0
    return max(0, wired_bytes - ours_bytes - reserve_bytes) // _NAMED_BYTES * _NAMED_BYTES
