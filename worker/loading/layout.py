"""How weights lie in memory, for the BLAS of MLX's wheels for Linux.

A linear layer multiplies by the transpose of its weight. Where that is what lies in memory row by row, the reference
BLAS adds whole vectors instead of one product after the other, which is twice as fast in float32. The order of the
additions is the same, except that a bias comes first. Weights in 16 bits and GPUs gain nothing.
"""

import ctypes
import sys
from contextlib import suppress
from typing import Any

import mlx.core as mx
from mlx import nn

from worker.loading.device import computes_on_cpu


def transpose_for_blas(model: Any, *, biased: bool) -> None:
    """Let the float32 weights of linear layers lie transposed, if the CPU of a Linux machine computes. Lazy: call it
    before the weights are read. biased: layers with a bias, too, whose results may differ in the last bit."""
    if sys.platform == "linux" and computes_on_cpu():
        for layer in model.modules():
            # mlx's stubs leave layers out.
            if not isinstance(layer, nn.Linear) or layer.weight.dtype != mx.float32:  # type: ignore[attr-defined]
                continue
            if biased or "bias" not in layer:
                layer.weight = mx.contiguous(layer.weight.T).T


def give_back() -> None:
    """Give freed memory back to Linux: what weights were before they were transposed. Else it stays with MLX's cache
    and with malloc, and counts as memory of this process."""
    if sys.platform == "linux":
        mx.clear_cache()
        with suppress(AttributeError):  # musl has no such function
            ctypes.CDLL(None).malloc_trim(0)
