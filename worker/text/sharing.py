"""Finds out, by computing, whether sequences of a model can share a batch. No list of model families.

Some families mix rows up: what pads a short prompt beside a longer one reaches the state of a recurrent layer, or all
rows are rotated by the position of one. mlx-lm raises in the middle of a step for some of them and gives other tokens
for the others. Two probes after loading show it: each computes a row alone and beside another, and compares the logits.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from worker.cache.kv_caches import can_be_batched
from worker.process.device_errors import is_device_error

# Of the range of a row's logits. The smallest real fault among mlx-lm's families is 0.09; rounding in 16 bits, or with
# quantised weights, stays below 0.01.
_TOLERANCE = 0.03

_FIRST = [1]
_SHORT = [1, 2]
_LONG = [4, 5, 6, 7, 8]


class Sharing(Enum):
    """What sequences of a model may share."""

    ALL = "prefill and decode together"
    DECODE = "decode together, prompts one at a time"
    NOTHING = "take turns"


def sharing_of(model: Any) -> Sharing:
    """model: of mlx-lm, loaded. Takes a few forward passes of up to five tokens."""
    if not can_be_batched(model) or not _agrees(_decode_beside_another, model):
        return Sharing.NOTHING
    return Sharing.ALL if _agrees(_prefill_beside_another, model) else Sharing.DECODE


def _agrees(probe: Callable[[Any], tuple[mx.array, mx.array]], model: Any) -> bool:
    try:
        alone, beside = (logits.astype(mx.float32) for logits in probe(model))
        difference = (mx.abs(alone - beside).max() / (alone.max() - alone.min())).item()
    except Exception as error:  # a model's code raises what it likes: then its rows cannot share a batch
        if is_device_error(error):  # says nothing about the model
            raise
        return False
    return isinstance(difference, float) and difference <= _TOLERANCE  # false for NaN too


def _decode_beside_another(model: Any) -> tuple[mx.array, mx.array]:
    """Logits (vocabulary,) of a second token, alone and beside a longer sequence."""
    alone = model(mx.array([[2]]), cache=_prefill(model, _FIRST))[0, -1]
    both = _merge([_prefill(model, _FIRST), _prefill(model, _LONG)])
    return alone, model(mx.array([[2], [3]]), cache=both)[0, -1]


def _prefill_beside_another(model: Any) -> tuple[mx.array, mx.array]:
    """Logits (vocabulary,) after a short prompt, alone and padded beside a longer one."""
    alone = model(mx.array([[4]]), cache=_prefill(model, _SHORT))[0, -1]
    padding = len(_LONG) - len(_SHORT)
    both = _merge([make_prompt_cache(model), make_prompt_cache(model)])
    for layer in both:
        layer.prepare(lengths=[len(_SHORT), len(_LONG)], right_padding=[padding, 0])
    model(mx.array([_SHORT + [0] * padding, _LONG]), cache=both)
    for layer in both:
        layer.finalize()
    return alone, model(mx.array([[4], [3]]), cache=both)[0, -1]


def _prefill(model: Any, tokens: list[int]) -> list[Any]:
    cache: list[Any] = make_prompt_cache(model)
    model(mx.array([tokens]), cache=cache)
    return cache


def _merge(rows: list[list[Any]]) -> list[Any]:
    return [layers[0].merge(layers) for layers in zip(*rows, strict=True)]
