"""What a request costs: `python -m bench.request [--against CHECKOUT] [--pairs N] [--requests N]`.

Streamed chats of one token: nearly all that they cost is what a request costs beside its tokens. Microseconds of CPU
per request in gateway, broker and worker, and the time to the first token. A tiny text model, no chat twice, with a
connection for each request, one at a time and eight at once; and the echo engine, which does nothing for a request, so
also over kept connections, and one at a time with eight choices. --against: a second checkout of this project, with
which this one takes turns; then also the ratios of the pairs. Prints medians, writes bench/results/request.json.
"""

import argparse
import asyncio
import contextlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import uvloop

from bench.calm import wait_until_calm
from bench.client import Kept, ask, stream
from bench.models import bench_models
from bench.results import save
from bench.servers import Server, ours
from tests.service import ROOT

_ROLES = ("gateway", "broker", "worker")
_CONTENT = "What is the capital of France? " * 8
_numbers = itertools.count()


class Way(NamedTuple):
    """So many clients; is_kept: each keeps its connection; choices: `n` of each request, which is still one."""

    clients: int
    is_kept: bool
    choices: int = 1
    model: str = "echo"

    def __str__(self) -> str:
        ways = f"{self.clients} at once, {'kept connections' if self.is_kept else 'a connection each'}"
        ways = ways if self.model == "echo" else f"{self.model}, {ways}"
        return ways if self.choices == 1 else f"{ways}, {self.choices} choices each"


_WAYS = (
    *(Way(1, False, model="tiny"), Way(8, False, model="tiny")),
    *(Way(1, False), Way(1, True), Way(8, False), Way(8, True), Way(1, True, 8)),
)


@dataclass(slots=True)
class Turns:
    """cpu: microseconds per request of each turn, by role; first: milliseconds, the median of each turn."""

    cpu: dict[str, list[float]] = field(default_factory=lambda: {role: [] for role in (*_ROLES, "sum")})
    first: list[float] = field(default_factory=list)


async def turn(server: Server, way: Way, requests: int, turns: Turns) -> None:
    """So many requests, and what they cost."""
    each = requests // way.clients // way.choices
    before = server.cpu()
    clients = (
        _kept(server.port, each, way.choices) if way.is_kept else _connecting(server.port, way.model, each)
        for _ in range(way.clients)
    )
    first = [*await asyncio.gather(*clients)]
    after = server.cpu()
    cost = {role: (after[role] - before[role]) / (each * way.clients) * 1e6 for role in _ROLES}
    for role, value in (cost | {"sum": sum(cost.values())}).items():
        turns.cpu[role].append(value)
    turns.first.append(median(second * 1000 for one in first for second in one))


async def _connecting(port: int, model: str, count: int) -> list[float]:
    """Seconds to each first token. A text model remembers prompts, so each is a new one."""
    contents = [_CONTENT if model == "echo" else f"{next(_numbers)}: hello" for _ in range(count)]
    answers = [await (await stream(port, model, content, 1)).ended() for content in contents]
    assert all(answer.events().is_done for answer in answers)
    return [answer.times[0] - answer.sent_at for answer in answers]


async def _kept(port: int, count: int, choices: int) -> list[float]:
    client = await Kept.connect(port, "echo", _CONTENT, choices)
    try:
        return [await client.ask() for _ in range(count)]
    finally:
        client.leave()


async def run(checkouts: Sequence[Path], pairs: int, requests: int) -> dict[str, Any]:
    """Figures by way and checkout. The last checkout is compared with the one before it."""
    turns = {way: [Turns() for _ in checkouts] for way in _WAYS}
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(bench_models("tiny", with_smol=False))
        servers = [stack.enter_context(ours(models, root=checkout)) for checkout in checkouts]
        for server in servers:
            for way in (Way(8, True), Way(8, False, model="tiny")):
                await ask(server.port, "POST", f"/admin/models/load/{way.model}")
                await turn(server, way, 400, Turns())
        wait_until_calm()  # a spare imports, and counts as a worker
        for number in range(pairs):
            for way, sides in turns.items():
                order = [*zip(servers, sides, strict=True)]
                for server, side in order if number % 2 else reversed(order):
                    await turn(server, way, requests, side)
    return {str(way): _figures(sides) for way, sides in turns.items()}


def _figures(sides: Sequence[Turns]) -> dict[str, Any]:
    names = ("before", "now")[-len(sides) :]
    figures: dict[str, Any] = {
        name: {**{role: median(values) for role, values in side.cpu.items()}, "first_ms": median(side.first)}
        for name, side in zip(names, sides, strict=True)
    }
    if len(sides) == 2:
        before, now = ({**side.cpu, "first_ms": side.first} for side in sides)
        figures["ratio"] = {
            role: median(b / a for a, b in zip(before[role], now[role], strict=True) if a) for role in now
        }
    return figures


def show(figures: dict[str, Any]) -> None:
    print("µs of CPU per request: gateway, broker, worker, all three; ms to the first token")
    for way, rows in figures.items():
        print(way)
        for name, row in rows.items():
            digits = 3 if name == "ratio" else 0
            cpu = "".join(f"{row[role]:9.{digits}f}" for role in (*_ROLES, "sum"))
            print(f"  {name:8}{cpu}{row['first_ms']:9.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.request", description="What a request costs.")
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--requests", type=int, default=600, help="of each turn")
    options = parser.parse_args()
    checkouts = [*([options.against.resolve()] if options.against else []), ROOT]
    began = time.monotonic()
    result = uvloop.run(run(checkouts, options.pairs, options.requests))
    show(result)
    print(save("request", result), f"{time.monotonic() - began:.0f} s")
