"""How the system as a whole is off for memory: total, wired, and whether it runs short. No history.

Linux says how long tasks stood still for want of memory (PSI, where the kernel has it); macOS has levels (`sysctl
kern.memorystatus_vm_pressure_level`, the value that its own notifications follow: sys/event.h and
osfmk/vm/vm_pageout.h of XNU).
"""

import ctypes
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from broker.policy.pressure import Pressure
from broker.processes.memory import available_bytes, total_bytes, wired_bytes

_PSI = Path("/proc/pressure/memory")
_AVERAGE = re.compile(r"^(some|full) avg10=(\d+\.\d+)", flags=re.MULTILINE)
# Per cent of the last ten seconds in which some tasks, or all of them, stood still for want of memory.
_SOME_PER_CENT = 10.0
_FULL_PER_CENT = 10.0

_LEVELS = {2: Pressure.WARNING, 4: Pressure.CRITICAL}
_LEVEL_NAME = "kern.memorystatus_vm_pressure_level"

# The value of a sysctl, None if there is none of this name.
Sysctl = Callable[[str], int | None]


@dataclass(slots=True, frozen=True)
class SystemMemory:
    """wired_bytes: None where the system does not say it."""

    pressure: Pressure
    wired_bytes: int | None = None


class System(Protocol):
    """The machine with the workers."""

    @property
    def total_bytes(self) -> int: ...

    @property
    def available_bytes(self) -> int: ...

    @property
    def has_metal(self) -> bool: ...

    def sample(self) -> SystemMemory: ...


class ThisSystem:
    """This machine. pressure: how it says that it runs short."""

    def __init__(self, platform: str = sys.platform, pressure: Callable[[], Pressure] | None = None) -> None:
        self.total_bytes = total_bytes()
        self.has_metal = platform == "darwin"
        self._pressure = pressure or (pressure_of_mac if self.has_metal else pressure_of_linux)

    @property
    def available_bytes(self) -> int:
        """Now."""
        return available_bytes()

    def sample(self) -> SystemMemory:
        return SystemMemory(self._pressure(), wired_bytes())


def pressure_of_linux(path: Path = _PSI) -> Pressure:
    """NORMAL where the kernel keeps no such file."""
    try:
        shares = {name: float(value) for name, value in _AVERAGE.findall(path.read_text())}
    except OSError:
        return Pressure.NORMAL
    if shares.get("full", 0.0) >= _FULL_PER_CENT:
        return Pressure.CRITICAL
    return Pressure.WARNING if shares.get("some", 0.0) >= _SOME_PER_CENT else Pressure.NORMAL


def pressure_of_mac(sysctl: Sysctl | None = None) -> Pressure:
    level = (sysctl or sysctl_int)(_LEVEL_NAME)
    return _LEVELS.get(level or 0, Pressure.NORMAL)


def sysctl_int(name: str, library: object = None) -> int | None:
    """sysctlbyname(3) of macOS. library: that has it, by default this process."""
    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    call = getattr(library or ctypes.CDLL(None), "sysctlbyname", None)
    if call is None or call(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0) != 0:
        return None
    return value.value
