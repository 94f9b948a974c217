"""What isolation costs: `python -m bench.throughput [--smol] [--rounds N]`.

The limit, mlx_lm.server, mlx_vlm.server and this project serve the same tiny model and take turns within one run, so
that a machine that drifts does so for all of them; ratios are medians over the turns. Then two models at once, and the
echo engine, which shows what gateway and broker can relay. Every text is compared with what the same server says when
nobody else asks. Prints tables, writes bench/results/throughput.json. See docs/benchmarks.md.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import uvloop

from bench.calm import wait_until_calm
from bench.client import Repeated, ask, send, stream
from bench.models import SMOL, bench_models
from bench.results import save
from bench.servers import OURS, Limit, Server, ours, theirs

_TOKENS = 128
# Requests at once -> how often in each turn.
_WAVES = {1: 8, 8: 4, 32: 2}
_ECHO_STREAMS = (1, 8, 32, 64, 128, 256)
_ECHO_TOKENS = 512  # long enough for all streams to be there at once, the engine being much faster than a model
_IDLE_CLIENTS = 1000


@dataclass(slots=True)
class Cell:
    """One server at one number of streams. rates: tokens per second of each turn; times in milliseconds; cpu: seconds
    by role."""

    rates: list[float] = field(default_factory=list)
    ttft: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    cpu: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        cpu = {role: seconds / self.tokens * 1000 for role, seconds in self.cpu.items()}
        return {
            "tokens_per_second": median(self.rates),
            "ttft_ms": _percentiles(self.ttft),
            "gap_ms": _percentiles(self.gaps),
            "cpu_seconds_per_1000_tokens": cpu,
            "cpu_outside_worker": sum(seconds for role, seconds in cpu.items() if role != "worker"),
        }


class Load:
    """The same requests for every server: one content per stream, models in turn."""

    def __init__(self, models: list[str], streams: int, tokens: int) -> None:
        self.asks = [(models[n % len(models)], f"Hello {n}") for n in range(streams)]
        self.tokens = tokens
        self._alone: dict[tuple[str, str, str], str] = {}

    async def prepare(self, server: Server) -> None:
        """What this server says to each request when nobody else asks."""
        for model, content in self.asks:
            answer = await (await stream(server.port, server.prefix + model, content, self.tokens)).ended()
            self._alone[server.name, model, content] = answer.events().text

    async def turn(self, server: Server, waves: int, cell: Cell) -> None:
        """All requests at once, this many times."""
        tokens, seconds = 0, 0.0
        before = server.cpu()
        answers = []
        for _ in range(waves):
            began = time.monotonic()
            wave = [
                await stream(server.port, server.prefix + model, content, self.tokens) for model, content in self.asks
            ]
            for answer in wave:
                await answer.ended()
            seconds += time.monotonic() - began
            answers += [*zip(self.asks, wave, strict=True)]
        for role, total in server.cpu().items():
            cell.cpu[role] = cell.cpu.get(role, 0.0) + total - before.get(role, 0.0)
        for (model, content), answer in answers:
            events = answer.events()
            assert events.is_done
            assert events.error is None, events.error
            alone = self._alone[server.name, model, content]
            assert events.text == alone, f"{server.name}: {events.text!r} is not {alone!r}"
            tokens += events.usage["completion_tokens"]
            cell.ttft.append((events.times[0] - answer.sent_at) * 1000)
            cell.gaps += [gap * 1000 for gap in events.gaps]
        cell.tokens += tokens
        cell.rates.append(tokens / seconds)


async def compare(
    limit: Limit | None, servers: list[Server], load: Load, waves: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Turns of all, `rounds` times; by name, with the ratios to this project."""
    cells = {server.name: Cell() for server in servers}
    limits: list[float] = []
    contents = [content for _, content in load.asks]
    for server in servers:
        await load.prepare(server)
    for _ in range(rounds):
        if limit is not None:
            wait_until_calm()
            limits.append(median(limit.measure(contents, load.tokens, waves)))
        for server in servers:
            wait_until_calm()
            await load.turn(server, waves, cells[server.name])
    result = {name: cell.summary() for name, cell in cells.items()}
    our_rates = cells[OURS].rates
    for name, cell in cells.items():
        result[name]["ours_to_this"] = median(our / its for our, its in zip(our_rates, cell.rates, strict=True))
    if limit is not None:
        ratio = median(our / its for our, its in zip(our_rates, limits, strict=True))
        result["limit"] = {"tokens_per_second": median(limits), "ours_to_this": ratio}
    return result


async def echo(server: Server, rounds: int) -> dict[int, dict[str, Any]]:
    """Tokens per second, and whole requests per second over connections that stay, by number of streams."""
    cells = {streams: Cell() for streams in _ECHO_STREAMS}
    loads = {streams: Load(["echo"], streams, _ECHO_TOKENS) for streams in _ECHO_STREAMS}
    requests: dict[int, list[float]] = {streams: [] for streams in _ECHO_STREAMS}
    for load in loads.values():
        await load.prepare(server)
    for _ in range(rounds):
        for streams, cell in cells.items():
            wait_until_calm()
            await loads[streams].turn(server, max(64 // streams, 2), cell)
            requests[streams].append(await _requests_per_second(server.port, streams))
    return {n: {**cell.summary(), "requests_per_second": median(requests[n])} for n, cell in cells.items()}


async def _requests_per_second(port: int, connections: int, seconds: float = 1.0) -> float:
    clients = [await Repeated.connect(port, "echo", "Hello") for _ in range(connections)]
    before = sum(client.count for client in clients)
    began = time.monotonic()
    await asyncio.sleep(seconds)
    count, took = sum(client.count for client in clients) - before, time.monotonic() - began
    for client in clients:
        client.leave()
    return count / took


async def idle_clients(server: Server) -> dict[str, float]:
    """MiB that broker and gateway grow by for 1,000 clients that listen to events."""
    before = server.rss()
    clients = [await send(server.port, "GET", "/admin/events") for _ in range(_IDLE_CLIENTS)]
    for client in clients:
        await client.started()
    after = server.rss()
    for client in clients:
        client.leave()
    return {role: (after[role] - before[role]) / 2**20 for role in ("broker", "gateway")}


async def run(models: Path, rounds: int, *, with_smol: bool) -> dict[str, Any]:
    """Everything, in the order of the tables; what has been measured is shown at once."""
    results: dict[str, Any] = {"tiny": {}, "two_models": {}, "smol": {}}
    with contextlib.ExitStack() as stack:
        us = stack.enter_context(ours(models))
        lm = stack.enter_context(theirs("mlx_lm.server", models / "a"))
        for model in ("a", "b", "echo"):
            await ask(us.port, "POST", f"/admin/models/load/{model}")
        results["echo"] = await echo(us, rounds)
        show_echo(results["echo"])
        for streams in (2, 8):
            pair = await compare(None, [lm, us], Load(["a", "b"], streams, _TOKENS), 2, rounds)
            results["two_models"][streams] = pair
            show(f"two models, {streams} streams", pair)
        vlm = stack.enter_context(theirs("mlx_vlm.server", models / "a"))
        limit = stack.enter_context(contextlib.closing(Limit(models / "a")))
        for streams, waves in _WAVES.items():
            load = Load(["a"], streams, _TOKENS)
            results["tiny"][streams] = await compare(limit, [lm, vlm, us], load, waves, rounds)
            show(f"tiny model, {streams} streams", results["tiny"][streams])
        results["rss_mib"] = {role: size / 2**20 for role, size in us.rss().items()}
        results["idle_clients_mib"] = await idle_clients(us)
        print("RSS, MiB", results["rss_mib"], "for 1,000 idle clients", results["idle_clients_mib"])
    if with_smol:
        results["smol"] = await run_smol(models, max(rounds // 2, 2))
    return results


async def run_smol(models: Path, rounds: int) -> dict[int, Any]:
    results = {}
    with contextlib.ExitStack() as stack:
        us = stack.enter_context(ours(models))
        lm = stack.enter_context(theirs("mlx_lm.server", models / SMOL))
        limit = stack.enter_context(contextlib.closing(Limit(models / SMOL)))
        for streams in (1, 4):
            results[streams] = await compare(limit, [lm, us], Load([SMOL], streams, _TOKENS // 2), 1, rounds)
            show(f"{SMOL}, {streams} streams", results[streams])
    return results


def show(title: str, result: dict[str, dict[str, Any]]) -> None:
    print(f"\n{title}: tok/s, ours / its, TTFT p50 p99 ms, gap p50 p99 ms, CPU s per 1,000 tokens, outside the worker")
    for name, row in result.items():
        line = f"{name:16}{row['tokens_per_second']:9.0f}{row['ours_to_this']:7.2f}"
        if "ttft_ms" in row:
            times = [*row["ttft_ms"], *row["gap_ms"]]
            cpu = sum(row["cpu_seconds_per_1000_tokens"].values()), row["cpu_outside_worker"]
            line += "".join(f"{value:9.2f}" for value in times) + "".join(f"{value:8.3f}" for value in cpu)
        print(line, flush=True)


def show_echo(result: dict[int, dict[str, Any]]) -> None:
    print("\necho engine: streams, tok/s, requests/s, gap p99 ms, CPU s per 1,000 tokens by role")
    for streams, row in result.items():
        cpu = ", ".join(f"{role} {value:.3f}" for role, value in row["cpu_seconds_per_1000_tokens"].items())
        line = f"{streams:8}{row['tokens_per_second']:9.0f}{row['requests_per_second']:9.0f}{row['gap_ms'][1]:9.2f}"
        print(f"{line}   {cpu}", flush=True)


def _percentiles(values: list[float]) -> tuple[float, float]:
    """50 and 99."""
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description="What isolation costs.")
    parser.add_argument("--smol", action="store_true", help="the demo model too; slow")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # what was started ends too
    with bench_models("a", "b", with_smol=options.smol) as folder:
        print(save("throughput", uvloop.run(run(folder, options.rounds, with_smol=options.smol))))
