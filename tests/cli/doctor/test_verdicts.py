"""What the doctor says about machines, good and bad."""

from dataclasses import replace
from typing import Any

import pytest

from cli.doctor.facts import (
    Finding,
    FolderFacts,
    LimitFacts,
    MachineReport,
    MlxFacts,
    PythonFacts,
    Rating,
    ServiceFacts,
    SocketFacts,
)
from cli.doctor.probes import memory_facts, power_facts, system_facts
from cli.doctor.report import worst
from cli.doctor.verdicts import GIB, findings_of
from tests.cli.doctor.macs import BATTERY, DEVICE, PANICS, mac

LIBRARIES = {"mlx": "0.32.4", "mlx-lm": "0.32.2", "mlx-vlm": "0.7.10", "pyzmq": "27.3.0", "uvloop": "0.23.0"}
GOOD = MachineReport(
    system=system_facts(mac()),
    memory=memory_facts(mac()),
    power=power_facts(mac()),
    python=PythonFacts(
        "3.13.1", "arm64", "/opt/homebrew/bin/python3", dict(LIBRARIES), {"mlx": "cp313-cp313-macosx_15_0_arm64"}
    ),
    mlx=MlxFacts(True, DEVICE, 0.4),
    service=ServiceFacts(
        budget=16 * GIB,
        budget_origin="metal",
        runtime_dir="/Users/jane/.local/state/mlx-broker/run",
        folders=(FolderFacts("/Users/jane/.cache/mlx-broker/models", True, 100 * GIB, True),),
        models=3,
    ),
    sockets=SocketFacts(60, 103, 0.5, 2, in_temporary=False, backlog=128, buffer_bytes=8192),
    limits=LimitFacts((256, None), 2666),
    ports={8080: "free", 11434: "Ollama 0.9, ollama (pid 5)"},
)


def named(report: MachineReport, name: str) -> Finding:
    [finding] = [finding for finding in findings_of(report) if finding.name == name]
    return finding


def test_a_good_mac_has_nothing_to_correct() -> None:
    findings = findings_of(GOOD)
    assert worst(findings) is Rating.OK
    told = {finding.name: finding.found for finding in findings}
    assert told["system"] == "macOS 15.3.1 (24D70), arm64"
    assert told["chip"] == "Apple M4 Pro, Mac16,8, 12 cores, 8 of them fast"
    assert told["wired"] == "3.0 GiB now; iogpu.wired_limit_mb is the system's default"
    assert told["budget"] == "16.0 GiB for all models, from: metal; Metal recommends 37.4 GiB"
    assert "computes on Metal" in told["MLX"]
    assert "macosx_15_0_arm64" in told["wheels"]
    assert told["models folder"].endswith("100.0 GiB free, ignores case in names")
    assert told["port 11434"] == "Ollama 0.9, ollama (pid 5)"


BAD: dict[str, tuple[dict[str, Any], str, Rating, str]] = {
    "old macOS": (
        {"system": replace(GOOD.system, release="13.6.1 (22G313)")},
        "system",
        Rating.FAILED,
        "MLX has no package for macOS before 14",
    ),
    "Intel's Python": (
        {"python": replace(GOOD.python, arch="x86_64")},
        "Python",
        Rating.FAILED,
        "this Python is built for Intel",
    ),
    "new Python": ({"python": replace(GOOD.python, version="3.15.0")}, "Python", Rating.FAILED, "3.11 to 3.14"),
    "no mlx-lm": (
        {"python": replace(GOOD.python, libraries={**LIBRARIES, "mlx-lm": None})},
        "libraries",
        Rating.FAILED,
        "missing: mlx-lm",
    ),
    "no Metal": ({"mlx": MlxFacts(False, {"device_name": "?"})}, "MLX", Rating.FAILED, "virtual machine"),
    "broken MLX": ({"mlx": MlxFacts(error="ImportError: dlopen")}, "MLX", Rating.FAILED, "install anew"),
    "budget beyond Metal": (
        {"service": replace(GOOD.service, budget=60 * GIB)},
        "budget",
        Rating.WARNING,
        "MLX_BROKER_MAX_MEMORY_GB",
    ),
    "pressure": ({"memory": replace(GOOD.memory, pressure="critical")}, "memory pressure", Rating.WARNING, "close"),
    "swap": ({"memory": replace(GOOD.memory, swap_used=20 * GIB)}, "swap", Rating.WARNING, "paged out"),
    "battery": ({"power": power_facts(mac({"batt": BATTERY}))}, "power", Rating.WARNING, "plug it in"),
    "panics": (
        {"power": power_facts(mac(names=PANICS))},
        "kernel panics",
        Rating.WARNING,
        "whether a model was loaded",
    ),
    "bad settings": ({"service": ServiceFacts(error="port must be ...")}, "settings", Rating.FAILED, "correct these"),
    "full disk": (
        {"service": replace(GOOD.service, folders=(FolderFacts("/m", True, GIB, False),))},
        "models folder",
        Rating.WARNING,
        "nearly full",
    ),
    "broken model": (
        {"service": replace(GOOD.service, broken=(("org/m", "org/m: no tokenizer"),))},
        "broken model",
        Rating.WARNING,
        "download it again",
    ),
    "long path": (
        {"sockets": replace(GOOD.sockets, path_bytes=120)},
        "runtime directory",
        Rating.FAILED,
        "MLX_BROKER_RUNTIME_DIR",
    ),
    "swept path": (
        {"sockets": replace(GOOD.sockets, in_temporary=True)},
        "runtime directory",
        Rating.WARNING,
        "three days",
    ),
    "few files": ({"limits": LimitFacts((256, 512), None)}, "open files", Rating.WARNING, "ulimit"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_machine_is_told_what_to_do(case: str) -> None:
    changed, name, rating, advice = BAD[case]
    finding = named(replace(GOOD, **changed), name)
    assert finding.rating is rating
    assert advice in finding.advice


def test_a_mac_that_falls_asleep_is_a_fact_with_advice() -> None:
    finding = named(GOOD, "idle sleep")
    assert finding.found == "after 1 min, prevented now by sharingd, powerd"
    assert finding.rating is Rating.FACT
    assert "MLX_BROKER_KEEP_AWAKE" in finding.advice
