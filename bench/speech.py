"""Speech beside mlx-audio called directly: `python -m bench.speech [--rounds N]`.

A text of twelve sentences, by a tiny random Soprano, which mlx-audio speaks in one go, and a tiny random Pocket. The
engine (a request in, a wav out piece by piece, no HTTP, no broker) and mlx-audio's `generate` take turns in one process
over weights of their own. Prints when the first bytes come and when the last, and what the engine costs beside the same
sentences spoken directly; writes bench/results/speech.json.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_audio.tts.utils import load_model

from bench.calm import wait_until_calm
from bench.results import save
from broker.wire.packing import pack
from broker.wire.to_workers import Assign
from broker.wire.work import Speak
from tests.tiny_speech import make_tiny_pocket, make_tiny_soprano
from worker.audio.sentences import pieces_of
from worker.audio.speech import SpeechEngine

_SENTENCES = 12
_TEXT = " ".join(["Extraordinary circumstances need understanding."] * _SENTENCES)
_SEED = 7
# Family -> what makes a model, and the settings that the engine speaks with.
_MAKERS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "soprano": (make_tiny_soprano, {}),
    "pocket": (make_tiny_pocket, {"stream": True, "streaming_interval": 0.5}),
}


def run(folder: Path, rounds: int) -> dict[str, Any]:
    """Figures by family."""
    results = {}
    for family, (make, settings) in _MAKERS.items():
        make(folder / family)
        engine = SpeechEngine(Assign(family, str(folder / family), "audio"), lambda _stage, _fraction: None)
        model = load_model(folder / family)
        sides = {
            "engine": partial(_through, engine),
            "direct": partial(_directly, model, settings),
            "at_once": partial(_at_once, model),
        }
        results[family] = _measured(sides, rounds)
        show(family, results[family])
    return results


def _measured(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Medians over the rounds, in seconds. cost: processor time of the engine over that of mlx-audio, of each round."""
    first: dict[str, list[float]] = {name: [] for name in sides}
    whole: dict[str, list[float]] = {name: [] for name in sides}
    used: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        wait_until_calm()
        for name, speak in list(sides.items())[:: 1 if number % 2 else -1]:
            began, processor = time.perf_counter(), time.process_time()
            first[name].append(speak() - began)
            whole[name].append(time.perf_counter() - began)
            used[name].append(time.process_time() - processor)
    # The first round warms up.
    return {
        "first": median(first["engine"][1:]),
        "whole": median(whole["engine"][1:]),
        "first_at_once": median(first["at_once"][1:]),
        "whole_at_once": median(whole["at_once"][1:]),
        "first_share": median(a / b for a, b in zip(first["engine"][1:], whole["engine"][1:], strict=True)),
        "cost": median(ours / its for ours, its in zip(used["engine"][1:], used["direct"][1:], strict=True)),
    }


def _through(engine: SpeechEngine) -> float:
    """When the first bytes came."""
    engine.add(b"r", pack(Speak(_TEXT, encoding="wav", seed=_SEED, stream=True)))
    first = 0.0
    while engine.has_work:
        if engine.step() and not first:
            first = time.perf_counter()
    return first


def _directly(model: Any, settings: dict[str, Any]) -> float:
    """Sentence by sentence."""
    first = 0.0
    for sentence in pieces_of(_TEXT, 240):
        mx.random.seed(_SEED)
        for result in model.generate(sentence, **settings):
            np.asarray(result.audio)
            first = first or time.perf_counter()
    return first


def _at_once(model: Any) -> float:
    """The whole text, as mlx-audio speaks it if nothing else is asked."""
    first = 0.0
    for result in model.generate(_TEXT):
        np.asarray(result.audio)
        first = first or time.perf_counter()
    return first


def show(family: str, row: dict[str, float]) -> None:
    print(
        f"speech, {family}: first bytes after {row['first'] * 1e3:.0f} ms of {row['whole'] * 1e3:.0f} "
        f"({row['first_share']:.0%}); mlx-audio at once {row['first_at_once'] * 1e3:.0f} of "
        f"{row['whole_at_once'] * 1e3:.0f}; the engine takes {row['cost']:.3f} of mlx-audio's processor time",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.speech", description="Speech beside mlx-audio.")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        print(save("speech", run(Path(directory), options.rounds)))
