"""Measures what records of requests and scrapes cost: `python -m bench.metrics [--pairs N]`.

One broker and one echo worker serve two gateways: one as it is, and one that keeps no records (bench/unrecorded.py).
The same streams go through one, then through the other, then again through the first one while it is scraped every
second; the order alternates. Compared is the processor time of the gateway's process per token. Prints the differences
of the turns as median and quartiles, and what a record adds to writing a token alone; writes
bench/results/metrics.json. docs/metrics.md has the table.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest import mock

import uvloop

from bench.calm import wait_until_calm
from bench.client import send, stream
from bench.results import save
from bench.servers import Server, gateway_of, ours
from gateway.core.answer import Delta, End
from gateway.core.served import Served
from gateway.http.streaming import AnswerStream
from gateway.link.call import Call
from gateway.openai.replies import Chunks, Head

_STREAMS, _REPEATS, _TOKENS = 32, 8, 512
_SCRAPE_SECONDS = 1.0
_WRITES = 3000  # to each stream


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


def alone(pairs: int) -> list[float]:
    """What a record adds to writing a token, in this process and without a service: microseconds, by pairs."""
    streams = [_open_stream() for _ in range(_STREAMS)]

    def write() -> float:
        output: list[tuple[int, Delta | End]] = [(0, Delta(" token"))]
        began = time.thread_time()
        for _ in range(_WRITES):
            for stream_ in streams:
                stream_._write(output)  # noqa: SLF001 # the shortcut of nearly every token
        return (time.thread_time() - began) / (_WRITES * _STREAMS) * 1e6

    hear, differences = Served.hear, []
    for number in range(pairs):
        took: dict[bool, float] = {}
        for is_recorded in (True, False) if number % 2 else (False, True):
            with mock.patch.object(Served, "hear", hear if is_recorded else _hear_nothing):
                took[is_recorded] = write()
        differences.append(took[True] - took[False])
    return differences


def _open_stream() -> AnswerStream[Delta | End]:
    call: Call[Delta | End] = Call(1, lambda _call, _failure: None)
    opened = AnswerStream(call, Chunks(Head("x", "echo", 1, is_chat=True), 1, include_usage=False), 10.0, str)
    opened._loop, opened._pipe = asyncio.get_running_loop(), _Nowhere()  # noqa: SLF001 # as after its first output
    opened._served = Served("POST", 0.0, units=1)  # noqa: SLF001
    opened._served.hear(time.monotonic(), 1)  # noqa: SLF001
    return opened


class _Nowhere:
    """A Pipe."""

    is_open = True

    def write(self, body: bytes) -> None:
        """Nothing."""

    def cut(self) -> None:
        """Nothing."""

    def when_gone(self, call: Callable[[], None] | None) -> None:
        """Never."""


def _hear_nothing(_self: Served, _now: float, _count: int) -> None:
    pass


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
    added = alone(2 * pairs)
    print(f"{_STREAMS} streams, {pairs} turns each, µs of processor time per token in the gateway")
    for kind, values in turns.items():
        print(f"{kind:10}", _said(values))
    for kind in ("with", "scraped"):
        differences = [one - other for one, other in zip(turns[kind], turns["without"], strict=True)]
        print(f"{kind:10} - without", _said(differences))
    print("with - without, writing alone", _said(added))
    print(save("metrics", {"turns": turns, "alone": added}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=10)
    sys.exit(uvloop.run(_main(parser.parse_args().pairs)))
