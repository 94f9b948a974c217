"""Weights lie so that the BLAS of MLX's wheels for Linux is quick, and give the same results."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from tests.tiny_models import make_tiny_model
from worker.loading.layout import give_back, transpose_for_blas
from worker.loading.model_folder import load_folder, read_weights

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Accelerate and GPUs have no slow direction")


class _Model(nn.Module):  # type: ignore[misc,name-defined] # mlx.nn has no types
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 384)  # type: ignore[attr-defined]
        self.plain = nn.Linear(384, 1536, bias=False)  # type: ignore[attr-defined]
        self.biased = nn.Linear(384, 16)  # type: ignore[attr-defined]
        self.half = nn.Linear(384, 8)  # type: ignore[attr-defined]
        self.half.weight = self.half.weight.astype(mx.float16)


@pytest.mark.parametrize("biased", [True, False])
def test_linear_layers_in_float32_lie_transposed_and_give_the_same_bits(*, biased: bool) -> None:
    model = _Model()
    rows = mx.random.normal((5, 384))
    before = _strides(model)
    expected = model.plain(rows)
    mx.eval(expected)
    transpose_for_blas(model, biased=biased)
    mx.eval(model.parameters())
    after = _strides(model)
    wanted = {"plain.weight", "biased.weight"} if biased else {"plain.weight"}
    assert {name for name, strides in before.items() if after[name] != strides} == wanted
    assert after["plain.weight"] == (4, 4 * 1536)
    assert model.plain.weight.shape == (1536, 384)
    assert mx.array_equal(model.plain(rows), expected)


def test_it_is_quicker() -> None:
    slow, quick = _Model(), _Model()
    mx.eval(slow.parameters())
    transpose_for_blas(quick, biased=False)
    mx.eval(quick.parameters())
    rows = mx.random.normal((16, 384))
    mx.eval(rows)
    taken = [(_seconds(lambda: quick.plain(rows)), _seconds(lambda: slow.plain(rows))) for _ in range(10)]
    quick_one, slow_one = (min(each) for each in zip(*taken, strict=True))  # in turns: both have their quiet moments
    assert quick_one < 0.8 * slow_one


def test_a_text_model_is_loaded_so_and_computes_the_same_bits(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "tiny")
    model = load_folder(folder, lambda _stage, _fraction: None).model
    theirs, _ = load_model(folder)
    strides = _strides(model)
    projections = [name for name in strides if name.endswith("_proj.weight")]
    assert len(projections) >= 7
    assert all(strides[name] != _strides(theirs)[name] for name in projections)
    tokens = mx.array([[1, 2, 3, 4, 5]])
    assert mx.array_equal(model(tokens), theirs(tokens))


def test_after_loading_only_the_weights_are_resident(tmp_path: Path) -> None:
    """50 MiB of them."""
    file = str(tmp_path / "weights.safetensors")
    mx.save_safetensors(file, {f"{number}": mx.random.normal((1024, 512)) for number in range(25)})
    model = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(25)])  # type: ignore[attr-defined]
    weights: Any = mx.load(file)
    for layer, weight in zip(model.layers, weights.values(), strict=True):
        layer.weight = weight
    del weights
    transpose_for_blas(model, biased=False)
    give_back()
    before = _resident_bytes()
    read_weights(model, lambda _stage, _fraction: None)
    assert (_resident_bytes() - before) / 2**20 < 55


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _strides(model: Any) -> dict[str, tuple[int, ...] | None]:
    weights: Any = tree_flatten(model.parameters())
    return {name: memoryview(weight).strides for name, weight in weights}


def _seconds(compute: Callable[[], mx.array]) -> float:
    """Of processor time: of all threads, as MLX computes in one of its own."""
    began = time.process_time()
    mx.eval(compute())
    return time.process_time() - began
