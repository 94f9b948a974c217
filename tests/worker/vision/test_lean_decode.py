"""Greedy steps compute no more than the tokens, and masks where there is padding; on Linux weights lie so that their
products are quick. What they say is compared with mlx-vlm elsewhere."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from mlx.utils import tree_flatten

from tests.tiny_vision import make_tiny_vision
from tests.worker.engine_runs import run
from tests.worker.vision.vision_runs import ONE, load
from worker.vision.engine import VisionEngine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> VisionEngine:
    folder: Path = tmp_path_factory.mktemp("vision")
    return load(make_tiny_vision(folder / "tiny"))


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(sequences, tokens of each) of every mask that a batch's cache makes of one token."""
    caches: Any = import_module("mlx_vlm.models.cache")
    make, made = caches.create_causal_mask, []

    def counted(tokens: int, *arguments: Any, **rest: Any) -> Any:
        if tokens == 1 and rest.get("left_padding") is not None:
            made.append((rest["left_padding"].size, tokens))
        return make(tokens, *arguments, **rest)

    monkeypatch.setattr(caches, "create_causal_mask", counted)
    return made


def test_sequences_without_padding_get_no_mask(engine: VisionEngine, masks: list[tuple[int, int]]) -> None:
    run(engine, [ONE | {"temperature": 0.0, "max_tokens": 20}])
    assert masks.count((1, 1)) <= 1  # for the end of the prompt


def test_sequences_of_different_length_get_one_as_long_as_they_are_together(
    engine: VisionEngine, masks: list[tuple[int, int]]
) -> None:
    run(engine, [ONE | {"temperature": 0.0, "max_tokens": 40}, {"prompt": "x", "temperature": 0.0, "max_tokens": 5}])
    assert 0 < masks.count((2, 1)) <= 10
    assert masks.count((1, 1)) <= 2  # as above


def test_only_steps_that_need_probabilities_compute_them(engine: VisionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model, steps = engine.model.language_model, []
    decode = language_model.fused_greedy_decode

    def counted(*arguments: Any, **rest: Any) -> Any:
        steps.append(1)
        return decode(*arguments, **rest)

    monkeypatch.setattr(language_model, "fused_greedy_decode", counted)
    run(engine, [ONE | {"temperature": 0.0, "max_tokens": 20}])
    assert len(steps) in (20, 21)
    run(engine, [ONE | {"temperature": 1.0, "max_tokens": 20}])
    assert len(steps) in (20, 21)


@pytest.mark.skipif(sys.platform != "linux", reason="Accelerate and GPUs have no slow direction")
def test_weights_of_layers_without_a_bias_lie_transposed(engine: VisionEngine) -> None:
    weights: Any = tree_flatten(engine.model.vlm.parameters())
    strides = [memoryview(weight).strides for name, weight in weights if name.endswith("mlp.up_proj.weight")]
    assert len(strides) >= 2
    assert all(one is not None and one[0] == 4 for one in strides), "bytes from one row to the next"
