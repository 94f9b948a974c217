"""Measures what sequences of a model cost: a few tokens through the loaded model, and its real caches say the rest."""

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from worker.memory.cost import STEP, CacheCost, LayerCost, WorkCost, merged
from worker.process.device_errors import is_device_error

log = logging.getLogger("worker")

# (a model) -> new caches for one sequence.
MakeCache = Callable[[Any], list[Any]]

# The prompts whose work is measured, and the tokens before the shorter one in another measurement.
_SHORT, _LONG = 16, 64
_CONTEXT = 1024

# What the estimate of a step has over the measured work: how much there is at once also depends on how far the host is
# ahead, and squares show little in so few tokens.
_MARGIN = 2.0

# Copies of the logits that samplers and log-probabilities make.
_LOGITS_COPIES = 4


def cache_cost(
    models: list[Any],
    make_cache: MakeCache,
    quantise: Callable[[list[Any]], None] | None = None,
    quantised_from: int = 0,
) -> CacheCost:
    """Of a sequence of these models together. quantise: does it to a cache, None if it is never done; quantised_from:
    the most tokens that a cache holds before."""
    layers: list[LayerCost] = []
    quantised: list[LayerCost] = []
    for model in models:
        cache = _filled(model, make_cache)
        layers += _costs(model, cache)
        if quantise is not None:
            quantise(cache)
            mx.eval([layer.state for layer in cache])
            quantised += _costs(model, cache)
    largest = max(layers, key=lambda layer: layer.bytes(_CONTEXT), default=LayerCost())
    return CacheCost(merged(layers), merged(quantised), quantised_from, largest)


def work_cost(models: list[Any], make_cache: MakeCache) -> WorkCost:
    """Of a step of these models, one after the other."""
    costs = [_work(model, make_cache) for model in models]
    return WorkCost(
        max(cost.per_token for cost in costs),
        max(cost.per_pair for cost in costs),
        max(cost.per_square for cost in costs),
        sum(cost.per_row for cost in costs),
    )


def _filled(model: Any, make_cache: MakeCache) -> list[Any]:
    """Caches with one token."""
    cache = make_cache(model)
    _read(model, cache, 1)
    return cache


def _read(model: Any, cache: list[Any], tokens: int) -> Any:
    """The logits, not computed."""
    out = model(mx.array([[0] * tokens]), cache=cache)
    mx.eval([layer.state for layer in cache])
    return getattr(out, "logits", out)  # mlx-vlm's models return an object


def _costs(model: Any, cache: list[Any]) -> list[LayerCost]:
    """Of each layer of a cache that holds tokens. Of a kind that is not known: by how much it grows."""
    unknown = [layer for layer in _flat(cache) if _cost(layer) is None]
    known = [cost for layer in _flat(cache) if (cost := _cost(layer)) is not None]
    if not unknown:
        return known
    before = [layer.nbytes for layer in unknown]
    _read(model, cache, 2 * STEP)
    grown = [math.ceil((layer.nbytes - had) / (2 * STEP)) for layer, had in zip(unknown, before, strict=True)]
    return known + [LayerCost(had, growth) for had, growth in zip(before, grown, strict=True)]


def _flat(cache: list[Any]) -> Iterator[Any]:
    for layer in cache:
        parts = getattr(layer, "caches", None)
        if parts is None:
            yield layer
        else:
            yield from _flat(list(parts))


def _cost(layer: Any) -> LayerCost | None:
    """None for a kind of cache that is not known. mlx-lm and mlx-vlm have classes of their own with the same fields."""
    if isinstance(getattr(layer, "cache", None), list):  # the state of a recurrent layer
        return LayerCost(fixed=layer.nbytes)
    if not hasattr(layer, "keys"):
        return None
    if layer.keys is None:  # a layer that uses the cache of another one
        return LayerCost()
    keys = layer.keys[0] if isinstance(layer.keys, tuple | list) else layer.keys
    window = getattr(layer, "max_size", None)
    if window is None and (chunk := getattr(layer, "chunk_size", None)) is not None:
        window = chunk + STEP
    return LayerCost(0, math.ceil(layer.nbytes / keys.shape[-2]), window)


def _work(model: Any, make_cache: MakeCache) -> WorkCost:
    per_row = _read(model, _filled(model, make_cache), 1).shape[-1] * mx.float32.size * _LOGITS_COPIES
    short, long = (_peak(model, _filled(model, make_cache), tokens) for tokens in (_SHORT, _LONG))
    per_square = max(0.0, (long / _LONG - short / _SHORT) / (_LONG - _SHORT))
    per_token = long / _LONG - per_square * _LONG
    per_pair = 0.0
    try:
        far = _peak(model, [_longer(layer) for layer in _filled(model, make_cache)], _SHORT)
    except Exception as error:  # a model's code raises what it likes where its layers' lengths differ
        if is_device_error(error):
            raise
        log.info("what attention takes cannot be measured: %s", error)
    else:
        per_pair = max(0.0, (far - short) / (_SHORT * _CONTEXT))
    return WorkCost(per_token * _MARGIN, per_pair * _MARGIN, per_square * _MARGIN, per_row)


def _peak(model: Any, cache: list[Any], tokens: int) -> int:
    """What reading a prompt of so many tokens takes at its peak beside what there was before."""
    mx.synchronize()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    _read(model, cache, tokens)
    return max(0, mx.get_peak_memory() - before)


def _longer(layer: Any) -> Any:
    """The layer as if it held more tokens, with room for the next, if it is one that keeps all."""
    if type(layer).__name__ == "KVCache" and layer.keys is not None:
        layer.keys, layer.values = (_zeros_like(one, _CONTEXT + STEP) for one in (layer.keys, layer.values))
        mx.eval(layer.keys, layer.values)
        layer.offset = _CONTEXT
    return layer


def _zeros_like(array: mx.array, tokens: int) -> mx.array:
    shape = list(array.shape)
    shape[-2] = tokens
    return mx.zeros(shape, array.dtype)
