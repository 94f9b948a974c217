"""What `make install` asks of a machine, and what it installs."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools.check_python import Machine, problem

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
@pytest.mark.parametrize("macos", ["14.0", "15.6", "26.1", "27.0"])
def test_a_machine_that_can_run_it(minor: int, macos: str) -> None:
    assert problem(Machine((3, minor), "Darwin", "arm64", macos, True)) is None
    assert problem(Machine((3, minor), "Linux", "x86_64")) is None


BREW = "brew install python@3.13"
CANNOT: dict[Machine, tuple[str, str]] = {
    Machine((3, 9), "Darwin", "arm64", "15.0", True): ("3.11 to 3.14 is needed, and this is 3.9", BREW),
    Machine((3, 15), "Darwin", "arm64", "26.2", True): ("3.11 to 3.14 is needed, and this is 3.15", BREW),
    Machine((3, 15), "Darwin", "arm64", "26.2", True, ("python3.14",)): ("this is 3.15", "PYTHON=python3.14"),
    Machine((3, 10), "Linux", "x86_64"): ("this is 3.10", "PYTHON=python3.13"),
    # The others on its PATH may be Intel's as well.
    Machine((3, 12), "Darwin", "x86_64", "15.0", True, ("python3.12",)): ("built for Intel", BREW),
    Machine((3, 12), "Darwin", "x86_64", "14.2"): ("Intel processor", "needs Apple silicon"),
    Machine((3, 12), "Darwin", "arm64", "13.6", True): ("no package for macOS 13.6", "14 or newer"),
}


@pytest.mark.parametrize("machine", CANNOT)
def test_a_machine_that_cannot_run_it_is_told_what_to_do(machine: Machine) -> None:
    said = problem(machine)
    assert said is not None
    for words in CANNOT[machine]:
        assert words in said


def test_make_stops_before_anything_is_installed(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "requirements-dev.lock", "tools/check_python.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    newer = tmp_path / "python"  # this Python, which says that it is 3.15
    newer.write_text(
        f"#!{sys.executable}\nimport runpy, sys\nsys.version_info = (3, 15, 0, 'final', 0)\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    newer.chmod(0o755)
    make = shutil.which("make")
    assert make is not None
    command = [make, "run", f"PYTHON={newer}"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert made.returncode == 2
    assert made.stderr.startswith("mlx-broker: Python 3.11 to 3.14 is needed, and this is 3.15.")
    assert not (tmp_path / ".venv").exists()


def test_the_first_lock_is_what_serving_needs_and_the_second_adds_the_tools() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    serving, all_of_it = (_pins(ROOT / name) for name in ("requirements.lock", "requirements-dev.lock"))
    groups = project["dependency-groups"]
    needed = {_name(one) for one in project["project"]["dependencies"]}
    building = {_name(one) for one in groups["build"]}
    tools = {_name(one) for one in groups["dev"] if isinstance(one, str)} - needed
    assert {_name(one) for one in project["build-system"]["requires"]} == building
    assert needed | building <= serving.keys()
    assert tools.isdisjoint(serving)
    assert tools <= all_of_it.keys()
    assert serving.items() <= all_of_it.items()


def test_the_wheel_pins_the_libraries_whose_private_parts_are_used_as_the_lock_does() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pinned = dict(re.findall(r"^([a-z0-9-]+)(?:\[\w+\])?==([^;\s]+)", "\n".join(dependencies), re.MULTILINE))
    headings = re.findall(r"^## (.+)$", (ROOT / "docs/upstream.md").read_text(), re.MULTILINE)
    named = {name.lower().replace("_", "-") for heading in headings for name in re.split(r", | and ", heading)}
    assert pinned.keys() == named
    locked = _pins(ROOT / "requirements.lock")
    assert pinned == {name: locked[name] for name in named}


def _pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return found[0].lower()
