"""What the text engine costs beside the batch it drives: `python -m bench.engine [--rounds N]`.

TextEngine (a request in, streamed text out, no HTTP, no broker) and a bare BatchGenerator of the same weights take
turns in one process; ratios are medians over the turns. Prints a table; exit code 1 when a ratio is below its floor.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator

from bench.calm import wait_until_calm
from bench.models import bench_models
from broker.wire.outputs import FINAL, PARTIAL
from broker.wire.packing import pack
from broker.wire.to_workers import Assign
from broker.wire.work import Generate
from worker.text.engine import TextEngine

# Sequences at once -> the least ratio, how often in each turn.
_CELLS = {1: (1.0, 8), 8: (0.95, 4), 32: (0.95, 2)}
_TOKENS = 128

Wave = Callable[[list[list[int]]], None]


def main(rounds: int) -> int:
    """The exit code. rounds: turns of each number of sequences."""
    below = False
    print(
        f"| sequences | bare, tokens/s | engine, tokens/s | ratio, median of {rounds} | floor |\n| --- |{' --- |' * 4}"
    )
    with bench_models("tiny", with_smol=False) as models:
        engine = _engine(models / "tiny")
        waves = (_bare(engine), _through(engine))
        for sequences, (floor, repeats) in _CELLS.items():
            wait_until_calm()
            turns = [_turn(waves, sequences, repeats, number) for number in range(rounds + 1)][1:]  # the first warms up
            bare, ours = (median(turn[n] for turn in turns) for n in (0, 1))
            ratio = median(turn[1] / turn[0] for turn in turns)
            below |= ratio < floor
            print(f"| {sequences} | {bare:,.0f} | {ours:,.0f} | {ratio:.2f} | {floor} |", flush=True)
    return int(below)


def _turn(waves: tuple[Wave, Wave], sequences: int, repeats: int, number: int) -> list[float]:
    """Tokens per second of each; fresh prompts, the same for both."""
    rates = []
    for wave in waves:
        seconds = 0.0
        for repeat in range(repeats):
            prompts = [list(b"%d %d %d: once upon a time" % (number, repeat, n)) for n in range(sequences)]
            began = time.perf_counter()
            wave(prompts)
            seconds += time.perf_counter() - began
        rates.append(sequences * repeats * _TOKENS / seconds)
    return rates


def _engine(folder: Path) -> TextEngine:
    return TextEngine(Assign("tiny", str(folder), "text-gen"), lambda _stage, _fraction: None)


def _bare(engine: TextEngine) -> Wave:
    generator: Any = BatchGenerator(
        engine.loaded.model,  # the same weights
        stop_tokens=[[token] for token in engine.loaded.tokenizer.eos_token_ids],
        stream=mx.default_stream(mx.default_device()),
    )

    def wave(prompts: list[list[int]]) -> None:
        generator.insert(prompts, [_TOKENS] * len(prompts))
        left = len(prompts)
        while left:
            left -= sum(response.finish_reason is not None for response in generator.next()[1])

    return wave


def _through(engine: TextEngine) -> Wave:
    def wave(prompts: list[list[int]]) -> None:
        for number, prompt in enumerate(prompts):
            request = Generate(prompt=prompt, stream=True, temperature=0.0, max_tokens=_TOKENS)
            engine.add(b"gateway1" + number.to_bytes(8, "big"), pack(request))
        outputs = []
        while engine.has_work:
            outputs += engine.step()
        ends = [output.body for output in outputs if output.kind != PARTIAL]
        assert all(output.kind in (PARTIAL, FINAL) for output in outputs)
        assert [end["completion_tokens"] for end in ends] == [_TOKENS] * len(prompts)

    return wave


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description="The text engine alone.")
    parser.add_argument("--rounds", type=int, default=7)
    sys.exit(main(parser.parse_args().rounds))
