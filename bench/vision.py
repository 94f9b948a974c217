"""Answers about images beside mlx_vlm.server: `python -m bench.vision [--rounds N]`.

A tiny random Qwen2-VL (float32, two layers of each part). One client, or eight, each ask several times about a picture
of 64 by 64 pixels that no request has had before; the two servers take turns. Prints a table, writes
bench/results/vision.json; see docs/benchmarks.md.
"""

import argparse
import asyncio
import base64
import signal
import sys
import time
from itertools import chain, count
from pathlib import Path
from typing import Any

import uvloop

from bench.calm import wait_until_calm
from bench.client import Answer, ask, stream
from bench.models import models_beside_vlm
from bench.results import save
from bench.servers import OURS, Server, ours, theirs
from bench.throughput import show
from bench.turns import Cell
from tests.tiny_vision import picture

VLM = "mlx_vlm.server"
_TOKENS = 128
_PIXELS = 64
# Clients -> requests of each client in a turn.
_REPEATS = {1: 8, 8: 4}

_numbers = count()


async def turn(server: Server, clients: int, cell: Cell) -> None:
    """All clients at once, each sends its requests one by one."""
    contents = [[_content(next(_numbers)) for _ in range(_REPEATS[clients])] for _ in range(clients)]
    before = server.cpu()
    began = time.monotonic()
    answers = await asyncio.gather(*(_ask_all(server, asked) for asked in contents))
    seconds = time.monotonic() - began
    cell.take_cpu(before, server.cpu())
    firsts = []
    for answer in chain.from_iterable(answers):
        events = answer.events()
        assert events.is_done
        assert events.error is None, events.error
        assert events.usage["completion_tokens"] == len(events.text) == _TOKENS, events.usage
        firsts.append((events.times[0] - answer.sent_at) * 1000)
        cell.gaps += [gap * 1000 for gap in events.gaps]
    cell.ended(_TOKENS * len(firsts), seconds, firsts)


async def _ask_all(server: Server, contents: list[object]) -> list[Answer]:
    return [await (await stream(server.port, f"{server.prefix}sees", content, _TOKENS)).ended() for content in contents]


def _content(number: int) -> object:
    data = base64.b64encode(picture(number, width=_PIXELS, height=_PIXELS)).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    return [{"type": "text", "text": f"What is this, {number}?"}, image]


async def run(models: Path, rounds: int) -> dict[str, Any]:
    """Figures by number of streams and server."""
    results: dict[str, Any] = {}
    with ours(models) as us, theirs(VLM, models / "sees") as them:
        await ask(us.port, "POST", "/admin/models/load/sees")
        for server in (us, them):
            await turn(server, 1, Cell())
        for streams in _REPEATS:
            cells = {OURS: Cell(), VLM: Cell()}
            for number in range(rounds):
                for server in (us, them) if number % 2 else (them, us):
                    wait_until_calm()
                    await turn(server, streams, cells[server.name])
            figures = {name: cell.summary() | cell.ours_to_this(cells[OURS]) for name, cell in cells.items()}
            results[str(streams)] = figures
            show(f"vision, {streams} streams", figures)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.vision", description="Vision beside mlx_vlm.server.")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that started processes end too
    with models_beside_vlm() as folder:
        print(save("vision", uvloop.run(run(folder, options.rounds))))
