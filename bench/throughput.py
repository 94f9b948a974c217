"""Measures what isolation costs: `python -m bench.throughput [--smol] [--rounds N]`.

The limit, mlx_lm.server, mlx_vlm.server and this project serve the same tiny model and take turns within one run, so
that a drift of the machine affects all of them; ratios are medians over the turns. Also measures two models at once,
and the echo engine, which shows how much gateway and broker can relay. Every text is compared with the limit's text;
the echo engine's texts are compared with its texts for a single client. Prints tables, writes
bench/results/throughput.json; see docs/benchmarks.md.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import uvloop

from bench.calm import wait_until_calm
from bench.client import Answer, Repeated, ask, prepared_stream, send, stream
from bench.models import SMOL, bench_models
from bench.results import save
from bench.servers import OURS, Limit, Server, ours, theirs

_TOKENS = 128
# Clients -> requests of each client in a turn.
_REPEATS = {1: 16, 8: 12, 32: 8}
_ECHO_STREAMS = (1, 8, 32, 64, 128, 256)
_ECHO_TOKENS = 512  # long enough for all streams to overlap, because this engine is much faster than a model
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


# The requests of each client in order: (model, content).
Plan = list[list[tuple[str, str]]]
Texts = dict[tuple[str, str], str]


def plan(models: list[str], clients: int, repeats: int, turn: str) -> Plan:
    """Models take turns. No content occurs twice, because servers cache prompts."""
    return [
        [(models[client % len(models)], f"Hello {clients}, {turn}, {client}, {repeat}") for repeat in range(repeats)]
        for client in range(clients)
    ]


async def alone(server: Server, plans: Plan, tokens: int) -> Texts:
    """The texts of this server for each request, sent one at a time."""
    texts = {}
    for model, content in chain.from_iterable(plans):
        (answer,) = await _ask_all(server, [(model, content)], tokens)
        texts[model, content] = answer.events().text
    return texts


async def turn(
    server: Server, plans: Plan, tokens: int, texts: Texts, cell: Cell, *, is_connected: bool = False
) -> None:
    """All clients at once, each sends its requests one by one. is_connected: connect before the clock starts."""

    work: Iterable[Coroutine[Any, Any, list[Answer]]] = (_ask_all(server, asks, tokens) for asks in plans)
    if is_connected:
        work = [_send_all([await prepared_stream(*_addressed(server, ask), tokens) for ask in asks]) for asks in plans]
    before = server.cpu()
    began = time.monotonic()
    clients = await asyncio.gather(*work)
    seconds = time.monotonic() - began
    for role, total in server.cpu().items():
        cell.cpu[role] = cell.cpu.get(role, 0.0) + total - before.get(role, 0.0)
    count = 0
    for asked, answer in zip(chain.from_iterable(plans), chain.from_iterable(clients), strict=True):
        events = answer.events()
        assert events.is_done
        assert events.error is None, events.error
        assert events.text == texts[asked], f"{server.name}: {events.text!r} is not {texts[asked]!r}"
        count += events.usage["completion_tokens"]
        cell.ttft.append((events.times[0] - answer.sent_at) * 1000)
        cell.gaps += [gap * 1000 for gap in events.gaps]
    cell.tokens += count
    cell.rates.append(count / seconds)


async def _ask_all(server: Server, asks: list[tuple[str, str]], tokens: int) -> list[Answer]:
    return [await (await stream(*_addressed(server, ask), tokens)).ended() for ask in asks]


async def _send_all(answers: list[Answer]) -> list[Answer]:
    return [await answer.send().ended() for answer in answers]


def _addressed(server: Server, ask: tuple[str, str]) -> tuple[int, str, str]:
    """Port, this server's name of the model, content."""
    model, content = ask
    return server.port, server.prefix + model, content


async def compare(
    limits: dict[str, Limit],
    servers: list[Server],
    clients: int,
    repeats: int,
    rounds: int,
    *,
    tokens: int = _TOKENS,
    is_connected: bool = False,
) -> dict[str, dict[str, Any]]:
    """Let all servers take turns, `rounds` times; figures by name, with ratios to this project. limits: by model; a
    single limit is compared too, several limits only give the texts."""
    cells = {server.name: Cell() for server in servers}
    bare: list[float] = []
    for number in range(rounds):
        plans = plan([*limits], clients, repeats, f"{number}, {len(limits)}, {is_connected:d}")
        texts: Texts = {}
        for model, limit in limits.items():
            waves = [[content for name, content in wave if name == model] for wave in zip(*plans, strict=True)]
            wait_until_calm()
            rates, said = limit.measure(waves, tokens)
            bare.append(median(rates))
            asked = ((model, content) for content in chain.from_iterable(waves))
            texts |= dict(zip(asked, chain.from_iterable(said), strict=True))
        for server in servers:
            wait_until_calm()
            await turn(server, plans, tokens, texts, cells[server.name], is_connected=is_connected)
    result = {name: cell.summary() for name, cell in cells.items()}
    our_rates = cells[OURS].rates
    for name, cell in cells.items():
        result[name] |= _ratios(our_rates, cell.rates)
    if len(limits) == 1:
        result["limit"] = {"tokens_per_second": median(bare)} | _ratios(our_rates, bare)
    return result


def _ratios(our_rates: list[float], its_rates: list[float]) -> dict[str, Any]:
    """Median, lowest and highest ratio of the turns: a wide spread proves nothing."""
    ratios = [our / its for our, its in zip(our_rates, its_rates, strict=True)]
    return {"ours_to_this": median(ratios), "ours_to_this_range": (min(ratios), max(ratios))}


async def echo(server: Server, rounds: int) -> dict[int, dict[str, Any]]:
    """Tokens per second, and requests per second over persistent connections, by number of streams."""
    cells = {streams: Cell() for streams in _ECHO_STREAMS}
    requests: dict[int, list[float]] = {streams: [] for streams in _ECHO_STREAMS}
    for number in range(rounds):
        for streams, cell in cells.items():
            plans = plan(["echo"], streams, max(64 // streams, 2), str(number))
            texts = await alone(server, plans, _ECHO_TOKENS)
            wait_until_calm()
            await turn(server, plans, _ECHO_TOKENS, texts, cell)
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
    """Growth of broker and gateway in MiB with 1,000 clients that listen to events."""
    before = server.rss()
    clients = [await send(server.port, "GET", "/admin/events") for _ in range(_IDLE_CLIENTS)]
    for client in clients:
        await client.started()
    after = server.rss()
    for client in clients:
        client.leave()
    return {role: (after[role] - before[role]) / 2**20 for role in ("broker", "gateway")}


async def run(models: Path, rounds: int, *, with_smol: bool) -> dict[str, Any]:
    """Measure everything in the order of the tables, and print each table at once."""
    results: dict[str, Any] = {"tiny": {}, "connected": {}, "two_models": {}, "smol": {}}
    with contextlib.ExitStack() as stack:
        us = stack.enter_context(ours(models))
        lm = stack.enter_context(theirs("mlx_lm.server", models / "a"))
        for model in ("a", "b", "echo"):
            await ask(us.port, "POST", f"/admin/models/load/{model}")
        results["echo"] = await echo(us, rounds)
        show_echo(results["echo"])
        limits = {name: stack.enter_context(contextlib.closing(Limit(models / name))) for name in ("a", "b")}
        for streams in (2, 8):
            pair = await compare(limits, [lm, us], streams, 8, rounds)
            results["two_models"][streams] = pair
            show(f"two models, {streams} streams", pair)
        vlm = stack.enter_context(theirs("mlx_vlm.server", models / "a"))
        for streams, repeats in _REPEATS.items():
            limit = {"a": limits["a"]}
            results["tiny"][streams] = await compare(limit, [lm, vlm, us], streams, repeats, rounds)
            show(f"tiny model, {streams} streams", results["tiny"][streams])
            # mlx_lm.server accepts few connections at a time, so that some of many clients wait a second for the system
            # to retry. Connecting before the clock starts leaves that out.
            connected = await compare(limit, [lm, us], streams, repeats, rounds, is_connected=True)
            results["connected"][streams] = connected
            show(f"tiny model, {streams} streams, connected before", connected)
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
            results[streams] = await compare({SMOL: limit}, [lm, us], streams, 1, rounds, tokens=_TOKENS // 2)
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
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that started processes end too
    with bench_models("a", "b", with_smol=options.smol) as folder:
        print(save("throughput", uvloop.run(run(folder, options.rounds, with_smol=options.smol))))
