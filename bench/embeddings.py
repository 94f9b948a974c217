"""Embeddings beside mlx_vlm.server: `python -m bench.embeddings [--rounds N]`.

all-MiniLM-L6-v2 with its real weights. One client, or eight, each repeat a sentence of its own over a kept connection;
the two servers take turns. Their vectors are compared first. Prints vectors per second and the median ratio of the
turns, writes bench/results/embeddings.json; see docs/benchmarks.md.
"""

import argparse
import signal
import sys
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench.calm import wait_until_calm
from bench.client import answers_per_second, ask
from bench.models import models_beside_vlm
from bench.results import save
from bench.servers import OURS, Server, ours, theirs
from bench.turns import ratios

VLM = "mlx_vlm.server"
_PATH = "/v1/embeddings"
_SENTENCES = [
    f"{who} {what}."
    for who, what in zip(
        ("A cat", "The old clock in the hall", "My neighbour", "Rain", "The committee", "Nobody", "A train", "She"),
        (
            "sits on the mat and looks at the birds outside",
            "strikes twelve",
            "has painted his fence green this spring, as he does every other year",
            "is expected in the north tomorrow",
            "could not agree on a date for its next meeting",
            "knows where the key to the cellar is",
            "to the coast leaves every hour from platform four",
            "reads the paper",
        ),
        strict=True,
    )
]
# A vector has length 1.
_TOLERANCE = 1e-4


async def run(models: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Figures by number of clients."""
    results: dict[str, Any] = {}
    with ours(models) as us, theirs(VLM, models / "embeds") as them:
        await ask(us.port, "POST", "/admin/models/load/embeds")
        one, other = [await _vectors(server) for server in (us, them)]
        for mine, its in zip(one, other, strict=True):
            assert max(abs(a - b) for a, b in zip(mine, its, strict=True)) < _TOLERANCE
        for clients in (1, 8):
            rates: dict[str, list[float]] = {OURS: [], VLM: []}
            for number in range(rounds):
                for server in (us, them) if number % 2 else (them, us):
                    wait_until_calm()
                    bodies = [_body(server, sentence) for sentence in _SENTENCES[:clients]]
                    rates[server.name].append(await answers_per_second(server.port, _PATH, bodies, seconds))
            per_second = {name: median(of_one) for name, of_one in rates.items()}
            results[str(clients)] = {"per_second": per_second} | ratios(rates[OURS], rates[VLM])
            show(clients, results[str(clients)])
    return results


async def _vectors(server: Server) -> list[list[float]]:
    return [
        (await ask(server.port, "POST", _PATH, _body(server, sentence)))["data"][0]["embedding"]
        for sentence in _SENTENCES
    ]


def _body(server: Server, sentence: str) -> dict[str, str]:
    return {"model": f"{server.prefix}embeds", "input": sentence}


def show(clients: int, row: dict[str, Any]) -> None:
    rates = ", ".join(f"{name} {rate:.1f}/s" for name, rate in row["per_second"].items())
    low, high = row["ours_to_this_range"]
    print(f"embeddings, {clients} clients: {rates}, ours / its {row['ours_to_this']:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.embeddings", description="Embeddings beside mlx_vlm.server.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that started processes end too
    with models_beside_vlm() as folder:
        print(save("embeddings", uvloop.run(run(folder, options.rounds, options.seconds))))
