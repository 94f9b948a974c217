"""macOS and Linux, played by what their programs and files say."""

import socket
from pathlib import Path

import pytest

from cli.doctor import outputs
from cli.doctor.probes import (
    Asks,
    limit_facts,
    memory_facts,
    port_user,
    power_facts,
    python_facts,
    socket_facts,
    system_facts,
    wired_bytes,
)
from tests.cli.doctor.macs import BATTERY, PANICS, mac


def test_a_mac() -> None:
    facts = system_facts(mac())
    assert (facts.system, facts.release, facts.arch) == ("macOS", "15.3.1 (24D70)", "arm64")
    assert (facts.chip, facts.model, facts.cores, facts.fast_cores) == ("Apple M4 Pro", "Mac16,8", 12, 8)
    assert not facts.is_translated
    assert system_facts(mac({"sysctl.proc_translated": "1"})).is_translated


def test_the_memory_of_a_mac() -> None:
    facts = memory_facts(mac())
    assert facts.total == 24 << 30
    assert facts.wired == 196995 * 16384 == wired_bytes(mac())
    assert facts.available == (11887 + 363803 + 102040 + 1044) * 16384
    assert (facts.swap_used, facts.swap_total) == (int(1034.25 * 2**20), 2 << 30)
    assert (facts.pressure, facts.wired_limit_mb) == ("normal", 0)
    assert memory_facts(mac({"kern.memorystatus_vm_pressure_level": "4"})).pressure == "critical"


def test_the_power_of_a_mac() -> None:
    mains = power_facts(mac(names=PANICS))
    assert mains is not None
    assert (mains.source, mains.battery_percent) == ("AC Power", None)
    assert (mains.sleep_minutes, mains.held_by, mains.low_power) == (1, "sharingd, powerd", False)
    assert mains.panics == ("panic-full-2026-01-02-101112.0002.panic", "panic-full-2025-11-30-235959.0002.panic")
    battery = power_facts(mac({"batt": BATTERY}))
    assert battery is not None
    assert (battery.source, battery.battery_percent, battery.panics) == ("Battery Power", 67, ())


def test_a_mac_that_says_nothing() -> None:
    silent = Asks(run=lambda _: None, read=lambda _: None, names=lambda _: [], platform="darwin", arch="arm64")
    assert system_facts(silent).chip is None
    assert memory_facts(silent).total is None
    power = power_facts(silent)
    assert power is not None
    assert (power.source, power.sleep_minutes, power.panics) == (None, None, ())


LINUX = {
    "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\n',
    "/proc/sys/kernel/osrelease": "6.1.0-28-amd64\n",
    "/proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD  EPYC 9B14\nprocessor\t: 1\n",
    "/proc/meminfo": "MemTotal:       24657920 kB\nMemAvailable:   23000000 kB\nSwapTotal:       2097148 kB\n"
    "SwapFree:        1048574 kB\n",
    "/proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0 total=0\n",
    "/proc/sys/net/core/somaxconn": "4096\n",
}


def linux(**changed: str) -> Asks:
    files = {**LINUX, **{f"/proc/{name.replace('_', '/')}": text for name, text in changed.items()}}
    return Asks(run=lambda _: None, read=files.get, names=lambda _: [], platform="linux", arch="x86_64")


def test_linux() -> None:
    system, memory = system_facts(linux()), memory_facts(linux())
    assert (system.release, system.chip) == ("6.1.0-28-amd64 (Debian GNU/Linux 12 (bookworm))", "AMD EPYC 9B14")
    assert (memory.total, memory.available) == (24657920 << 10, 23000000 << 10)
    assert (memory.swap_used, memory.swap_total) == ((2097148 - 1048574) << 10, 2097148 << 10)
    assert memory.pressure == "normal"
    assert wired_bytes(linux()) is None
    assert power_facts(linux()) is None


@pytest.mark.parametrize(
    ("some", "full", "level"), [("9.99", "0.00", "normal"), ("10.00", "1.0", "warning"), ("50.0", "10.00", "critical")]
)
def test_memory_pressure_of_linux(some: str, full: str, level: str) -> None:
    text = f"some avg10={some} avg60=0.0 total=0\nfull avg10={full} avg60=0.0 total=0\n"
    assert memory_facts(linux(pressure_memory=text)).pressure == level


def test_this_machine_says_something() -> None:
    asks = Asks()
    assert system_facts(asks).release
    assert (memory_facts(asks).total or 0) > 1 << 28
    assert limit_facts().files[0] is None or limit_facts().files[0] >= 64  # type: ignore[operator]
    python = python_facts()
    assert python.libraries["mlx"]
    assert python.wheels["mlx"].startswith("cp3")


def test_the_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A short name: pytest's own is too long for a socket.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("gateway.sock")
        (tmp_path / "lock").touch()
        now = tmp_path.stat().st_mtime + 2 * 86400
        facts = socket_facts(linux(), tmp_path, 30, 103, now)
    assert (facts.sockets, facts.backlog, facts.in_temporary) == (1, 4096, False)
    assert facts.age_days == pytest.approx(2)
    missing = socket_facts(mac(), Path("/var/folders/ab/xyz/T/mlx-broker"), 80, 103, now)
    assert (missing.age_days, missing.in_temporary, missing.backlog, missing.buffer_bytes) == (None, True, 128, 8192)


def test_a_port() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert port_user(linux(), port, lambda _: "nobody asks it") == "free"
        server.listen()
        assert port_user(linux(), port, lambda _: None) == "another program"
        asks = Asks(run=lambda _: "p4711\ncpython3.12\nf7\n")
        assert port_user(asks, port, lambda _: "Ollama 0.9") == "Ollama 0.9, python3.12 (pid 4711)"


def test_whole_numbers_and_nothing_else() -> None:
    assert (outputs.whole("12\n"), outputs.whole(None), outputs.whole("1.5"), outputs.whole("")) == (
        12,
        None,
        None,
        None,
    )
