"""What a long prompt costs those who stream: `python -m bench.prefill [--rounds N]`.

Four clients stream; then another sends a prompt of 6,000 tokens. mlx_lm.server and this project serve the same
random Llama (three layers, hidden size 96, a byte is a token) and take turns. Measures the rate of the streams and
their longest gap while the prompt is read, compared with the time before and after it, and the prompt's time to the
first token, compared with that of a prompt that is alone. Prints a table, writes bench/results/prefill.json; see
docs/benchmarks.md.
"""

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import time
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench.calm import wait_until_calm
from bench.client import Answer, ask, stream
from bench.models import long_model
from bench.results import save
from bench.servers import OURS, Server, ours, theirs

_PROMPT_TOKENS = 6000
_STREAMS = 4
_BEFORE_SECONDS = 3.0
# Until the sequence of the prompt has left.
_AFTER_SECONDS = 0.2
# Tokens of a stream that outlasts the measurement.
_TOKENS = 20_000


async def turn(server: Server, number: int) -> dict[str, float]:
    """One measurement; no prompt comes twice. Times in seconds, rates in tokens per second of all streams."""
    alone = await _first_token(server, f"alone {number}")
    streams = [await stream(server.port, server.prefix + "long", f"{number}, {n}", _TOKENS) for n in range(_STREAMS)]
    for one in streams:
        await one.started(20)
    began = time.monotonic()
    await asyncio.sleep(_BEFORE_SECONDS)
    asked = time.monotonic()
    beside = await _first_token(server, f"beside {number}")
    await asyncio.sleep(_BEFORE_SECONDS)
    for one in streams:
        one.leave()
    # Streams become slower by themselves as they become longer.
    after = asked + beside + _AFTER_SECONDS
    rate = (_rate(streams, began, asked) + _rate(streams, after, time.monotonic())) / 2
    return {
        "ttft_alone": alone,
        "ttft_beside": beside,
        "slower": beside / alone,
        "rate": rate,
        "rate_kept": _rate(streams, asked, asked + beside) / rate,
        "gap": max(chain.from_iterable(one.events().gaps_between(asked, asked + beside) for one in streams)),
    }


async def _first_token(server: Server, seed: str) -> float:
    """Seconds to the first token after a prompt of the given length."""
    letters = random.Random(seed)
    content = "".join(letters.choices("etaoin shrdlu", k=_PROMPT_TOKENS))
    answer = await (await stream(server.port, server.prefix + "long", content, 2)).ended()
    return answer.events().times[0] - answer.sent_at


def _rate(streams: list[Answer], begin: float, end: float) -> float:
    """Tokens are texts here: every token is a printable character."""
    texts = sum(
        sum(len(text) for text, at in zip(events.texts, events.times, strict=True) if begin < at <= end)
        for events in (one.events() for one in streams)
    )
    return texts / (end - begin)


async def run(models: Path, rounds: int) -> dict[str, Any]:
    turns: dict[str, list[dict[str, float]]] = {}
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(theirs("mlx_lm.server", models / "long")),
            stack.enter_context(ours(models)),
        ]
        for server in servers:
            if server.name == OURS:
                await ask(server.port, "POST", "/admin/models/load/long")
            await _first_token(server, "warm")
        for number in range(rounds):
            for server in servers:
                wait_until_calm()
                turns.setdefault(server.name, []).append(await turn(server, number))
    return {name: {key: [one[key] for one in of_one] for key in of_one[0]} for name, of_one in turns.items()}


def show(results: dict[str, dict[str, list[float]]]) -> None:
    print("medians: TTFT alone s, beside s, times, streams tok/s, kept, longest gap s")
    for name, row in results.items():
        keys = ("ttft_alone", "ttft_beside", "slower", "rate", "rate_kept")
        print(
            f"{name:16}" + "".join(f"{median(row[key]):9.2f}" for key in keys) + f"{max(row['gap']):9.2f}", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.prefill", description="Streams beside a long prompt.")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that started processes end too
    with long_model() as folder:
        figures = uvloop.run(run(folder, options.rounds))
        show(figures)
        print(save("prefill", figures))
