"""Measures what it costs that answers can go on: `python -m bench.going_on [--pairs N]`.

One service; the same streams of a tiny model with `resume` and without, one after the other, in changing order.
Compared is the processor time of gateway, broker and worker together per token. Prints each part's difference of the
turns as median and quartiles; writes bench/results/going_on.json.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from statistics import median, quantiles

import psutil
import uvloop

from bench.calm import wait_until_calm
from bench.client import stream
from bench.models import ECHO
from bench.recovery import service
from bench.results import save
from tests.service import Service

_STREAMS, _REPEATS, _TOKENS = 16, 4, 512

# Name of a process -> seconds of processor time.
Seconds = dict[str, float]


async def turn(running: Service, *, resume: bool) -> Seconds:
    """Microseconds of processor time per token, by process."""
    before = _cpu(running)
    counts = await asyncio.gather(*(_ask_all(running.port, n, resume=resume) for n in range(_STREAMS)))
    after = _cpu(running)
    return {name: (after[name] - before[name]) / sum(counts) * 1e6 for name in before}


async def _ask_all(port: int, client: int, *, resume: bool) -> int:
    tokens = 0
    for repeat in range(_REPEATS):
        answer = await (await stream(port, "echo", f"Hello {client} {repeat}", _TOKENS, resume=resume)).ended()
        events = answer.events()
        assert events.error is None, events.error
        tokens += events.usage["completion_tokens"]
    return tokens


def _cpu(running: Service) -> Seconds:
    assert running.broker is not None
    assert running.gateway is not None
    pids = {"gateway": running.gateway.pid, "broker": running.broker.pid, "worker": running.model("echo")["pid"]}
    return {name: sum(psutil.Process(pid).cpu_times()[:2]) for name, pid in pids.items()}


def main(pairs: int) -> None:
    costs: dict[str, list[float]] = {"gateway": [], "broker": [], "worker": [], "sum": []}
    with (
        tempfile.TemporaryDirectory() as models,
        service(Path(models), 0, {"models": {"echo": ECHO}, "gateway": {"resume_limit": 2}}) as running,
    ):
        running.load("echo").raise_for_status()
        uvloop.run(turn(running, resume=True))
        wait_until_calm()
        for pair in range(pairs):
            ways = [True, False] if pair % 2 else [False, True]
            taken = {way: uvloop.run(turn(running, resume=way)) for way in ways}
            for name in ("gateway", "broker", "worker"):
                costs[name].append(taken[True][name] - taken[False][name])
            costs["sum"].append(sum(taken[True].values()) - sum(taken[False].values()))
    for name, values in costs.items():
        low, _, high = quantiles(values, n=4)
        print(f"{name:8} {median(values):+.3f} us of CPU per token, quartiles {low:+.3f} to {high:+.3f}", flush=True)
    print(save("going_on", costs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.going_on", description="What it costs to be able to go on.")
    parser.add_argument("--pairs", type=int, default=10)
    main(parser.parse_args().pairs)
