"""The budget: how much memory all models together may take on this machine, and why. Pure.

On a Mac, Metal may use only a part of the memory: `recommendedMaxWorkingSetSize`, which follows the sysctl
`iogpu.wired_limit_mb`. Beyond it, command buffers fail in the process that allocates next. Only a process that imports
MLX can ask for this figure. Until one has, the budget is a part of the memory that every known Mac allows.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

GIB = 1 << 30

# Without a word of Metal: known figures are 10.67 of 16, 48 of 64 and 107.5 of 128 GiB. macOS gives two thirds up to
# 36 GiB, and three quarters or more above.
_LARGE_BYTES = 36 * GIB

# Of the working set, the part that wired models leave.
_WIRED_RESERVE_PART = 8


class Origin(StrEnum):
    """The source of the budget."""

    SETTING = "setting"
    METAL = "metal"
    USUAL = "usual share of metal"
    TOTAL = "total memory"


@dataclass(slots=True, frozen=True)
class Hardware:
    """What the budget follows from. setting_bytes: what the settings say, 0 for nothing. has_metal: a Mac. wires:
    whether workers wire their shares, if it is one."""

    total_bytes: int
    setting_bytes: int = 0
    has_metal: bool = False
    wires: bool = False

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
    budget = _unwired(machine, working_set_bytes)
    if not (machine.wires and machine.has_metal):
        return budget
    is_known = working_set_bytes is not None
    most = _wirable(working_set_bytes if working_set_bytes is not None else _usual(machine.total_bytes))
    ever = min(budget.most_bytes, most) if is_known else budget.most_bytes
    if budget.size_bytes <= most:
        return replace(budget, most_bytes=max(budget.size_bytes, ever))
    return Budget(most, Origin.METAL if is_known else Origin.USUAL, max(most, ever))


def _wirable(working_set_bytes: int) -> int:
    """What may be wired: the display and other programs wire memory too."""
    return working_set_bytes - working_set_bytes // _WIRED_RESERVE_PART


def _unwired(machine: Hardware, working_set_bytes: int | None) -> Budget:
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
