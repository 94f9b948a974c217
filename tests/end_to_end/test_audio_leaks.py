"""Five hundred transcriptions, some cut off, bad or streamed: no process keeps memory, files or uploads."""

import contextlib
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.service import Service, wait_until
from tests.tiny_audio import make_tiny_whisper, write_sound

REQUESTS = 500
WARM = 100
# MiB that a process may take more after the last request than after the first hundred.
MOST_GROWTH = {"gateway": 8.0, "broker": 4.0, "worker": 24.0}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_500_transcriptions_leave_nothing(tmp_path: Path) -> None:
    make_tiny_whisper(tmp_path / "models" / "whisper")
    good = write_sound(tmp_path / "good.flac", 8, rate=44_100).read_bytes()
    long = write_sound(tmp_path / "long.wav", 60).read_bytes()
    with Service(tmp_path / "models") as service:
        service.load("whisper").raise_for_status()
        before: dict[str, tuple[float, int]] = {}
        for number in range(REQUESTS):
            _ask(service, number, good, long)
            if number == WARM:
                before = _taken(service)
        wait_until(lambda: service.model("whisper")["in_flight"] == 0, what="no request in flight")
        after = _taken(service)
        assert [one for one in (service.directory / "state" / "uploads").rglob("*") if one.is_file()] == []
    sys.stdout.write(f"MiB and open files, after {WARM} and {REQUESTS} requests: {before}, {after}\n")
    for name, most in MOST_GROWTH.items():
        assert after[name][0] - before[name][0] < most, (name, before, after)
        assert after[name][1] - before[name][1] <= 2, (name, before, after)


def _ask(service: Service, number: int, good: bytes, long: bytes) -> None:
    """One request of a kind that its number says."""
    path, model = "/v1/audio/transcriptions", {"model": "whisper"}
    match number % 10:
        case 0:
            answer = service.client.post(path, data=model, files={"file": good[: len(good) // 2]})
            assert answer.status_code == 400, answer.text
        case 1:
            answer = service.client.post(path, data=model, files={"file": b"no audio at all"})
            assert answer.status_code == 400, answer.text
        case 2:  # leaves while its file is heard
            with contextlib.suppress(httpx.ReadTimeout):
                service.client.post(path, data=model, files={"file": long}, timeout=0.05)
        case 3 | 4:
            with service.client.stream(
                "POST", path, data={**model, "stream": "true"}, files={"file": good}
            ) as response:
                assert "transcript.text.done" in response.read().decode()
        case _:
            answer = service.client.post(path, data=model, files={"file": good})
            assert answer.status_code == 200, answer.text


def _taken(service: Service) -> dict[str, tuple[float, int]]:
    """MiB and open files of each process."""
    assert service.broker is not None
    assert service.gateway is not None
    pids = {"broker": service.broker.pid, "gateway": service.gateway.pid, "worker": service.model("whisper")["pid"]}
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    return {name: (one.memory_info().rss / 2**20, one.num_fds()) for name, one in processes.items()}
