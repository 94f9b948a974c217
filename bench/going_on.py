"""Measures what it costs that answers can go on: `python -m bench.going_on [--pairs N] [--tiny-pairs N]`.

One service; the same streams with `resume` and without, one after the other, in changing order: of the echo engine,
whose small cost per token shows what gateway and broker do for it, and of a tiny text model, whose worker has to tell
its tokens. Compared is the processor time of gateway, broker and worker together per token. Prints each part's
difference of the turns as median and quartiles; writes bench/results/going_on.json.
"""

import argparse
import asyncio
from statistics import median, quantiles

import uvloop

from bench.calm import wait_until_calm
from bench.client import stream
from bench.cpu import cpu_seconds
from bench.models import ECHO, bench_models
from bench.recovery import service
from bench.results import save
from tests.service import Service

# Model -> streams at once, answers of each in a turn, tokens of each.
_WORK = {"echo": (16, 4, 512), "tiny": (128, 1, 128)}
# In large steps the model costs less per token, and what it varies by hides less.
_SETTINGS = {
    "models": {"echo": ECHO, "tiny": {"options": {"completion_batch_size": _WORK["tiny"][0]}}},
    "gateway": {"resume_limit": 2},
}

# Name of a process -> seconds of processor time.
Seconds = dict[str, float]


async def turn(running: Service, model: str, *, resume: bool) -> Seconds:
    """Microseconds of processor time per token, by process."""
    streams, repeats, tokens = _WORK[model]
    pids = _pids(running, model)
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    clients = (_ask_all(running.port, model, f"Hello {n}", repeats, tokens, resume=resume) for n in range(streams))
    count = sum(await asyncio.gather(*clients))
    return {name: (cpu_seconds(pid) - before[name]) / count * 1e6 for name, pid in pids.items()}


async def _ask_all(port: int, model: str, content: str, repeats: int, tokens: int, *, resume: bool) -> int:
    """The tokens of all answers."""
    count = 0
    for repeat in range(repeats):
        answer = await (await stream(port, model, f"{content} {repeat}", tokens, resume=resume)).ended()
        events = answer.events()
        assert events.error is None, events.error
        count += events.usage["completion_tokens"]
    return count


def _pids(running: Service, model: str) -> dict[str, int]:
    assert running.broker is not None
    assert running.gateway is not None
    return {"gateway": running.gateway.pid, "broker": running.broker.pid, "worker": running.model(model)["pid"]}


def measure(running: Service, model: str, pairs: int) -> dict[str, list[float]]:
    """What `resume` costs more in each pair of turns, by process."""
    costs: dict[str, list[float]] = {"gateway": [], "broker": [], "worker": [], "sum": []}
    running.load(model).raise_for_status()
    uvloop.run(turn(running, model, resume=True))
    wait_until_calm()
    for pair in range(pairs):
        ways = [True, False] if pair % 2 else [False, True]
        taken = {way: uvloop.run(turn(running, model, resume=way)) for way in ways}
        for name in ("gateway", "broker", "worker"):
            costs[name].append(taken[True][name] - taken[False][name])
        costs["sum"].append(sum(taken[True].values()) - sum(taken[False].values()))
    return costs


def main(pairs: dict[str, int]) -> None:
    with bench_models("tiny", with_smol=False) as models, service(models, 0, _SETTINGS) as running:
        figures = {model: measure(running, model, count) for model, count in pairs.items()}
    for model, costs in figures.items():
        for name, values in costs.items():
            low, _, high = quantiles(values, n=4)
            spread = f"quartiles {low:+.3f} to {high:+.3f}"
            print(f"{model} {name:8} {median(values):+.3f} us of CPU per token, {spread}", flush=True)
    print(save("going_on", figures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.going_on", description="What it costs to be able to go on.")
    parser.add_argument("--pairs", type=int, default=10, help="of turns of the echo engine")
    parser.add_argument("--tiny-pairs", type=int, default=10, help="of turns of the text model")
    options = parser.parse_args()
    main({"echo": options.pairs, "tiny": options.tiny_pairs})
