"""The budget: how much memory all models together may take on this machine, and why. Pure.

On a Mac, Metal may use only a part of the memory: `recommendedMaxWorkingSetSize`, which follows the sysctl
`iogpu.wired_limit_mb`. Beyond it, command buffers fail in the process that allocates next. Only a process that imports
MLX can ask for this figure. Until one has, the budget is a part of the memory that every known Mac allows.
"""

from dataclasses import dataclass
from enum import StrEnum

GIB = 1 << 30

# Without a word of Metal: known figures are 10.67 of 16, 48 of 64 and 107.5 of 128 GiB. macOS gives two thirds up to
# 36 GiB, and three quarters or more above.
_LARGE_BYTES = 36 * GIB


class Origin(StrEnum):
    """The source of the budget."""

    SETTING = "setting"
    METAL = "metal"
    USUAL = "usual share of metal"
    TOTAL = "total memory"


@dataclass(slots=True, frozen=True)
class Hardware:
    """What the budget follows from. setting_bytes: what the settings say, 0 for nothing. has_metal: a Mac."""

    total_bytes: int
    setting_bytes: int = 0
    has_metal: bool = False

    @property
    def reserve_bytes(self) -> int:
        """What is left to the system: a quarter, 4 to 8 GiB."""
        return min(max(self.total_bytes // 4, 4 * GIB), 8 * GIB)


@dataclass(slots=True, frozen=True)
class Budget:
    """most_bytes: what the budget may still become, once Metal has been asked."""

    size_bytes: int
    origin: Origin
    most_bytes: int


def budget_of(machine: Hardware, working_set_bytes: int | None) -> Budget:
    """working_set_bytes: what Metal recommends, None as long as no process has said it."""
    if machine.setting_bytes:
        return Budget(machine.setting_bytes, Origin.SETTING, machine.setting_bytes)
    plain = max(machine.total_bytes - machine.reserve_bytes, GIB)
    if not machine.has_metal:
        return Budget(plain, Origin.TOTAL, plain)
    if working_set_bytes is None:
        usual, origin, most = _usual(machine.total_bytes), Origin.USUAL, plain
    else:
        usual, origin, most = working_set_bytes, Origin.METAL, min(plain, working_set_bytes)
    return Budget(usual, origin, most) if usual < plain else Budget(plain, Origin.TOTAL, most)


def _usual(total_bytes: int) -> int:
    return total_bytes * 2 // 3 if total_bytes <= _LARGE_BYTES else total_bytes * 3 // 4
