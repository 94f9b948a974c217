"""The second turn of a chat after its server's process has died: `python -m bench.second_turn [--repeats N]`.

Milliseconds to its first token, once the next process is ready: with the prompt cache on disk and without, and of
mlx_lm.server, which starts empty; beside them a process that still has the chat. Every repetition is a chat of its own.
Writes bench/results/second_turn.json.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench.calm import wait_until_calm
from bench.client import ask, send
from bench.models import long_model
from bench.recovery import service
from bench.results import save
from bench.servers import theirs
from tests.service import Service, end_process, wait_until

# Tokens of the first turn: a byte is a token.
_HISTORY = 1500
_QUEUE = "disk_cache_queue_bytes"
_WORDS = "What was said before is long. "

Messages = list[dict[str, str]]


async def first_turn(port: int, model: str, number: int) -> Messages:
    """The messages of the second turn."""
    begin = f"Chat {os.getpid()}.{number}: "
    messages = [{"role": "user", "content": (begin + _WORDS * _HISTORY)[:_HISTORY]}]
    answer = await ask(port, "POST", "/v1/chat/completions", _body(model, messages, stream=False))
    said = answer["choices"][0]["message"]["content"]
    return [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}]


async def first_token(port: int, model: str, messages: Messages) -> float:
    """Milliseconds."""
    wait_until_calm()
    answer = await (await send(port, "POST", "/v1/chat/completions", _body(model, messages, stream=True))).ended()
    events = answer.events()
    assert events.error is None, events.error
    return (events.times[0] - answer.sent_at) * 1e3


def _body(model: str, messages: Messages, *, stream: bool) -> dict[str, Any]:
    return {"model": model, "messages": messages, "max_tokens": 20, "temperature": 0, "stream": stream}


def after_death(running: Service, number: int, *, on_disk: bool, dies: bool) -> float:
    """Of our service. on_disk: its worker writes what it has read; dies: the worker, between the turns."""
    running.load("long").raise_for_status()
    pid, files = running.model("long")["pid"], _files(running)
    messages = uvloop.run(first_turn(running.port, "long", number))
    if on_disk:
        wait_until(lambda: _files(running) >= files + _HISTORY // 256 and not running.model("long")[_QUEUE])
    if dies:
        end_process(pid)
        wait_until(lambda: running.model("long")["pid"] != pid)
        running.load("long").raise_for_status()
    return uvloop.run(first_token(running.port, "long", messages))


def _files(running: Service) -> int:
    return int(running.model("long")["disk_cache_files"])


def measure(models: Path, repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"live": [], "disk": [], "without": [], "mlx_lm.server": []}
    for what, on_disk, dies in (("live", True, False), ("disk", True, True), ("without", False, True)):
        with service(models, 1, cache_disk_gb=float(on_disk), cache_disk_reserve_gb=0.0) as running:
            for number in range(repeats):
                times[what].append(after_death(running, number, on_disk=on_disk, dies=dies))
    for number in range(repeats):
        with theirs("mlx_lm.server", models / "long") as server:
            messages = uvloop.run(first_turn(server.port, f"{server.prefix}long", number))
        with theirs("mlx_lm.server", models / "long") as server:
            times["mlx_lm.server"].append(uvloop.run(first_token(server.port, f"{server.prefix}long", messages)))
    return times


def main(repeats: int) -> None:
    with long_model() as models:
        times = measure(models, repeats)
    for what, values in times.items():
        print(f"{what:15} median {median(values):9.1f} ms  from {min(values):.1f} to {max(values):.1f}", flush=True)
    print(save("second_turn", times))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.second_turn", description="The second turn after a death.")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that started processes end too
    main(options.repeats)
