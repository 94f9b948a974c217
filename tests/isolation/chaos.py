"""Random chaos: clients that come, go and leave early, while models are killed, stopped, unloaded and loaded.

Run by test_chaos.py for a minute; `python -m tests.isolation.chaos SECONDS SEED` prints the figures of a longer run as
a table (`make chaos`). Every request must end exactly once: an answer, a framed or plain error with a known code, or
the client's own leaving. Anything else raises.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.service import Service, chat_body
from tests.tiny_models import make_tiny_model

MODELS = ("a", "b", "c")
CLIENTS = 16
# What a client may be told in a storm; any other code would be a fault of ours.
KNOWN_CODES = {"worker_died", "model_unavailable", "rate_limit_exceeded", "insufficient_memory"}
_SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGSTOP)
_ANSWER_SECONDS = 60.0


@dataclass
class Figures:
    """What has happened. rss: MiB of broker and gateway at a quarter of the time and at the end."""

    started: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    attacks: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    rss_early: dict[str, float] = field(default_factory=dict)
    rss_late: dict[str, float] = field(default_factory=dict)

    def table(self) -> str:
        rows: list[tuple[str, object]] = [("requests", self.started)]
        rows += [*sorted(self.ends.items()), *sorted(self.errors.items())]
        rows += [*sorted(self.attacks.items()), ("slowest end, s", round(self.slowest_seconds, 2))]
        rows += [
            (f"{n} RSS, MiB, early / late", f"{self.rss_early[n]:.1f} / {self.rss_late[n]:.1f}") for n in self.rss_late
        ]
        return "\n".join(f"| {name} | {value} |" for name, value in rows)


def chaos_service(models: Path) -> Service:
    """Three models in two places, so that eviction takes part; short timeouts, so that stopped processes are found."""
    broker = {"max_models": 2, "heartbeat_interval_seconds": 0.1, "heartbeat_timeout_seconds": 1.5, "warm_spares": 1}
    return Service(models, {"broker": broker})


async def run_chaos(service: Service, seconds: float, seed: int, least: int = 0) -> Figures:
    """Raises AssertionError for the first request that does not end as it must. least: as many attacks and streamed
    answers there are to be, also where that takes longer."""
    figures = Figures()
    ends_at = time.monotonic() + seconds

    def goes_on() -> bool:
        counts = (figures.attacks.total(), figures.ends["answered, streamed"])
        return time.monotonic() < ends_at or min(counts) < least

    limits = httpx.Limits(max_connections=None)  # of what a cancelled request leaves, httpx keeps count too long
    async with httpx.AsyncClient(base_url=service.url, timeout=_ANSWER_SECONDS, limits=limits) as http:
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(_client(http, random.Random(f"{seed}/{number}"), goes_on, figures))
            group.create_task(_attacker(http, random.Random(f"{seed}/attacker"), goes_on, figures))
            await asyncio.sleep(seconds / 4)
            figures.rss_early = _rss(service)
        await _calm(http)
        figures.rss_late = _rss(service)
    assert figures.started == sum(figures.ends.values())
    return figures


async def _client(http: httpx.AsyncClient, rng: random.Random, goes_on: Callable[[], bool], figures: Figures) -> None:
    while goes_on():
        body = chat_body(rng.choice(MODELS), "Hello " * rng.randrange(1, 60), max_tokens=rng.randrange(1, 150))
        leaves_after = rng.randrange(10) if rng.random() < 0.15 else None
        figures.started += 1
        began = time.monotonic()
        if rng.random() < 0.6:
            end = await _stream(http, body | {"stream": True}, leaves_after, figures)
        else:
            end = await _ask(http, body, leaves_after, figures)
        figures.ends[end] += 1
        figures.slowest_seconds = max(figures.slowest_seconds, time.monotonic() - began)


async def _stream(http: httpx.AsyncClient, body: dict[str, Any], leaves_after: int | None, figures: Figures) -> str:
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            return _refused(response.status_code, await response.aread(), figures)
        lines = [line async for line in _lines(response, leaves_after)]
    if leaves_after is not None and len(lines) == leaves_after:
        return "client left"
    assert lines[-1] == "[DONE]", f"a stream just stopped: {lines[-2:]}"
    assert lines.count("[DONE]") == 1
    last = json.loads(lines[-2])
    if "error" in last:
        _count(last, figures)
        return "error, framed"
    assert last["choices"][0]["finish_reason"] in ("length", "stop")
    return "answered, streamed"


async def _lines(response: httpx.Response, leaves_after: int | None) -> Any:
    count = 0
    async for line in response.aiter_lines():
        if count == leaves_after:
            return
        if line.startswith("data: "):
            count += 1
            yield line.removeprefix("data: ")


async def _ask(http: httpx.AsyncClient, body: dict[str, Any], leaves_after: int | None, figures: Figures) -> str:
    request = http.post("/v1/chat/completions", json=body)
    if leaves_after is not None:
        try:
            response = await asyncio.wait_for(request, leaves_after / 100)
        except TimeoutError:
            return "client left"
    else:
        response = await request
    if response.status_code != 200:
        return _refused(response.status_code, response.content, figures)
    assert response.json()["usage"]["completion_tokens"] >= 1
    return "answered, whole"


def _refused(status: int, content: bytes, figures: Figures) -> str:
    assert status in (429, 503), f"{status}: {content!r}"
    _count(json.loads(content), figures)
    return "error, plain"


def _count(body: dict[str, Any], figures: Figures) -> None:
    code = body["error"]["code"]
    assert code in KNOWN_CODES, body
    figures.errors[f"code {code}"] += 1


async def _attacker(http: httpx.AsyncClient, rng: random.Random, goes_on: Callable[[], bool], figures: Figures) -> None:
    while goes_on():
        await asyncio.sleep(rng.uniform(0.1, 0.6))  # the schedule itself, nothing is waited for
        model = rng.choice(MODELS)
        choice = rng.random()
        if choice < 0.6:
            number = rng.choice(_SIGNALS)
            status = (await http.get("/admin/models/status")).json()
            pids = [m["pid"] for m in status["models"] if m["pid"] is not None]
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(pids), number)
                    figures.attacks[f"attack {number.name}"] += 1
            continue
        verb = "load" if choice < 0.7 else "unload" if choice < 0.8 else "kill" if choice < 0.9 else "unpin"
        params: dict[str, Any] = (
            {"timeout": rng.choice([0, 1, 5]), "force": rng.choice(["true", "false"])} if verb == "unload" else {}
        )
        response = await http.post(f"/admin/models/{verb}/{model}", params=params)
        assert response.status_code in (200, 404, 409, 500), response.text
        figures.attacks[f"attack {verb}"] += 1


async def _calm(http: httpx.AsyncClient) -> None:
    """After the storm nothing is in flight or queued, and every model answers again."""
    for model in MODELS:
        await http.post(f"/admin/models/unload/{model}", params={"force": "true", "timeout": 0})
    for model in MODELS:
        response = await http.post(f"/admin/models/load/{model}")
        assert response.status_code == 200, response.text
        response = await http.post("/v1/chat/completions", json=chat_body(model, "Still there?"))
        assert response.status_code == 200, response.text
        await http.post(f"/admin/models/unpin/{model}")
    status = (await http.get("/admin/models/status")).json()
    assert status["queued"] == 0
    assert [m["in_flight"] for m in status["models"]] == [0] * len(status["models"])


def _rss(service: Service) -> dict[str, float]:
    processes = {"broker": service.broker, "gateway": service.gateway}
    return {n: psutil.Process(p.pid).memory_info().rss / 2**20 for n, p in processes.items() if p is not None}


def main(seconds: float, seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for number, name in enumerate(MODELS, start=1):
            make_tiny_model(Path(directory) / name, seed=number)
        service = chaos_service(Path(directory))
        try:
            service.start()
            figures = asyncio.run(run_chaos(service, seconds, seed))
        finally:
            service.stop()  # asserts that no process is left
    sys.stdout.write(f"{seconds:g} s, seed {seed}\n\n| what | count |\n| --- | --- |\n{figures.table()}\n")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
