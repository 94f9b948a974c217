"""Measures what isolation costs: `python -m bench.throughput [--runs N] [--rounds N] [TABLE ...]`.

The limit, mlx_lm.server, mlx_vlm.server and this project serve the same tiny model and take turns within one run, so
that a drift of the machine affects all of them; ratios are medians over the turns, and figures are medians over the
runs. Also measures two models at once, and the echo engine, which shows how much gateway and broker can relay. Every
text is compared with the limit's text; the echo engine's texts are compared with its texts for a single client. Prints
tables, writes bench/results/throughput.json; see docs/benchmarks.md.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench.calm import wait_until_calm
from bench.client import answers_per_second, ask, chat, send
from bench.models import SMOL, bench_models
from bench.results import save
from bench.servers import OURS, Limit, Server, ours, theirs
from bench.turns import Cell, Texts, alone, of_runs, plan, ratios, turn

TABLES = ("echo", "two_models", "tiny", "connected", "memory", "smol")
_TOKENS = 128
# Clients -> requests of each client in a turn.
_REPEATS = {1: 16, 8: 10, 32: 6}
_ECHO_STREAMS = (1, 8, 32, 64, 128, 256)
_ECHO_TOKENS = 512  # long enough for all streams to overlap, because this engine is much faster than a model
_IDLE_CLIENTS = 1000


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
    for name, cell in cells.items():
        result[name] |= cell.ours_to_this(cells[OURS])
    if len(limits) == 1:
        result["limit"] = {"tokens_per_second": median(bare)} | ratios(cells[OURS].rates, bare)
    return result


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
            bodies = [chat("echo", "Hello", 1, stream=False)] * streams
            requests[streams].append(await answers_per_second(server.port, "/v1/chat/completions", bodies))
    return {n: {**cell.summary(), "requests_per_second": median(requests[n])} for n, cell in cells.items()}


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


async def run(models: Path, tables: Sequence[str], rounds: int, *, with_vlm: bool) -> dict[str, Any]:
    """Measure these tables, with servers of their own, and print each at once. with_vlm: mlx_vlm.server, too."""
    results: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        us = stack.enter_context(ours(models))
        lm = stack.enter_context(theirs("mlx_lm.server", models / "a"))
        for model in ("a", "b", "echo"):
            await ask(us.port, "POST", f"/admin/models/load/{model}")
        if "echo" in tables:
            results["echo"] = await echo(us, rounds)
            show_echo(results["echo"])
        limits = {name: stack.enter_context(contextlib.closing(Limit(models / name))) for name in ("a", "b")}
        limit = {"a": limits["a"]}
        if "two_models" in tables:
            results["two_models"] = {}
            for streams in (2, 8):
                results["two_models"][streams] = await compare(limits, [lm, us], streams, 8, rounds)
                show(f"two models, {streams} streams", results["two_models"][streams])
        if "tiny" in tables:
            vlm = [stack.enter_context(theirs("mlx_vlm.server", models / "a"))] if with_vlm else []
            results["tiny"] = {}
            for streams, repeats in _REPEATS.items():
                results["tiny"][streams] = await compare(limit, [lm, *vlm, us], streams, repeats, rounds)
                show(f"tiny model, {streams} streams", results["tiny"][streams])
        if "connected" in tables:
            # mlx_lm.server accepts few connections at a time, so that some of many clients wait a second for the system
            # to retry. Connecting before the clock starts leaves that out.
            results["connected"] = {}
            for streams, repeats in _REPEATS.items():
                connected = await compare(limit, [lm, us], streams, repeats, rounds, is_connected=True)
                results["connected"][streams] = connected
                show(f"tiny model, {streams} streams, connected before", connected)
        if "memory" in tables:
            results["rss_mib"] = {role: size / 2**20 for role, size in us.rss().items()}
            results["idle_clients_mib"] = await idle_clients(us)
            print("RSS, MiB", results["rss_mib"], "for 1,000 idle clients", results["idle_clients_mib"])
    return results


async def run_smol(models: Path, rounds: int) -> dict[str, Any]:
    """The demo model's table."""
    results: dict[int, Any] = {}
    with contextlib.ExitStack() as stack:
        us = stack.enter_context(ours(models))
        lm = stack.enter_context(theirs("mlx_lm.server", models / SMOL))
        limit = stack.enter_context(contextlib.closing(Limit(models / SMOL)))
        for streams in (1, 4):
            results[streams] = await compare({SMOL: limit}, [lm, us], streams, 1, rounds, tokens=_TOKENS // 2)
            show(f"{SMOL}, {streams} streams", results[streams])
    return {"smol": results}


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


def main(tables: Sequence[str], runs: int, rounds: int) -> None:
    """The figures of several runs are their medians."""
    done: list[dict[str, Any]] = []
    with bench_models("a", "b", with_smol="smol" in tables) as models:
        if rest := [table for table in tables if table != "smol"]:
            for number in range(runs):
                print(f"\nrun {number + 1} of {runs}", flush=True)
                # No goal is about mlx_vlm.server here: it takes part in the first run only.
                done.append(uvloop.run(run(models, rest, rounds, with_vlm=number == 0)))
                print(save("throughput", of_runs(done)))
        if "smol" in tables:
            print(save("throughput", uvloop.run(run_smol(models, max(rounds, 2)))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description="What isolation costs.")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; all if none is named")
    parser.add_argument("--runs", type=int, default=3, help="each starts the servers anew")
    parser.add_argument("--rounds", type=int, default=3, help="of turns in each run")
    options = parser.parse_args()
    if unknown := {*options.tables} - {*TABLES}:
        parser.error(f"{min(unknown)} is not a table; tables are {', '.join(TABLES)}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that started processes end too
    main(options.tables or TABLES, options.runs, options.rounds)
