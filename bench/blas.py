"""Compares another BLAS with the default on Linux: `python -m bench.blas LIBRARY [--rounds N]`.

LIBRARY is for example `libopenblas.so.0`. The demo model (float32) runs in processes with and without it, which take
turns: prefill, then decode. Prints medians and whether the tokens are the same; CPU time shows what other work on the
machine hides from the rates. Threads: OPENBLAS_NUM_THREADS, else 1.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from bench.calm import wait_until_calm
from worker.process.blas import load_blas

_PROMPT_TOKENS = 64
_TOKENS = 16


def main(library: str, rounds: int) -> None:
    """Print the table."""
    from demo import model as demo_model  # noqa: PLC0415 # loads MLX, which must come after the library

    model = demo_model.prepare(demo_model.models_dir())
    runs: dict[str, list[dict[str, float]]] = {"MLX's own": [], library: []}
    answers = set()
    for _ in range(rounds):
        for name, of_one in runs.items():
            wait_until_calm()
            command = [sys.executable, "-m", "bench.blas", library if name == library else "", "--measure", str(model)]
            result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=300).stdout)
            answers.add(tuple(result.pop("tokens")))
            of_one.append(result)
    print("| BLAS | prompt, tokens/s | decode, tokens/s | prompt, CPU s | decode, CPU s |\n| --- |" + " --- |" * 4)
    for name, of_one in runs.items():
        medians = (median(run[key] for run in of_one) for key in ("prompt", "decode", "prompt_cpu", "decode_cpu"))
        print(f"| {name} | {' | '.join(f'{figure:.1f}' for figure in medians)} |")
    print("the same tokens" if len(answers) == 1 else "DIFFERENT tokens")


def measure(library: str, model: Path) -> None:
    """One process, one JSON line."""
    if library and not load_blas(library):
        sys.exit(1)
    import mlx.core as mx  # noqa: PLC0415 # after the library
    from mlx_lm import load  # noqa: PLC0415
    from mlx_lm.generate import generate_step  # noqa: PLC0415

    loaded, tokenizer, *_ = load(str(model))
    prompt = mx.array(tokenizer.encode("The history of the world, in short: " * 20)[:_PROMPT_TOKENS])
    list(generate_step(prompt[:4], loaded, max_tokens=2))  # reads the weights into memory
    began, cpu_began = time.perf_counter(), time.process_time()
    tokens, times, cpu = [], [], []
    for token, _ in generate_step(prompt, loaded, max_tokens=_TOKENS):
        tokens.append(token)
        times.append(time.perf_counter())
        cpu.append(time.process_time())
    figures = {
        "prompt": _PROMPT_TOKENS / (times[0] - began),
        "decode": (_TOKENS - 1) / (times[-1] - times[0]),
        "prompt_cpu": cpu[0] - cpu_began,
        "decode_cpu": cpu[-1] - cpu[0],
    }
    print(json.dumps(figures | {"tokens": tokens}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.blas", description="MLX with and without another BLAS.")
    parser.add_argument("library")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is None:
        main(arguments.library, arguments.rounds)
    else:
        measure(arguments.library, arguments.measure)
