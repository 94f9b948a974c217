"""How the system says that it runs short of memory: Linux as it is, macOS played."""

import ctypes
from pathlib import Path

import psutil
import pytest

from broker.policy.pressure import Pressure
from broker.processes.memory import wired_bytes
from broker.processes.system import ThisSystem, pressure_of_linux, pressure_of_mac, sysctl_int

PSI = "some avg10={some} avg60=0.00 avg300=0.00 total=1\nfull avg10={full} avg60=0.00 avg300=0.00 total=1\n"


@pytest.mark.parametrize(
    ("some", "full", "pressure"),
    [
        ("0.00", "0.00", Pressure.NORMAL),
        ("9.99", "9.99", Pressure.NORMAL),
        ("10.00", "0.00", Pressure.WARNING),
        ("99.00", "10.00", Pressure.CRITICAL),
    ],
)
def test_linux_says_how_long_tasks_stood_still(tmp_path: Path, some: str, full: str, pressure: Pressure) -> None:
    path = tmp_path / "memory"
    path.write_text(PSI.format(some=some, full=full))
    assert pressure_of_linux(path) is pressure


def test_a_kernel_without_it_is_never_short(tmp_path: Path) -> None:
    assert pressure_of_linux(tmp_path / "memory") is Pressure.NORMAL
    (tmp_path / "memory").write_text("nonsense\n")
    assert pressure_of_linux(tmp_path / "memory") is Pressure.NORMAL


@pytest.mark.parametrize(
    ("level", "pressure"),
    [(1, "normal"), (2, "warning"), (4, "critical"), (0, "normal"), (7, "normal"), (None, "normal")],
)
def test_macos_has_levels(level: int | None, pressure: str) -> None:
    asked = []

    def sysctl(name: str) -> int | None:
        asked.append(name)
        return level

    assert pressure_of_mac(sysctl) == pressure
    assert asked == ["kern.memorystatus_vm_pressure_level"]


class PlayedLibrary:
    """libSystem with one sysctl."""

    def sysctlbyname(self, name: bytes, value: object, size: object, new: None, new_size: int) -> int:
        assert (new, new_size) == (None, 0)
        if name != b"kern.memorystatus_vm_pressure_level":
            return -1
        pointer = ctypes.cast(value, ctypes.POINTER(ctypes.c_int))  # type: ignore[arg-type]
        length = ctypes.cast(size, ctypes.POINTER(ctypes.c_size_t))  # type: ignore[arg-type]
        assert length.contents.value == 4
        pointer.contents.value = 4
        return 0


def test_the_call_of_the_c_library() -> None:
    assert sysctl_int("kern.memorystatus_vm_pressure_level", PlayedLibrary()) == 4
    assert sysctl_int("kern.other", PlayedLibrary()) is None
    assert sysctl_int("kern.other", object()) is None


def test_this_system() -> None:
    system = ThisSystem()
    assert system.total_bytes == psutil.virtual_memory().total
    assert system.sample().pressure in list(Pressure)


def test_a_mac() -> None:
    system = ThisSystem("darwin", lambda: Pressure.WARNING)
    assert system.has_metal
    assert system.sample().pressure is Pressure.WARNING
    assert not ThisSystem("linux").has_metal


def test_wired_memory_is_said_where_the_system_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("svmem", (), {"wired": 7 << 30}))
    assert wired_bytes() == 7 << 30
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("svmem", (), {"total": 1}))
    assert wired_bytes() is None
