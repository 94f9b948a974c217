"""Random chaos: clients ask, stream and leave early while models are killed, stopped, unloaded and loaded.

test_chaos.py runs 40 seconds; `python -m tests.isolation.chaos SECONDS SEED` (`make chaos`) prints the figures of
a longer run as a table. Every request must end exactly once: with an answer, with a framed or plain error of a known
code, or because its client left. Anything else raises. With a third argument, `kills`, there are no storms: every model
is killed every five seconds, in turn by an administrator and by a signal, all have room, and answers are long, so that
many of them go on in another process (`make chaos-kills`). Then `check_kills` must hold. All answers are greedy: what a
client is told is compared with what the model says when nothing happens.

Clients behave as good clients do: a refused client waits as long as Retry-After says, and a client that is told not to
retry asks again after a pause. An operator loads models that have failed. Attacks come in storms: the next one begins
when every model that clients want has answered since the last one. All randomness comes from the seed.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.isolation.chaos_figures import DEADLY, Figures, check_kills
from tests.isolation.conftest import HEARTBEAT_TIMEOUT
from tests.isolation.undisturbed import Undisturbed, learn
from tests.service import Service, chat_body
from tests.tiny_models import make_tiny_model

MODELS = ("a", "b", "c")
CLIENTS = 16
_SIGNALS = (*DEADLY, signal.SIGTERM, signal.SIGSTOP)
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
# Tokens of an answer, at most.
_SHORT_ANSWER, LONG_ANSWER = 150, 800
# How long clients want the same two of the three models, seconds. A change of demand evicts.
_DEMAND = (8.0, 16.0)


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
    for now. served: the models that have answered since the last storm. undisturbed: what the models say.
    longest: tokens of an answer, at most."""

    http: httpx.AsyncClient
    undisturbed: Undisturbed
    longest: int
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


async def run_chaos(
    service: Service, seconds: float, seed: int, least: int = 0, *, kills: bool = False, longest: int = _SHORT_ANSWER
) -> Figures:
    """Raises AssertionError for the first request that does not end as it must. least, kills, longest: see Run."""
    limits = httpx.Limits(max_connections=None)  # httpx counts the connection of a cancelled request for too long
    async with httpx.AsyncClient(base_url=service.url, timeout=_ANSWER_SECONDS, limits=limits) as http:
        run = Run(http, await learn(http, MODELS, longest), longest, time.monotonic() + seconds, least, kills)
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
        tokens = rng.randrange(1, run.longest)
        body = chat_body(model, rng.choice(run.undisturbed.prompts(model)), max_tokens=tokens)
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
        end = await _stream(run, body, leaves_after)
    else:
        end = await _ask(run, body, leaves_after)
    run.figures.ends[end.name] += 1
    if end.name.startswith("answered"):
        run.served.add(body["model"])
    run.figures.slowest_seconds = max(run.figures.slowest_seconds, time.monotonic() - began)
    return end


async def _stream(run: Run, body: dict[str, Any], leaves_after: int | None) -> End:
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    async with run.http.stream("POST", "/v1/chat/completions", json=body | streamed) as response:
        if response.status_code != 200:
            await response.aread()
            return _refused(response, run.figures)
        lines = [line async for line in _lines(response, leaves_after)]
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    choices = [choice for event in events for choice in event.get("choices", [])]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    run.undisturbed.check_beginning(body, text)
    if leaves_after is not None and len(lines) == leaves_after:
        return End("client left")
    assert lines[-1] == "[DONE]", f"a stream just stopped: {lines[-2:]}"
    assert lines.count("[DONE]") == 1
    last = events[-1]
    if "error" in last:
        run.figures.count_error(last)
        return End("error, framed")
    assert choices[-1]["finish_reason"] in ("length", "stop")
    run.undisturbed.check_whole(body, text, last["usage"]["completion_tokens"])
    return End("answered, streamed")


async def _lines(response: httpx.Response, leaves_after: int | None) -> AsyncIterator[str]:
    count = 0
    async for line in response.aiter_lines():
        if count == leaves_after:
            return
        if line.startswith("data: "):
            count += 1
            yield line.removeprefix("data: ")


async def _ask(run: Run, body: dict[str, Any], leaves_after: int | None) -> End:
    request = run.http.post("/v1/chat/completions", json=body)
    if leaves_after is not None:
        try:
            response = await asyncio.wait_for(request, leaves_after / 100)
        except TimeoutError:
            return End("client left")
    else:
        response = await request
    if response.status_code != 200:
        return _refused(response, run.figures)
    answer = response.json()
    text = answer["choices"][0]["message"]["content"]
    run.undisturbed.check_whole(body, text, answer["usage"]["completion_tokens"])
    return End("answered, whole")


def _refused(response: httpx.Response, figures: Figures) -> End:
    assert response.status_code in (429, 503), f"{response.status_code}: {response.text}"
    error = figures.count_error(response.json())
    retry_after = response.headers.get("retry-after")
    return End("error, plain", None if retry_after is None else float(retry_after), error["retryable"])


async def _attacker(run: Run, group: asyncio.TaskGroup, rng: random.Random) -> None:
    """Storms of attacks. The next attack does not wait for the last one's answer: a load can take long."""
    while run.goes_on():
        storm_ends_at = time.monotonic() + rng.uniform(*_STORM)
        while run.goes_on() and time.monotonic() < storm_ends_at:
            await asyncio.sleep(rng.uniform(*_ATTACK_EVERY))  # the schedule itself: the sleep waits for no condition
            if rng.random() < _SIGNAL_SHARE:
                number, pids = rng.choice(_SIGNALS), await _pids(run)
                if pids:
                    _send_signal(run, rng.choice([*pids.values()]), number)
            else:
                group.create_task(_administrate(run, rng.choice(_VERBS), rng.choice(MODELS), rng))
        await _unpin_all(run)
        run.served.clear()
        while run.goes_on() and not run.served.issuperset(run.wanted):
            await run.rest(0.05)
        await run.rest(rng.uniform(*_CALM))


async def _killer(run: Run, model: str, later: float) -> None:
    """Kills this model at fixed times, in turn by an administrator and by a signal. Only the signal makes a death that
    counts, and suspects. The model is loaded by an administrator before each of them, so that each is the first in a
    row: after the second, new requests would be refused for a while, after the fifth, all."""
    due = time.monotonic() + later
    for number in itertools.count():
        if not run.goes_on():
            return
        due += _KILL_EVERY
        await run.rest(max(0.0, due - time.monotonic()))
        if number % 2:
            response = await run.http.post(f"/admin/models/load/{model}")
            assert response.status_code == 200, response.text
            await run.http.post(f"/admin/models/unpin/{model}")
            run.figures.operator_loads += 1
            _send_signal(run, (await _pids(run))[model], DEADLY[(number // 2 + MODELS.index(model)) % len(DEADLY)])
        else:
            response = await run.http.post(f"/admin/models/kill/{model}")
            assert response.status_code in (200, 404), response.text
            run.figures.attacks["attack kill"] += response.status_code == 200


async def _pids(run: Run) -> dict[str, int]:
    """Of the models' processes, as the status names them."""
    status = (await run.http.get("/admin/models/status")).json()
    return {m["model_id"]: m["pid"] for m in status["models"] if m["pid"] is not None}


def _send_signal(run: Run, pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
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
        longest = LONG_ANSWER if kills else _SHORT_ANSWER
        try:
            service.start()
            figures = asyncio.run(run_chaos(service, seconds, seed, kills=kills, longest=longest))
        finally:
            service.stop()  # asserts that no process is left
    if kills:
        check_kills(figures)
    sys.stdout.write(f"{seconds:g} s, seed {seed}\n\n| what | count |\n| --- | --- |\n{figures.table()}\n")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), kills=sys.argv[3:] == ["kills"])
