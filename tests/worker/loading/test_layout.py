"""Weights lie so that the BLAS of MLX's wheels for Linux is quick, and give the same results."""

import sys
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from worker.loading.layout import transpose_for_blas

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Accelerate and GPUs have no slow direction")


class _Model(nn.Module):  # type: ignore[misc,name-defined] # mlx.nn has no types
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 384)  # type: ignore[attr-defined]
        self.plain = nn.Linear(384, 1536, bias=False)  # type: ignore[attr-defined]
        self.half = nn.Linear(384, 8)  # type: ignore[attr-defined]
        self.half.weight = self.half.weight.astype(mx.float16)


def test_linear_layers_in_float32_lie_transposed_and_give_the_same_bits() -> None:
    model = _Model()
    rows = mx.random.normal((5, 384))
    before = _strides(model)
    expected = model.plain(rows)
    mx.eval(expected)
    transpose_for_blas(model)
    mx.eval(model.parameters())
    after = _strides(model)
    assert {name for name, strides in before.items() if after[name] != strides} == {"plain.weight"}
    assert after["plain.weight"] == (4, 4 * 1536)
    assert model.plain.weight.shape == (1536, 384)
    assert mx.array_equal(model.plain(rows), expected)


def test_it_is_quicker() -> None:
    slow, quick = _Model(), _Model()
    mx.eval(slow.parameters())
    transpose_for_blas(quick)
    mx.eval(quick.parameters())
    rows = mx.random.normal((16, 384))
    mx.eval(rows)
    assert _seconds(lambda: quick.plain(rows)) < 0.8 * _seconds(lambda: slow.plain(rows))


def _strides(model: _Model) -> dict[str, tuple[int, ...] | None]:
    weights: Any = tree_flatten(model.parameters())
    return {name: memoryview(weight).strides for name, weight in weights}


def _seconds(compute: Callable[[], mx.array]) -> float:
    """Of processor time, the least of several."""
    taken = []
    for _ in range(10):
        began = time.process_time()
        mx.eval(compute())
        taken.append(time.process_time() - began)
    return min(taken)
