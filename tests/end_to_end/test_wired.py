"""Four workers come and go on a machine that wires memory: together they never wire more than the budget."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.service import Service
from tests.tiny_models import make_tiny_model
from tests.worker.memory import recording

NAMES = ("a", "b", "c", "d")
BUDGET_GIB = 2.5


class Wired(NamedTuple):
    at: float
    pid: int
    size: int


def wired(files: list[Path]) -> list[Wired]:
    """All calls of all processes, in their order."""
    lines = [line.split() for file in files if file.exists() for line in file.read_text().splitlines()]
    return sorted(Wired(float(at), int(pid), int(size)) for at, pid, name, size in lines if name == "set_wired_limit")


@pytest.mark.slow  # six loads, each of which imports mlx-lm
@pytest.mark.timeout(300)
def test_four_workers_together_wire_no_more_than_the_budget(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    make_tiny_model(tmp_path / "deep", layers=8, hidden_size=64)  # 2 KiB for a token of a sequence
    models = {
        name: {
            "type": "text-gen",
            "engine": "tests.worker.memory.recording_text:RecordingText",
            "options": {"folder": str(tmp_path / "deep"), "record": str(tmp_path / name)},
        }
        for name in NAMES
    }
    service = make_service(models=models, broker={"max_memory_gb": BUDGET_GIB, "wired_memory": True})
    service.client.timeout = 200.0
    leaves: dict[int, float] = {}

    def leave(name: str) -> None:
        leaves[service.model(name)["pid"]] = time.monotonic()
        assert service.unload(name).status_code == 200

    def chat(number: int) -> int:
        fields = {"max_tokens": 6000, "grammar": "start: /[a-z]{5}/"}
        return service.chat(NAMES[number % len(NAMES)], f"{number} " * 20, **fields).status_code

    with ThreadPoolExecutor(len(NAMES)) as pool:
        assert {response.status_code for response in pool.map(service.load, NAMES)} == {200}
    with ThreadPoolExecutor(24) as pool:
        assert set(pool.map(chat, range(24))) == {200}
    leave("b")
    leave("d")
    with ThreadPoolExecutor(24) as pool:
        assert set(pool.map(chat, range(24))) == {200}

    calls = wired([tmp_path / name for name in NAMES])
    assert len({call.pid for call in calls}) == len(NAMES) + 2
    assert len({call.size for call in calls}) > len(NAMES), "shares moved"
    now: dict[int, int] = {}
    for call in calls:
        now[call.pid] = call.size
        going_on = [size for pid, size in now.items() if call.at < leaves.get(pid, call.at + 1)]
        assert sum(going_on) <= min(BUDGET_GIB * 2**30, recording.WORKING_SET)
