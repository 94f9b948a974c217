"""`python -m bench.disk_cache [MODEL]`: what the prompt cache on disk costs and saves, in an engine alone.

The CPU time of a token with and without it, interleaved; the time to the first token of the next turn of a long chat,
from memory, from disk and from nothing; the longest pause of a stream beside one whose cache is read. MODEL: a folder,
by default a tiny random Llama. Writes bench/results/disk_cache.json; see docs/benchmarks.md.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.models import bench_models
from bench.results import save
from broker.wire.outputs import PARTIAL
from broker.wire.packing import pack
from broker.wire.to_workers import Assign
from broker.wire.work import Generate
from worker.text.engine import TextEngine

# Many short turns: the CPU time of one is off by more than a cache can cost.
_PAIRS = 60
_ROWS, _TOKENS = 8, 512
_HISTORY = 8000
_TURNS = 5


def load(model: Path, folder: Path | None, *, rate: float = 1e10) -> TextEngine:
    """folder: of the cache, None for none."""
    disk: dict[str, Any] = {}
    if folder is not None:
        disk = {"cache_dir": str(folder / "model"), "cache_bytes": 2**36, "cache_bytes_per_second": rate}
    assign = Assign(model.name, str(model), "text-gen", **disk)
    return TextEngine(assign, lambda _stage, _fraction: None)


def add(engine: TextEngine, number: int, prompt: list[int], tokens: int) -> None:
    engine.add(b"gateway1" + number.to_bytes(8, "big"), pack(Generate(prompt=prompt, max_tokens=tokens, stream=True)))


def finish(engine: TextEngine) -> None:
    while engine.has_work:
        engine.step()


def cpu_of_a_token(engine: TextEngine, begin: int) -> float:
    """Microseconds of CPU of the whole process; all its writes are done."""
    before, began = engine.stats().generation_tokens, time.process_time()
    for row in range(_ROWS):
        add(engine, row, [begin % 250, row, *range(30)], _TOKENS)
    finish(engine)
    while engine.stats().disk_queue_bytes:
        time.sleep(0.001)
    return (time.process_time() - began) / (engine.stats().generation_tokens - before) * 1e6


def pair_of_costs(engines: tuple[TextEngine, TextEngine], number: int) -> tuple[float, float]:
    """Without the cache and with it; each comes first in every other pair."""
    without, with_it = engines
    if number % 2:
        return cpu_of_a_token(without, number), cpu_of_a_token(with_it, number)
    after = cpu_of_a_token(with_it, number)
    return cpu_of_a_token(without, number), after


def first_token(engine: TextEngine, prompt: list[int]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    add(engine, 1, prompt, 1)
    finish(engine)
    return (time.perf_counter() - began) * 1e3


def longest_pause(engine: TextEngine, prompt: list[int]) -> tuple[float, float]:
    """Milliseconds between two outputs of another stream: alone, and while this prompt is taken in."""
    add(engine, 2, list(range(40)), 400)
    pauses: list[list[float]] = [[], []]
    last = 0.0
    for step in range(400):
        if step == 200:
            add(engine, 1, prompt, 1)
        outputs = engine.step()
        now = time.perf_counter()
        if any(output.kind == PARTIAL for output in outputs):
            if step > 20:
                pauses[step >= 200].append(now - last)
            last = now
    finish(engine)
    return max(pauses[0]) * 1e3, max(pauses[1]) * 1e3


def first_tokens(model: Path, folder: Path) -> dict[str, float]:
    """Milliseconds to the first token of a chat of so many tokens, and of its next turns; how many MiB are on disk."""
    history = [number * 7919 % 250 for number in range(_HISTORY)]
    live = load(model, folder)
    figures = {"cold_ms": first_token(live, history)}
    while live.stats().disk_queue_bytes:
        time.sleep(0.01)
    turns = [[*history, *range(turn, turn + 40)] for turn in range(_TURNS)]
    figures["live_ms"] = statistics.median(first_token(live, turn) for turn in turns)
    while live.stats().disk_queue_bytes:
        time.sleep(0.01)
    figures["disk_ms"] = statistics.median(first_token(_begun(model, folder), turn) for turn in turns)
    figures["file_ms"] = statistics.median(_read(folder) for _ in turns)
    figures["disk_to_live"] = figures["disk_ms"] / (figures["live_ms"] + figures["file_ms"])
    return figures | {"mib": live.stats().disk_bytes / 2**20}


def _begun(model: Path, folder: Path) -> TextEngine:
    """A new engine that has answered another request: the first one of a process takes longer."""
    engine = load(model, folder)
    first_token(engine, list(range(100, 140)))
    return engine


def _read(folder: Path) -> float:
    """Milliseconds to read all files."""
    began = time.perf_counter()
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()
    return (time.perf_counter() - began) * 1e3


def measure(model: Path, *, with_cpu: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        figures: dict[str, Any] = {}
        if with_cpu:
            engines = load(model, None), load(model, folder / "cpu")
            pairs = [pair_of_costs(engines, number) for number in range(_PAIRS + 1)][1:]
            off, on = (statistics.median(column) for column in zip(*pairs, strict=True))
            figures |= {"without_us": off, "with_us": on, "extra_us": [on - off for off, on in pairs]}
            extra = statistics.median(figures["extra_us"])
            print(f"CPU of a token: {off:.2f} us without, {on:.2f} us with, median difference {extra:.2f} us")
        figures |= first_tokens(model, folder / "ttft")
        print(f"first token after {_HISTORY} tokens, {figures['mib']:.0f} MiB on disk:")
        print("  {cold_ms:.0f} ms from nothing, {live_ms:.0f} ms live, {disk_ms:.0f} ms from disk,".format(**figures))
        print("  {file_ms:.0f} ms to read the files, {disk_to_live:.2f} times live and reading".format(**figures))
        history = [number * 7919 % 250 for number in range(_HISTORY)]
        engine = load(model, folder / "ttft")
        # The next turn of a chat, its cache on disk; the next, its cache live: both have a new prompt to prefill.
        alone, beside_disk = longest_pause(engine, [*history, *range(50, 90)])
        _, beside_live = longest_pause(engine, [*history, *range(60, 100)])
        print(f"longest pause of another stream: {alone:.1f} ms alone,", end=" ")
        print(f"{beside_live:.1f} ms beside a live cache, {beside_disk:.1f} ms beside one from disk")
        pauses = {"pause_alone_ms": alone, "pause_live_ms": beside_live, "pause_disk_ms": beside_disk}
        return figures | pauses


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.disk_cache", description="The prompt cache on disk.")
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--no-cpu", action="store_true")
    options = parser.parse_args()
    with contextlib.nullcontext(options.model) if options.model else bench_models("a", with_smol=False) as folder:
        model = options.model or folder / "a"
        print(save("disk_cache", measure(model, with_cpu=not options.no_cpu)))


if __name__ == "__main__":
    main()
