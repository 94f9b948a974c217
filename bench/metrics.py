"""Measures what records of requests and scrapes cost: `python -m bench.metrics [--pairs N]`.

One broker and one echo worker serve two gateways: one as it is, and one that keeps no records (bench/unrecorded.py).
The same streams go through one, then through the other, then again through the first one while it is scraped every
second; the order alternates. Compared is the processor time of the gateway's process per token. Prints the differences
of the turns as median and quartiles, and what `Served.hear` takes alone; writes bench/results/metrics.json.
docs/metrics.md has the table.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
import timeit
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import uvloop

from bench.calm import wait_until_calm
from bench.client import send, stream
from bench.results import save
from bench.servers import Server, gateway_of, ours
from gateway.core.served import Served

_STREAMS, _REPEATS, _TOKENS = 32, 8, 512
_SCRAPE_SECONDS = 1.0
_HEARS = 1_000_000


async def turn(gateway: Server) -> float:
    """Microseconds of processor time per token, in this gateway."""
    before = _cpu(gateway)
    counts = await asyncio.gather(*(_ask_all(gateway.port, client) for client in range(_STREAMS)))
    return (_cpu(gateway) - before) / sum(counts) * 1e6


async def _ask_all(port: int, client: int) -> int:
    tokens = 0
    for repeat in range(_REPEATS):
        answer = await (await stream(port, "echo", f"Hello {client} {repeat}", _TOKENS)).ended()
        events = answer.events()
        assert events.is_done
        assert events.error is None, events.error
        tokens += events.usage["completion_tokens"]
    return tokens


def _cpu(gateway: Server) -> float:
    return sum(gateway.process.cpu_times()[:2])


@contextlib.asynccontextmanager
async def scraped(gateway: Server) -> AsyncIterator[None]:
    """Every second, as no Prometheus does more often."""

    async def scrape() -> None:
        while True:
            answer = await (await send(gateway.port, "GET", "/metrics")).ended()
            assert answer.status == 200, answer.raw
            await asyncio.sleep(_SCRAPE_SECONDS)

    scraping = asyncio.create_task(scrape())
    try:
        yield
        assert not scraping.done(), scraping
    finally:
        scraping.cancel()


async def measure(recorded: Server, unrecorded: Server, pairs: int) -> dict[str, Any]:
    """Figures by kind of turn, in microseconds per token."""
    for gateway in (recorded, unrecorded):  # everything is loaded and imported
        await turn(gateway)
    turns: dict[str, list[float]] = {"without": [], "with": [], "scraped": []}
    for number in range(pairs):
        wait_until_calm()
        kinds = list(turns)
        for kind in kinds if number % 2 else reversed(kinds):
            if kind == "scraped":
                async with scraped(recorded):
                    turns[kind].append(await turn(recorded))
            else:
                turns[kind].append(await turn(recorded if kind == "with" else unrecorded))
    return turns


def hear_alone() -> float:
    """Microseconds of one call, the clock that it needs included."""
    served, now = Served("", 0.0, units=1), time.monotonic
    served.hear(now(), 1)
    return timeit.timeit(lambda: served.hear(now(), 1), number=_HEARS) / _HEARS * 1e6


def _said(values: list[float]) -> str:
    low, _middle, high = quantiles(values, n=4)
    return f"{median(values):.2f} ({low:.2f} to {high:.2f})"


async def _main(pairs: int) -> None:
    with (
        tempfile.TemporaryDirectory() as models,
        ours(Path(models)) as server,
        gateway_of(server, "gateway", access_log="false") as recorded,
        gateway_of(server, "bench.unrecorded", access_log="false") as unrecorded,
    ):
        turns = await measure(recorded, unrecorded, pairs)
    alone = hear_alone()
    print(f"{_STREAMS} streams, {pairs} turns each, µs of processor time per token in the gateway")
    for kind, values in turns.items():
        print(f"{kind:10}", _said(values))
    for kind in ("with", "scraped"):
        differences = [one - other for one, other in zip(turns[kind], turns["without"], strict=True)]
        print(f"{kind:10} - without", _said(differences))
    print(f"Served.hear alone {alone:.2f}")
    print(save("metrics", {"turns": turns, "hear_alone": alone}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=10)
    sys.exit(uvloop.run(_main(parser.parse_args().pairs)))
