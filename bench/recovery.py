"""Measures what a death, a load and supervision cost: `python -m bench.recovery [--repeats N] [NAME ...]`.

Runs the real broker and gateway (the tests' kit) with tiny models, measures from a client's side, prints a table and
writes bench/results/recovery.json. NAME is the beginning of a measurement's name, such as `deaths` or `pauses_warm`.
Times are milliseconds. See docs/benchmarks.md.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import psutil
import uvloop

from bench.calm import wait_until_calm
from bench.client import Answer, Events, ask, stream
from bench.models import ECHO, SMOL, bench_models
from bench.results import save
from tests.service import ROOT, Service

# Name of a measurement -> milliseconds of each repetition.
Times = dict[str, list[float]]

_SECONDS_OF_SAMPLING = 10.0

# On a busy machine a whole answer can come in a few pieces, and has no middle then.
_ATTEMPTS = 5


@contextlib.contextmanager
def service(models: Path, spares: int, tables: dict[str, Any] | None = None, **broker: Any) -> Iterator[Service]:
    running = Service(models, {"broker": {"warm_spares": spares, **broker}, **(tables or {})})
    try:
        yield running.start()
    finally:
        running.stop()


class Pool:
    """The admin API of one service, as the benchmarks use it."""

    def __init__(self, port: int, spares: int) -> None:
        self.port = port
        self.spares = spares

    async def load(self, model: str) -> int:
        """Load the model, reset its deaths, unpin it; return the pid of its process."""
        await ask(self.port, "POST", f"/admin/models/load/{model}")
        await ask(self.port, "POST", f"/admin/models/unpin/{model}")
        return await self.pid(model)

    async def pid(self, model: str) -> int:
        """Of the model's process."""
        return int((await self.model(model))["pid"])

    async def unload(self, model: str) -> None:
        await ask(self.port, "POST", f"/admin/models/unload/{model}")

    async def spares_ready(self) -> None:
        """Wait until every spare has finished its imports."""
        while True:
            spares = (await self._status())["spares"]
            if [spare["state"] for spare in spares] == ["imported"] * self.spares:
                return
            await asyncio.sleep(0.05)

    async def rest(self) -> None:
        """Wait until the pool and the machine are idle; call it before a measurement."""
        await self.spares_ready()
        wait_until_calm()

    async def model(self, model: str) -> dict[str, Any]:
        """What the status says about it."""
        found: dict[str, Any] = next(m for m in (await self._status())["models"] if m["model_id"] == model)
        return found

    async def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = await ask(self.port, "GET", "/admin/models/status")
        return status


async def first_answer(pool: Pool, model: str, since: float) -> float:
    """Milliseconds from `since` until the first text of a new request."""
    events = (await (await stream(pool.port, model, "Are you there?", 32)).ended()).events()
    assert events.is_done
    assert events.error is None, events.error
    return (events.times[0] - since) * 1000


async def deaths(pool: Pool, repeats: int) -> Times:
    """A worker is killed in mid-stream, and a client asks again at once; that stream may not go on."""
    times: Times = {"error": [], "again": []}
    for _ in range(repeats):
        pid = await pool.load("a")
        await pool.rest()
        victim = await (await stream(pool.port, "a", "Hello", 20_000, resume=False)).started(50)
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        times["again"].append(await first_answer(pool, "a", killed_at))
        events = (await victim.ended()).events()
        assert events.is_done
        assert events.error is not None
        assert events.error["code"] == "worker_died"
        times["error"].append((events.error_at - killed_at) * 1000)
    return times


async def deaths_twice(pool: Pool, repeats: int) -> Times:
    """A worker is killed, and the next one when it has answered: the spare of then still imports."""
    times: Times = {"again": []}
    for _ in range(repeats):
        pid = await pool.load("a")
        await pool.rest()
        os.kill(pid, signal.SIGKILL)
        await first_answer(pool, "a", time.monotonic())
        pid, killed_at = await pool.pid("a"), time.monotonic()
        os.kill(pid, signal.SIGKILL)
        times["again"].append(await first_answer(pool, "a", killed_at))
    return times


async def pauses(pool: Pool, repeats: int) -> Times:
    """The longest gap of a stream of 128 tokens whose worker is killed after 40 of them, and of one whose worker
    lives."""
    times: Times = {"quiet": [], "killed": []}
    for _ in range(repeats):
        await pool.load("b")
        await pool.rest()
        events = (await (await stream(pool.port, "b", "Hello", 128)).ended()).events()
        assert events.is_done
        assert events.error is None, events.error
        times["quiet"].append(max(events.gaps) * 1000)
        await pool.rest()
        times["killed"].append(max((await resumed(pool, "b", signal.SIGKILL)).gaps) * 1000)
    return times


async def hangs(pool: Pool, repeats: int) -> Times:
    """The longest gap of a stream whose worker is stopped: to find that takes as long as a heartbeat may be missing."""
    times: Times = {"stopped": []}
    for _ in range(repeats):
        await pool.load("b")
        await pool.rest()
        times["stopped"].append(max((await resumed(pool, "b", signal.SIGSTOP)).gaps) * 1000)
    return times


async def resumed(
    pool: Pool, model: str, blow: signal.Signals, *, content: str = "Hello", tokens: int = 128, pieces: int = 40
) -> Events:
    """A stream whose worker gets this signal after so many pieces. Raises AssertionError unless it has gone on in
    another process and its longest gap has ended after the signal."""
    before = await pool.model(model)
    victim = await _in_its_middle(pool, model, content, tokens, pieces)
    struck_at = time.monotonic()
    os.kill(before["pid"], blow)
    events = (await victim.ended()).events()
    after = await pool.model(model)
    assert events.is_done
    assert events.error is None, events.error
    assert after["pid"] != before["pid"], f"{model} has the same process"
    assert after["resumes"] == before["resumes"] + 1, f"{after['resumes'] - before['resumes']} streams went on"
    assert events.times[events.gaps.index(max(events.gaps)) + 1] > struck_at, "its longest gap was before the signal"
    return events


async def _in_its_middle(pool: Pool, model: str, content: str, tokens: int, pieces: int) -> Answer:
    """Ask for a stream, and wait until so many pieces of it have come."""
    for _ in range(_ATTEMPTS):
        answer = await stream(pool.port, model, content, tokens)
        if await answer.has_started(pieces):
            return answer
    raise AssertionError(f"{tokens} tokens come in fewer than {pieces} pieces")


async def loads(pool: Pool, repeats: int, model: str = "c") -> Times:
    """A client asks a model that is not loaded."""
    times: Times = {"first": []}
    for _ in range(repeats):
        await pool.rest()
        times["first"].append(await first_answer(pool, model, time.monotonic()))
        await pool.unload(model)
    return times


async def neighbour(pool: Pool, repeats: int) -> Times:
    """The longest gap in a stream of B while A dies and comes back, and while C is loaded."""
    times: Times = {"median": [], "quiet": [], "death": [], "load": []}
    await pool.load("b")
    for _ in range(repeats):
        pid = await pool.load("a")
        await pool.rest()
        b = await (await stream(pool.port, "b", "Hello", 50_000)).started(50)
        marks = [time.monotonic()]
        await asyncio.sleep(1.0)
        for name in ("a", "c"):
            marks.append(time.monotonic())
            if name == "a":
                os.kill(pid, signal.SIGKILL)
            await first_answer(pool, name, marks[-1])
            if pool.spares:
                await asyncio.sleep(1.0)  # a new one is started a while after the load
            await pool.spares_ready()
        marks.append(time.monotonic())
        await b.started(len(b.pieces) + 1)
        b.leave()
        events = b.events()
        for what, (begin, end) in zip(("quiet", "death", "load"), pairwise(marks), strict=True):
            gaps = events.gaps_between(begin, end)
            times[what].append(max(gaps) * 1000)
            if what == "quiet":
                times["median"].append(median(gaps) * 1000)
        await pool.unload("c")
    return times


async def smol(pool: Pool, repeats: int, models: Path) -> Times:
    """First text and whole answer of a real model that is not loaded, compared with mlx-lm alone."""
    content, tokens = "What is the capital of France?", 2
    times: Times = {"first": [], "whole": [], "least_first": [], "least_whole": [], "over": []}
    # The first load after an installation finds out what batches may share, which is then remembered.
    await pool.load(SMOL)
    await pool.unload(SMOL)
    for _ in range(repeats):
        await pool.rest()
        answer = await (await stream(pool.port, SMOL, content, tokens)).ended()
        events = answer.events()
        await pool.unload(SMOL)
        await pool.rest()
        least = await _reference(models / SMOL, content, tokens)
        assert events.text == least["text"], f"{events.text!r} is not {least['text']!r}"
        times["first"].append((events.times[0] - answer.sent_at) * 1000)
        times["whole"].append((events.ended_at - answer.sent_at) * 1000)
        times["least_first"].append(least["first"] * 1000)
        times["least_whole"].append(least["whole"] * 1000)
        times["over"].append(times["whole"][-1] - times["least_whole"][-1])
    return times


async def smol_pause(pool: Pool, repeats: int, models: Path) -> Times:
    """The longest gap of a real model's stream whose worker is killed, over loading and reading the prompt and what was
    said before with mlx-lm alone: no cache holds them."""
    content, tokens = "Tell me a long story about a fox.", 64
    times: Times = {"gap": [], "least": [], "over": []}
    for _ in range(repeats):
        await pool.load(SMOL)
        await pool.rest()
        events = await resumed(pool, SMOL, signal.SIGKILL, content=content, tokens=tokens, pieces=20)
        await pool.rest()
        gap = max(events.gaps)
        said = "".join(events.texts[: events.gaps.index(gap) + 1])
        least = await _reference(models / SMOL, content, 1, said)
        times["gap"].append(gap * 1000)
        times["least"].append(least["first"] * 1000)
        times["over"].append(times["gap"][-1] - times["least"][-1])
    return times


async def _reference(folder: Path, content: str, tokens: int, said: str = "") -> dict[str, Any]:
    command = ("-m", "bench.reference_load", str(folder), content, str(tokens), said)
    process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    result: dict[str, Any] = orjson.loads(output)
    return result


def sampling(models: Path, repeats: int) -> Times:
    """CPU of the broker in percent of a core, with 8 idle workers, with memory samples and without."""
    names = [f"echo-{n}" for n in range(8)]
    tables = {"models": dict.fromkeys(names, ECHO)}
    shares: Times = {"with": [], "without": [], "cost": []}
    for _ in range(repeats):
        for what, seconds in (("with", 1.0), ("without", 3600.0)):
            with service(models, 0, tables, max_models=8, memory_sample_seconds=seconds) as running:
                for name in names:
                    running.load(name).raise_for_status()
                assert running.broker is not None
                wait_until_calm()
                broker = psutil.Process(running.broker.pid)
                before = sum(broker.cpu_times()[:2])
                time.sleep(_SECONDS_OF_SAMPLING)
                shares[what].append((sum(broker.cpu_times()[:2]) - before) / _SECONDS_OF_SAMPLING * 100)
        shares["cost"].append(shares["with"][-1] - shares["without"][-1])
    return shares


def main(names: list[str], repeats: int) -> None:
    def run(name: str, models: Path, spares: int, measure: Callable[[Pool], Coroutine[Any, Any, Times]]) -> None:
        if not names or any(name.startswith(wanted) for wanted in names):
            with service(models, spares) as running:
                times = uvloop.run(measure(Pool(running.port, spares)))
            _show(name, times)
            save("recovery", {name: times})

    with bench_models("a", "b", "c", with_smol=not names or any(n.startswith("smol") for n in names)) as models:
        for spares, how in ((1, "warm"), (0, "cold")):
            run(f"deaths_{how}", models, spares, lambda pool: deaths(pool, repeats))
            if spares:
                run("deaths_twice", models, spares, lambda pool: deaths_twice(pool, repeats))
            run(f"pauses_{how}", models, spares, lambda pool: pauses(pool, 2 * repeats))
            run(f"loads_{how}", models, spares, lambda pool: loads(pool, repeats))
            run(f"neighbour_{how}", models, spares, lambda pool: neighbour(pool, repeats))
        run("hangs", models, 1, lambda pool: hangs(pool, max(repeats // 5, 1)))
        run("smol", models, 1, lambda pool: smol(pool, max(repeats // 2, 1), models))
        run("smol_pause", models, 1, lambda pool: smol_pause(pool, max(repeats // 2, 1), models))
        if not names or "sampling" in names:
            times = sampling(models, max(repeats // 3, 1))
            _show("sampling", times)
            save("recovery", {"sampling": times})


def _show(name: str, times: Times) -> None:
    for what, values in times.items():
        print(
            f"{name:15} {what:12} median {median(values):9.2f}  from {min(values):.2f} to {max(values):.2f}", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description="What a death and a load cost.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="deaths, pauses, hangs, loads, neighbour, smol or sampling; all if none is named",
    )
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that started processes end too
    main(options.names, options.repeats)
