"""Random chaos: clients ask, stream and leave early while models are killed, stopped, unloaded and loaded.

test_chaos.py runs 40 seconds; `python -m tests.isolation.chaos SECONDS SEED` (`make chaos`) prints the figures of
a longer run as a table. Every request must end exactly once: with an answer, with a framed or plain error of a known
code, or because its client left. Anything else raises. With a third argument, `kills`, there are no storms: every model
is killed every five seconds, all have room, and answers are long, so that many of them go on in another process
(`make chaos-kills`). Then `check_kills` must hold.

Clients behave as good clients do: a refused client waits as long as Retry-After says, and a client that is told not to
retry asks again after a pause. An operator loads models that have failed. Attacks come in storms: the next one begins
when every model that clients want has answered since the last one. All randomness comes from the seed.
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
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.isolation.conftest import HEARTBEAT_TIMEOUT
from tests.service import Service, chat_body
from tests.tiny_models import make_tiny_model

MODELS = ("a", "b", "c")
CLIENTS = 16
# The codes that a client may get during the chaos; any other code is a bug.
KNOWN_CODES = {"worker_died", "model_unavailable", "rate_limit_exceeded", "insufficient_memory"}
_SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGSTOP)
_ANSWER_SECONDS = 240.0
# Pause of a client that is told not to retry, seconds: doubled with each refusal in a row.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
_OPERATOR_LOOKS_EVERY = 1.0
# Seconds between attacks, of a storm, and of the calm that follows once the models have recovered.
_ATTACK_EVERY = (0.1, 0.6)
_SIGNAL_SHARE = 0.6  # the rest are acts of an administrator
_VERBS = ("load", "unload", "kill", "unpin")
_STORM, _CALM = (6.0, 10.0), (8.0, 14.0)
_KILL_EVERY = 5.0
# Where models are killed and nothing else happens: how many requests are answered, of those whose clients do not leave.
_LEAST_WHOLE_PERCENT = 95.0
_LIMIT = "code worker_died, the limit"
# Tokens of an answer, at most.
_SHORT_ANSWER, _LONG_ANSWER = 150, 800
# How long clients want the same two of the three models, seconds. A change of demand evicts.
_DEMAND = (8.0, 16.0)


@dataclass
class Figures:
    """Counts of everything that happened. rss: MiB of broker and gateway after a quarter of the run and at its end."""

    started: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    attacks: Counter[str] = field(default_factory=Counter)
    operator_loads: int = 0
    resumes: int = 0
    slowest_seconds: float = 0.0
    rss_early: dict[str, float] = field(default_factory=dict)
    rss_late: dict[str, float] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        return self.ends["answered, streamed"] + self.ends["answered, whole"]

    @property
    def whole_percent(self) -> float:
        """Of the requests whose clients did not leave."""
        return 100 * self.answered / max(1, self.started - self.ends["client left"])

    @property
    def refused_percent(self) -> float:
        return 100 * self.ends["error, plain"] / max(1, self.started)

    def table(self) -> str:
        rows: list[tuple[str, object]] = [("requests", self.started), ("answered", self.answered)]
        rows += [("answered, % of those not left", round(self.whole_percent, 1))]
        rows += [("refused, % of requests", round(self.refused_percent, 1))]
        rows += [("answers that went on", self.resumes)]
        rows += [*sorted(self.ends.items()), *sorted(self.errors.items())]
        rows += [*sorted(self.attacks.items()), ("loads by the operator", self.operator_loads)]
        rows += [("slowest end, s", round(self.slowest_seconds, 2))]
        rows += [
            (f"{n} RSS, MiB, early / late", f"{self.rss_early[n]:.1f} / {self.rss_late[n]:.1f}") for n in self.rss_late
        ]
        return "\n".join(f"| {name} | {value} |" for name, value in rows)


@dataclass(frozen=True)
class End:
    """How a request ended. retry_after: seconds, where the response named them; retryable: no error said otherwise."""

    name: str
    retry_after: float | None = None
    retryable: bool = True


@dataclass
class Run:
    """One run: its client, its end and its figures. least: the run goes on until there have been this many attacks and
    streamed answers, even where that takes longer. kills: see the top of this file. wanted: the models that clients ask
    for now. served: the models that have answered since the last storm."""

    http: httpx.AsyncClient
    ends_at: float
    least: int
    kills: bool = False
    wanted: tuple[str, ...] = MODELS
    served: set[str] = field(default_factory=set)
    figures: Figures = field(default_factory=Figures)

    def goes_on(self) -> bool:
        counts = (self.figures.attacks.total(), self.figures.ends["answered, streamed"])
        return time.monotonic() < self.ends_at or min(counts) < self.least

    async def rest(self, seconds: float) -> None:
        """Sleep, but not beyond the end of the run (beyond it: for a second at most)."""
        left = self.ends_at - time.monotonic()
        await asyncio.sleep(min(seconds, left if left > 0 else 1.0))


def chaos_service(models: Path, *, kills: bool = False) -> Service:
    """Three models in two places, so that models are evicted. Short timeouts, so that stopped processes are found soon
    in every phase of their life: a process that is stopped before it connects has no heartbeat to miss, and only
    load_stall_timeout_seconds ends it. Together they stay below the time that clients wait for an answer."""
    broker = {
        "max_models": 3 if kills else 2,
        "warm_spares": 2 if kills else 1,
        "heartbeat_interval_seconds": 0.1,
        "heartbeat_timeout_seconds": HEARTBEAT_TIMEOUT,
        "load_stall_timeout_seconds": 30.0,
        "queue_timeout_seconds": 60.0,
    }
    return Service(models, {"broker": broker})


async def run_chaos(service: Service, seconds: float, seed: int, least: int = 0, *, kills: bool = False) -> Figures:
    """Raises AssertionError for the first request that does not end as it must. least, kills: see Run."""
    limits = httpx.Limits(max_connections=None)  # httpx counts the connection of a cancelled request for too long
    async with httpx.AsyncClient(base_url=service.url, timeout=_ANSWER_SECONDS, limits=limits) as http:
        run = Run(http, time.monotonic() + seconds, least, kills)
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(_client(run, random.Random(f"{seed}/{number}")))
            if kills:
                for number, model in enumerate(MODELS):
                    group.create_task(_killer(run, model, number * _KILL_EVERY / len(MODELS)))
            else:
                group.create_task(_attacker(run, group, random.Random(f"{seed}/attacker")))
                group.create_task(_operator(run))
                group.create_task(_demand(run, random.Random(f"{seed}/demand")))
            await asyncio.sleep(seconds / 4)
            run.figures.rss_early = _rss(service)
        status = (await http.get("/admin/models/status")).json()
        run.figures.resumes = sum(m["resumes"] for m in status["models"])
        await _calm(http)
        run.figures.rss_late = _rss(service)
    assert run.figures.started == sum(run.figures.ends.values())
    return run.figures


async def _client(run: Run, rng: random.Random) -> None:
    refusals = 0
    while run.goes_on():
        model = rng.choice(run.wanted)
        tokens = rng.randrange(1, _LONG_ANSWER if run.kills else _SHORT_ANSWER)
        body = chat_body(model, "Hello " * rng.randrange(1, 60), max_tokens=tokens)
        end = await _request(run, rng, body)
        refusals = 0 if end.retryable else refusals + 1
        if end.retry_after is not None:
            await run.rest(end.retry_after * rng.uniform(1.0, 1.5))
        elif refusals:
            await run.rest(min(_FIRST_PAUSE * 2 ** (refusals - 1), _LONGEST_PAUSE) * rng.uniform(1.0, 1.5))


async def _request(run: Run, rng: random.Random, body: dict[str, Any]) -> End:
    leaves_after = rng.randrange(10) if rng.random() < 0.15 else None
    run.figures.started += 1
    began = time.monotonic()
    if rng.random() < 0.6:
        end = await _stream(run.http, body | {"stream": True}, leaves_after, run.figures)
    else:
        end = await _ask(run.http, body, leaves_after, run.figures)
    run.figures.ends[end.name] += 1
    if end.name.startswith("answered"):
        run.served.add(body["model"])
    run.figures.slowest_seconds = max(run.figures.slowest_seconds, time.monotonic() - began)
    return end


async def _stream(http: httpx.AsyncClient, body: dict[str, Any], leaves_after: int | None, figures: Figures) -> End:
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            await response.aread()
            return _refused(response, figures)
        lines = [line async for line in _lines(response, leaves_after)]
    if leaves_after is not None and len(lines) == leaves_after:
        return End("client left")
    assert lines[-1] == "[DONE]", f"a stream just stopped: {lines[-2:]}"
    assert lines.count("[DONE]") == 1
    last = json.loads(lines[-2])
    if "error" in last:
        _count(last, figures)
        return End("error, framed")
    assert last["choices"][0]["finish_reason"] in ("length", "stop")
    return End("answered, streamed")


async def _lines(response: httpx.Response, leaves_after: int | None) -> AsyncIterator[str]:
    count = 0
    async for line in response.aiter_lines():
        if count == leaves_after:
            return
        if line.startswith("data: "):
            count += 1
            yield line.removeprefix("data: ")


async def _ask(http: httpx.AsyncClient, body: dict[str, Any], leaves_after: int | None, figures: Figures) -> End:
    request = http.post("/v1/chat/completions", json=body)
    if leaves_after is not None:
        try:
            response = await asyncio.wait_for(request, leaves_after / 100)
        except TimeoutError:
            return End("client left")
    else:
        response = await request
    if response.status_code != 200:
        return _refused(response, figures)
    assert response.json()["usage"]["completion_tokens"] >= 1
    return End("answered, whole")


def _refused(response: httpx.Response, figures: Figures) -> End:
    assert response.status_code in (429, 503), f"{response.status_code}: {response.text}"
    error = _count(response.json(), figures)
    retry_after = response.headers.get("retry-after")
    return End("error, plain", None if retry_after is None else float(retry_after), error["retryable"])


def _count(body: dict[str, Any], figures: Figures) -> dict[str, Any]:
    error: dict[str, Any] = body["error"]
    assert error["code"] in KNOWN_CODES, body
    is_limit = error["code"] == "worker_died" and "which may go on" in error["message"]
    figures.errors[_LIMIT if is_limit else f"code {error['code']}"] += 1
    return error


def check_kills(figures: Figures) -> None:
    """Answers went on, nearly all to their end, and the only error is that an answer may not go on more often."""
    assert figures.attacks["attack kill"] > 0
    assert figures.resumes > 0
    assert figures.whole_percent >= _LEAST_WHOLE_PERCENT, figures.table()
    assert set(figures.errors) <= {_LIMIT}, figures.table()


async def _attacker(run: Run, group: asyncio.TaskGroup, rng: random.Random) -> None:
    """Storms of attacks. The next attack does not wait for the last one's answer: a load can take long."""
    while run.goes_on():
        storm_ends_at = time.monotonic() + rng.uniform(*_STORM)
        while run.goes_on() and time.monotonic() < storm_ends_at:
            await asyncio.sleep(rng.uniform(*_ATTACK_EVERY))  # the schedule itself: the sleep waits for no condition
            if rng.random() < _SIGNAL_SHARE:
                await _send_signal(run, rng)
            else:
                group.create_task(_administrate(run, rng.choice(_VERBS), rng.choice(MODELS), rng))
        await _unpin_all(run)
        run.served.clear()
        while run.goes_on() and not run.served.issuperset(run.wanted):
            await run.rest(0.05)
        await run.rest(rng.uniform(*_CALM))


async def _killer(run: Run, model: str, later: float) -> None:
    """Kills this model at fixed times, by an administrator: such deaths do not count towards `failed`, however many."""
    due = time.monotonic() + later
    while run.goes_on():
        due += _KILL_EVERY
        await run.rest(max(0.0, due - time.monotonic()))
        response = await run.http.post(f"/admin/models/kill/{model}")
        assert response.status_code in (200, 404), response.text
        run.figures.attacks["attack kill"] += response.status_code == 200


async def _send_signal(run: Run, rng: random.Random) -> None:
    number = rng.choice(_SIGNALS)
    status = (await run.http.get("/admin/models/status")).json()
    pids = [m["pid"] for m in status["models"] if m["pid"] is not None]
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(pids), number)
            run.figures.attacks[f"attack {number.name}"] += 1


async def _administrate(run: Run, verb: str, model: str, rng: random.Random) -> None:
    params = dict[str, str]()
    if verb == "unload":
        params = {"timeout": rng.choice(["0", "1", "5"]), "force": rng.choice(["true", "false"])}
    response = await run.http.post(f"/admin/models/{verb}/{model}", params=params)
    assert response.status_code in (200, 404, 409, 500), response.text
    run.figures.attacks[f"attack {verb}"] += 1


async def _unpin_all(run: Run) -> None:
    """Pinned models would keep the others out for the whole calm."""
    status = (await run.http.get("/admin/models/status")).json()
    for model in [m["model_id"] for m in status["models"] if m["preloaded"]]:
        await run.http.post(f"/admin/models/unpin/{model}")


async def _demand(run: Run, rng: random.Random) -> None:
    while run.goes_on():
        run.wanted = tuple(rng.sample(MODELS, 2))
        await run.rest(rng.uniform(*_DEMAND))


async def _operator(run: Run) -> None:
    """Loads models that have failed, as a person would, and unpins them, so that the limits stay as they were."""
    while run.goes_on():
        await run.rest(_OPERATOR_LOOKS_EVERY)
        status = (await run.http.get("/admin/models/status")).json()
        for model in [m["model_id"] for m in status["models"] if m["state"] == "failed"]:
            response = await run.http.post(f"/admin/models/load/{model}")
            assert response.status_code in (200, 500), response.text
            await run.http.post(f"/admin/models/unpin/{model}")
            run.figures.operator_loads += 1


async def _calm(http: httpx.AsyncClient) -> None:
    """After the run nothing is in flight or queued, and every model answers again."""
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


def main(seconds: float, seed: int, *, kills: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for number, name in enumerate(MODELS, start=1):
            make_tiny_model(Path(directory) / name, seed=number)
        service = chaos_service(Path(directory), kills=kills)
        try:
            service.start()
            figures = asyncio.run(run_chaos(service, seconds, seed, kills=kills))
        finally:
            service.stop()  # asserts that no process is left
    if kills:
        check_kills(figures)
    sys.stdout.write(f"{seconds:g} s, seed {seed}\n\n| what | count |\n| --- | --- |\n{figures.table()}\n")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), kills=sys.argv[3:] == ["kills"])
