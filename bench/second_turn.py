"""The second turn of a chat after its server's process has died: `python -m bench.second_turn [--repeats N]
[--empty N]`.

Milliseconds to its first token: from the process that still has the chat, from the next one once that is ready, with
the prompt cache on disk and without, and of mlx_lm.server, which starts empty; beside them what it takes a process to
read the files of the chat. Every repetition is a chat of its own. Writes bench/results/second_turn.json.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
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
from tests.service import ROOT, Service, end_process, wait_until
from worker.cache.disk.files import Scratch, keep_out_of_page_cache, read_file

# Tokens of the first turn: a byte is a token.
_HISTORY = 8000
_BLOCK = 256
_QUEUE = "disk_cache_queue_bytes"
_WORDS = "What was said before is long. "

# The two second turns of a chat differ from the first token on: what one leaves is of no use to the other.
_QUESTIONS = ("And then?", "What then?")

Messages = list[dict[str, str]]


def first_turn(port: int, model: str, number: int) -> Messages:
    """The messages until its answer."""
    begin = f"Chat {os.getpid()}.{number}: "
    messages = [{"role": "user", "content": (begin + _WORDS * _HISTORY)[:_HISTORY]}]
    answer = uvloop.run(ask(port, "POST", "/v1/chat/completions", _body(model, messages, stream=False)))
    return [*messages, {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}]


def first_token(port: int, model: str, chat: Messages, question: str) -> float:
    """Milliseconds."""
    wait_until_calm()
    messages = [*chat, {"role": "user", "content": question}]
    return uvloop.run(_first_token(port, _body(model, messages, stream=True)))


async def _first_token(port: int, body: dict[str, Any]) -> float:
    answer = await (await send(port, "POST", "/v1/chat/completions", body)).ended()
    events = answer.events()
    assert events.error is None, events.error
    return (events.times[0] - answer.sent_at) * 1e3


def _body(model: str, messages: Messages, *, stream: bool) -> dict[str, Any]:
    return {"model": model, "messages": messages, "max_tokens": 20, "temperature": 0, "stream": stream}


def end_worker(running: Service) -> None:
    """Kill it; the next one is ready, and so is the spare in its place, which takes a core until then."""
    pid = running.model("long")["pid"]
    end_process(pid)
    wait_until(lambda: running.model("long")["pid"] not in (None, pid))
    running.load("long").raise_for_status()
    wait_until(lambda: [spare["state"] for spare in running.status()["spares"]] == ["imported"])


def turns(running: Service, number: int) -> tuple[Messages, float, float, float]:
    """The chat; milliseconds of its second turn, live and after the death of its process, and to read its files."""
    running.load("long").raise_for_status()
    before = _files(running)
    chat = first_turn(running.port, "long", number)
    wait_until(lambda: len(_files(running) - before) > _HISTORY // _BLOCK and not running.model("long")[_QUEUE])
    reading = _reading(_files(running) - before)
    live = first_token(running.port, "long", chat, _QUESTIONS[0])
    end_worker(running)
    disk = first_token(running.port, "long", chat, _QUESTIONS[1])
    wait_until(lambda: running.model("long")["disk_cache_hits"] == 1)
    return chat, live, disk, reading


def _files(running: Service) -> set[Path]:
    """Of cached prompts."""
    return {*(running.directory / "state" / "prompt-cache").rglob("*.safetensors")}


def _reading(files: set[Path]) -> float:
    """Milliseconds, in a process of its own."""
    wait_until_calm()
    command = [sys.executable, "-m", "bench.second_turn", "--read", *map(str, sorted(files))]
    return float(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=60).stdout)


def read(files: list[str]) -> None:
    """Print how many milliseconds it takes to read them once, as a worker does."""
    scratch = Scratch()
    began = time.perf_counter()
    for file in files:
        read_file(file, keep_out_of_page_cache, scratch)
    print((time.perf_counter() - began) * 1e3)


def measure(models: Path, repeats: int, empty: int) -> dict[str, list[float]]:
    """Milliseconds of each repetition, and the ratio that the goal is about. empty: repetitions of what prefills the
    whole chat."""
    chats: list[Messages] = []
    figures: dict[str, list[float]] = {"live": [], "reading": [], "disk": [], "ratio": []}
    with service(models, 1, cache_disk_gb=1.0, cache_disk_reserve_gb=0.0) as running:
        for number in range(repeats):
            chat, live, disk, reading = turns(running, number)
            chats.append(chat)
            row = {"live": live, "reading": reading, "disk": disk, "ratio": disk / (live + reading)}
            for what, value in row.items():
                figures[what].append(value)
    with service(models, 1, cache_disk_gb=0.0) as running:
        running.load("long").raise_for_status()
        figures["without"] = []
        for chat in chats[:empty]:
            end_worker(running)
            figures["without"].append(first_token(running.port, "long", chat, _QUESTIONS[1]))
    figures["mlx_lm.server"] = []
    for chat in chats[:empty]:
        with theirs("mlx_lm.server", models / "long") as server:
            model = f"{server.prefix}long"
            figures["mlx_lm.server"].append(first_token(server.port, model, chat, _QUESTIONS[1]))
    return figures


def main(repeats: int, empty: int) -> None:
    with long_model(layers=2) as models:
        figures = measure(models, repeats, empty)
    for what, values in figures.items():
        print(f"{what:15} median {median(values):9.2f}  from {min(values):.2f} to {max(values):.2f}", flush=True)
    print(save("second_turn", figures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.second_turn", description="The second turn after a death.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--empty", type=int, default=1, help="repetitions of what prefills the whole chat")
    parser.add_argument("--read", nargs="+", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that started processes end too
    if options.read:
        read(options.read)
    else:
        main(options.repeats, options.empty)
