"""Rows of mlx-lm's batched key-value caches: made of single caches, dropped, and copied out.

mlx-lm reads the padding of the rows back for this, layer by layer, and each time the host waits for the device. Here it
follows from how many tokens a row holds, which the host knows: nothing is read back. A single row begins without a
copy. Kinds of caches that need no padding are left to mlx-lm.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import (
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    KVCache,
    RotatingKVCache,
)


def merge(layers: Sequence[Any]) -> Any:
    """One layer of several sequences as one batched cache. The single ones must not be used any more."""
    first = layers[0]
    if type(first) is CacheList:
        both = CacheList()
        both.caches = tuple(map(merge, zip(*(layer.caches for layer in layers), strict=True)))
        return both
    if len(layers) == 1 and type(first) is KVCache and first.keys is not None:
        alone = BatchKVCache([0])
        offset = mx.array([first.offset])
        alone.state = (first.keys, first.values, offset, alone.left_padding, first.offset)
        return alone
    return first.merge(layers)


def extract(cache: Any, index: int, tokens: int) -> Any:
    """A copy of one row, as a single sequence has it. tokens: that the row holds."""
    if type(cache) is CacheList:
        return CacheList(*(extract(inner, index, tokens) for inner in cache.caches))
    if isinstance(cache, BatchKVCache) and cache.size() >= tokens:
        return _extract_full(cache, index, tokens)
    if type(cache) is BatchRotatingKVCache:
        return _extract_window(cache, index, tokens)
    return cache.extract(index)


def keep(cache: Any, indices: list[int], order: mx.array, longest: int) -> None:
    """These rows alone, some perhaps several times. order: the same indices; longest: tokens of the one that holds
    most."""
    if type(cache) is CacheList:
        for inner in cache.caches:
            keep(inner, indices, order, longest)
    elif isinstance(cache, BatchKVCache) and cache.size() >= longest:
        unused = cache.size() - longest
        keys, values, offset, padding, size = cache.state
        if keys is not None:
            keys, values = keys[:, :, unused:][order], values[:, :, unused:][order]
        cache.state = (keys, values, offset[order], padding[order] - unused, size - unused)
    else:
        cache.filter(indices)


def _extract_full(cache: BatchKVCache, index: int, tokens: int) -> KVCache:
    keys, values, _, _, size = cache.state
    one = KVCache()
    if keys is not None:
        part = (slice(index, index + 1), slice(None), slice(size - tokens, size))
        one.keys, one.values, one.offset = mx.contiguous(keys[part]), mx.contiguous(values[part]), tokens
    return one


def _extract_window(cache: BatchRotatingKVCache, index: int, tokens: int) -> RotatingKVCache:
    keys, values, _, _, max_size, _, end, rotated = cache.state
    one = RotatingKVCache(max_size)
    if keys is None:
        return one
    keys, values = keys[index : index + 1], values[index : index + 1]
    if rotated:
        keys, values = mx.roll(keys, -end, 2), mx.roll(values, -end, 2)
        end = max_size
    part = (slice(None), slice(None), slice(max(0, end - tokens), end))
    keys, values = mx.contiguous(keys[part]), mx.contiguous(values[part])
    one.state = (keys, values, tokens, one.keep, max_size, keys.shape[2])
    return one
