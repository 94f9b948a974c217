"""Answers about images that go on in another process."""

from pathlib import Path
from typing import Any

import pytest

from tests.worker.engine_runs import run
from tests.worker.going_on import assert_goes_on, begun_after
from tests.worker.vision.vision_runs import ONE, TEXT_ONLY, THREE, TWO_TURNS, load
from worker.vision.batch import Turns
from worker.vision.engine import VisionEngine
from worker.vision.model import VisionModel

REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {**ONE, "temperature": 0.0},
    "seed": {**THREE, "seed": 1},
    "top_p": {**TWO_TURNS, "seed": 2, "temperature": 0.7, "top_p": 0.9},
    "logprobs": {**TEXT_ONLY, "temperature": 0.0, "logprobs": 2},
    "xtc": {"prompt": "x", "seed": 4, "top_k": 9, "min_p": 0.01, "xtc_probability": 0.5},
    "penalty": {**ONE, "seed": 5, "frequency_penalty": 1.5, "logit_bias": {"65": 5.0, "66": -100}},
    "grammar": {**ONE, "seed": 6, "max_tokens": 40, "grammar": 'start: /[a-zé]{6}/ "."', "logprobs": 0},
    "echo": {"prompt": "echo", "temperature": 0.0, "echo": True, "logprobs": 1},
    "not streamed": {**ONE, "temperature": 0.0, "max_tokens": 40, "stream": False},
    "not streamed, logprobs": {**ONE, "temperature": 0.0, "max_tokens": 40, "stream": False, "logprobs": 1},
}
STREAMED = {"stream": True, "max_tokens": 12}


@pytest.fixture(scope="module")
def engine(folder: Path) -> VisionEngine:
    return load(folder)


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_goes_on_after_every_output(engine: VisionEngine, name: str) -> None:
    assert_goes_on(engine, engine, **{**STREAMED, **REQUESTS[name]})


def test_a_model_that_reads_prompts_in_one_piece_says_again_what_has_been_said(
    engine: VisionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the prompt, the tokens would change how that is read."""
    monkeypatch.setattr(VisionModel, "may_be_read_in_pieces", lambda *_: False)
    for name in ("greedy", "seed", "logprobs", "grammar"):
        assert_goes_on(engine, engine, **{**STREAMED, **REQUESTS[name]})


def test_sequences_that_take_turns_go_on_together(engine: VisionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_batch", Turns(engine._generator))
    requests = [{**STREAMED, "tells_tokens": True, **REQUESTS[name]} for name in ("greedy", "seed", "penalty")]
    whole = run(engine, requests)
    begun = [{**fields, "begun": begun_after(one[:5])} for fields, one in zip(requests, whole, strict=True)]
    assert [[o.body for o in rest] for rest in run(engine, begun)] == [[o.body for o in one[5:]] for one in whole]
