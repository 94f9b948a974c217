"""What an idle service takes of memory: `python -m bench.memory [--seconds N]`.

The proportional set size (PSS) of broker and gateway, and of a worker whose tiny model weighs next to nothing, so many
seconds after the start, in MiB. A page that several processes share counts in parts. Linux only: macOS has no such
figure. Prints a table, writes bench/results/memory.json; see docs/benchmarks.md.
"""

import argparse
import time
from typing import Any

import psutil

from bench.models import bench_models
from bench.recovery import service
from bench.results import save
from tests.service import Service


def measure(running: Service, seconds: float) -> dict[str, Any]:
    """With one spare, as shipped."""
    running.load("a").raise_for_status()
    time.sleep(seconds)
    assert running.broker is not None
    assert running.gateway is not None
    model = running.model("a")
    worker = _pss(model["pid"])
    parts = {"broker": _pss(running.broker.pid), "gateway": _pss(running.gateway.pid)}
    return {**parts, "worker_over_weights": worker, "broker_and_gateway": sum(parts.values())}


def _pss(pid: int) -> float:
    return float(psutil.Process(pid).memory_full_info().pss) / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="What an idle service takes of memory.")
    parser.add_argument("--seconds", type=float, default=60.0, help="after the start")
    options = parser.parse_args()
    with bench_models("a", with_smol=False) as models, service(models, 1) as running_service:
        figures = measure(running_service, options.seconds)
    for name, size in figures.items():
        print(f"{name:20}{size:7.1f} MiB PSS")
    print(save("memory", figures))
