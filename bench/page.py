"""Measures what watching costs: `python -m bench.page [--seconds N] [--models N]`.

A service with loaded models, one of which answers a slow stream all the time. So many watchers do what the page does:
each reads the events and asks for the status every two seconds, with an answer that may be a second old. Prints the CPU
time of gateway and broker with them and without them, in turns, as a share of one core; see docs/page.md.
"""

import argparse
import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from tests.conftest import ECHO
from tests.service import Service, chat_body

_POLL_SECONDS = 2.0
_PAIRS = 3
_ROLES = ("gateway", "broker")


@contextlib.asynccontextmanager
async def watching(url: str, watchers: int, query: str) -> AsyncIterator[list[int]]:
    """Gives the number of answers that each watcher has had so far."""
    counts = [0] * watchers
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
        tasks = [asyncio.create_task(_poll(client, query, counts, number)) for number in range(watchers)]
        tasks += [asyncio.create_task(_read_events(client)) for _ in range(watchers)]
        try:
            yield counts
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _poll(client: httpx.AsyncClient, query: str, counts: list[int], number: int) -> None:
    # Pages are not opened at the same moment.
    await asyncio.sleep(_POLL_SECONDS * number / len(counts))
    while True:
        (await client.get(f"/admin/models/status{query}")).raise_for_status()
        counts[number] += 1
        await asyncio.sleep(_POLL_SECONDS)


async def _read_events(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/admin/events") as response:
        async for _piece in response.aiter_raw():
            pass


async def _talk(url: str, model: str) -> None:
    """One stream after the other, 20 tokens a second."""
    body = chat_body(model, "Hello", stream=True, max_tokens=10_000)
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        while True:
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                async for _piece in response.aiter_raw():
                    pass


async def _cpu_in(service: Service, seconds: float) -> dict[str, float]:
    """Shares of one core, by role."""
    assert service.gateway is not None
    assert service.broker is not None
    processes = {"gateway": psutil.Process(service.gateway.pid), "broker": psutil.Process(service.broker.pid)}
    before = {role: sum(process.cpu_times()[:2]) for role, process in processes.items()}
    await asyncio.sleep(seconds)
    return {role: (sum(process.cpu_times()[:2]) - before[role]) / seconds for role, process in processes.items()}


async def _pair(service: Service, seconds: float, watchers: int, query: str) -> dict[str, float]:
    """What so many watchers take, as a share of one core: with them less without them."""
    without = await _cpu_in(service, seconds)
    async with watching(service.url, watchers, query) as counts:
        await asyncio.sleep(_POLL_SECONDS * 2)
        begun = sum(counts)
        watched = await _cpu_in(service, seconds)
        expected = watchers * seconds / (_POLL_SECONDS + 0.1)
        assert sum(counts) - begun > expected * 0.8, "the watchers were not answered in time"
    return {role: watched[role] - without[role] for role in _ROLES}


async def measure(service: Service, models: list[str], seconds: float) -> None:
    """Prints a row for each way of watching."""
    talking = asyncio.create_task(_talk(service.url, models[0]))
    try:
        print(f"{len(models)} models loaded, one stream of 20 tokens/s; medians of {_PAIRS} pairs of {seconds:g} s")
        print("| watchers | answers | gateway | broker | together |\n| --- | --- | --- | --- | --- |")
        for watchers, query, what in (
            (20, "", "each its own"),
            (1, "?max_age=1", "shared"),
            (20, "?max_age=1", "shared"),
        ):
            pairs = [await _pair(service, seconds, watchers, query) for _ in range(_PAIRS)]
            shares = {role: median(pair[role] for pair in pairs) for role in _ROLES}
            together = median(sum(pair.values()) for pair in pairs)
            print(
                f"| {watchers} | {what} | {shares['gateway']:.2%} | {shares['broker']:.2%} | {together:.2%} |",
                flush=True,
            )
    finally:
        talking.cancel()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--models", type=int, default=4)
    options = parser.parse_args()
    names = [f"echo-{number}" for number in range(options.models)]
    echo: dict[str, Any] = {**ECHO, "options": {"delay_seconds": 0.05}}
    with tempfile.TemporaryDirectory(prefix="mlxb-") as directory:
        settings = {"broker": {"max_models": len(names)}, "models": dict.fromkeys(names, echo)}
        service = Service(Path(directory), settings)
        try:
            service.start()
            for name in names:
                service.load(name).raise_for_status()
            asyncio.run(measure(service, names, options.seconds))
        finally:
            service.stop()


if __name__ == "__main__":
    main()
