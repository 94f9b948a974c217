"""What a process does on the device before its first client comes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.worker.engine_runs import load, run
from tests.worker.text.one_row import OneRow
from worker.engine import EngineStats
from worker.generation.pace import Pace
from worker.loading.model_folder import LoadedModel
from worker.text.batch import Batch, Decoded
from worker.text.make_batch import MakeBatch, make_batch
from worker.text.options import TextOptions
from worker.text.quantisation import Quantisation
from worker.text.turn_batch import TurnBatch


def in_turns(loaded: LoadedModel, draft_model: Any, options: TextOptions) -> Batch:
    return TurnBatch(
        loaded.model,
        draft_model,
        stop_tokens=sorted(loaded.tokenizer.eos_token_ids),
        completion_batch_size=options.completion_batch_size,
        prefill_step_size=options.prefill_step_size,
        pace=Pace(options.prefill_step_size),
        num_draft_tokens=options.num_draft_tokens,
        quantisation=Quantisation(None, 64, 0),
        stream=mx.default_stream(mx.default_device()),
    )


@pytest.mark.parametrize(("kind", "together"), [(make_batch, 2), (OneRow, 1), (in_turns, 2)])
def test_two_sequences_have_been_decoded_when_a_model_is_loaded(
    tiny_model: Path, kind: MakeBatch, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.text.engine.needs_warm_up", lambda: True)
    tokens: list[int] = []

    def watched(loaded: LoadedModel, draft_model: Any, options: TextOptions) -> Batch:
        batch = kind(loaded, draft_model, options)
        step = batch.next

        def next_step() -> tuple[list[int], list[Decoded]]:
            result = step()
            tokens.append(len(result[1]))
            return result

        batch.next = next_step  # type: ignore[method-assign]
        return batch

    engine = load(tiny_model, make_batch=watched)
    assert sum(tokens) == 8
    assert max(tokens) == together
    assert engine.stats() == EngineStats()
    (outputs,) = run(engine, [{"prompt": [0, 0, 0], "max_tokens": 3}])
    assert outputs[-1].body["cached_tokens"] == 0


def test_a_spare_has_worked_on_the_device() -> None:
    script = (
        "import mlx.core as mx, worker.text.engine\n"
        "from worker.engine import import_for_spare\n"
        "mx.reset_peak_memory()\n"
        "import_for_spare()\n"
        "print(mx.get_peak_memory())"
    )
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert int(made.stdout) > 0
