"""Where the time of one token goes, hop by hop: `python -m bench.profile [--seconds N]`.

32 streams of the tiny model, while py-spy looks 200 times a second at what the main thread of the worker does, then of
the broker, then of the gateway: one after the other, because looking costs time too. What it counts is a thread that
runs or could run: waiting for a core is in the figures, waiting for messages is not. Prints a table, writes
bench/results/profile.json. py-spy needs the right to look into other processes: root on macOS, and on Linux where
ptrace is restricted.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import uvloop

from bench.client import ask
from bench.models import bench_models
from bench.results import save
from bench.servers import Server, ours
from bench.turns import Cell, alone, plan, turn

_STREAMS = 32
_TOKENS = 128
_RATE = 200
_REST = "the rest"

# role -> hop -> files, folders and functions. The first hop that has one of them anywhere in a stack counts; py-spy
# prints frames as `function (file:line)`. tests/test_bench.py checks that all of them exist.
_HOPS: dict[str, dict[str, tuple[str, ...]]] = {
    "worker": {
        "send the outputs": ("send_frames",),
        "encode the outputs": ("encode_outputs",),
        "tokens to text": ("worker/generation/sequence.py",),
        "the model's step, and waiting for it": ("worker/text/",),
        "look for messages": ("Service._receive",),
    },
    "broker": {
        "receive": ("receive_frames",),
        "send": ("send_frames",),
        "read the header": ("broker/wire/",),
        "decide": ("broker/policy/",),
    },
    "gateway": {
        "receive": ("receive_frames",),
        "read the outputs": ("broker/wire/", "gateway/core/answer.py"),
        "render the chunk": ("gateway/openai/",),
        "to the connection": ("_ChunkedBody.",),
        "to the streams' queues": ("BrokerClient.on_outputs",),
        "from the queues, one chunk for each stream": ("BrokerClient.on_pause",),
    },
}
# The innermost frame of a main thread that waits for messages, or is woken up: a hop of its own.
_WAKE_UP = {
    "broker": ("wake up (poll)", "Poller.poll"),
    "gateway": ("wake up, write to the clients (uvloop, the system)", "Runner.run"),
}


async def run(models: Path, seconds: int) -> dict[str, dict[str, float]]:
    """role -> hop -> microseconds per token."""
    with ours(models) as server:
        await ask(server.port, "POST", "/admin/models/load/a")
        plans = plan(["a"], _STREAMS, 2, "0")
        texts = await alone(server, plans, _TOKENS)
        figures = {}
        with tempfile.TemporaryDirectory() as folder:
            for role, pid in _pids(server).items():
                output = Path(folder) / role
                profiler = _profiler(pid, seconds, output)
                cell = Cell()
                began = time.monotonic()
                while profiler.poll() is None:
                    await turn(server, plans, _TOKENS, texts, cell)
                tokens = cell.tokens / (time.monotonic() - began) * seconds
                figures[role] = _hops(role, output.read_text(), tokens)
        return figures


def _pids(server: Server) -> dict[str, int]:
    """Of the worker the one that has worked most: the other is a spare."""
    processes = sorted(server.process.children(recursive=True), key=lambda p: sum(p.cpu_times()[:2]))
    return {role: process.pid for process in processes if (role := _role(process)) in _HOPS}


def _role(process: psutil.Process) -> str:
    command = process.cmdline()
    return command[command.index("-m") + 1] if "-m" in command else ""


def _profiler(pid: int, seconds: int, output: Path) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "py-spy"), "record", "--format", "raw", "--rate", str(_RATE)]
    command += ["--duration", str(seconds), "--output", str(output), "--pid", str(pid)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _hops(role: str, stacks: str, tokens: float) -> dict[str, float]:
    samples: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        if "Thread._bootstrap" not in stack:  # the main thread's
            samples[_hop(role, stack)] += int(count)
    hops = (*_HOPS[role], *([_WAKE_UP[role][0]] if role in _WAKE_UP else []), _REST)
    if unseen := [hop for hop in hops if not samples[hop]]:
        print(
            f"{role}: no sample of {', '.join(unseen)}: too short a run, or a name in bench/profile.py is out of date"
        )
    return {hop: samples[hop] / _RATE / tokens * 1e6 for hop in hops}


def _hop(role: str, stack: str) -> str:
    hop, innermost = _WAKE_UP.get(role, ("", "-"))
    if stack.rpartition(";")[2].startswith(innermost):
        return hop
    return next((hop for hop, names in _HOPS[role].items() if any(name in stack for name in names)), _REST)


def show(figures: dict[str, dict[str, float]]) -> None:
    print("microseconds per token at 32 streams, main threads, while they run or wait for a core")
    for role, hops in figures.items():
        for hop, value in hops.items():
            print(f"{role:8} {hop:55}{value:8.2f}")
        print(f"{role:8} {'all':55}{sum(hops.values()):8.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description="Where the time of one token goes.")
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    with bench_models("a", with_smol=False) as folder:
        result = uvloop.run(run(folder, options.seconds))
    show(result)
    print(save("profile", result))
