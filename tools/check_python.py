"""Says whether this Python can install mlx-broker, and if not, what to do: `python tools/check_python.py`.

Runs before anything is installed, on whatever Python a machine has (3.7 or newer).
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from typing import NamedTuple

OLDEST, NEWEST = (3, 11), (3, 14)  # every package of requirements.lock has wheels for these
OLDEST_MACOS = 14  # of MLX's wheels


class Machine(NamedTuple):
    """version: major and minor of this Python; system, machine: as in `platform`, the second is what this Python is
    built for; macos: "14.5", empty elsewhere; is_apple_silicon: the processor; others: fitting Pythons on the PATH."""

    version: tuple[int, int]
    system: str
    machine: str
    macos: str = ""
    is_apple_silicon: bool = False
    others: tuple[str, ...] = ()


def problem(on: Machine) -> str | None:
    """Why it cannot be installed and what to do; None if it can."""
    if not OLDEST <= on.version <= NEWEST:
        needed = f"Python {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]} is needed"
        return f"{needed}, and this is {on.version[0]}.{on.version[1]}. {_another(on)}"
    if on.system == "Darwin" and on.machine != "arm64":
        if on.is_apple_silicon:
            return f"this Python is built for Intel, and MLX needs one for Apple silicon. {_another(on)}"
        return "this Mac has an Intel processor, and MLX needs Apple silicon"
    if on.system == "Darwin" and int(on.macos.partition(".")[0] or 0) < OLDEST_MACOS:
        return f"MLX has no package for macOS {on.macos}, {OLDEST_MACOS} or newer is needed"
    return None


def _another(on: Machine) -> str:
    if on.others and (on.machine == "arm64" or on.system != "Darwin"):
        return f"This machine has another one: make run PYTHON={on.others[0]}"
    if on.system == "Darwin":
        return "Install one with `brew install python@3.13` or from python.org, then: make run PYTHON=python3.13"
    return "Install one, then: make run PYTHON=python3.13"


def this_machine() -> Machine:
    """The machine and the Python that run this."""
    names = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    return Machine(
        (sys.version_info[0], sys.version_info[1]),
        platform.system(),
        platform.machine(),
        platform.mac_ver()[0],
        _is_apple_silicon(),
        tuple(name for name in names if shutil.which(name)),
    )


def _is_apple_silicon() -> bool:
    # An Intel Python on Apple silicon is told that the processor is Intel's; the kernel knows better.
    if platform.system() != "Darwin":
        return False
    asked = subprocess.run(["/usr/sbin/sysctl", "-n", "hw.optional.arm64"], stdout=subprocess.PIPE, check=False)
    return asked.stdout.strip() == b"1"


if __name__ == "__main__":
    found = problem(this_machine())
    sys.exit(f"mlx-broker: {found}" if found else 0)
