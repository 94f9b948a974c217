"""What the key-value caches of a model can do. The kinds of caches are mlx-lm's."""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import ChunkedKVCache, KVCache, can_trim_prompt_cache, make_prompt_cache


def can_be_shortened(model: Any) -> bool:
    """Whether a cache of this model can always go back to an earlier token. Caches of sliding windows and state spaces
    cannot: a prefix can be shared only if the cache was kept at exactly that point."""
    return all(type(layer) is KVCache for layer in make_prompt_cache(model))


def can_be_batched(model: Any) -> bool:
    """Whether caches of this model can decode together; mlx_lm.server asks the same."""
    return all(hasattr(layer, "merge") for layer in make_prompt_cache(model))


def can_go_back(cache: list[Any]) -> bool:
    """Whether this cache can be shortened now; caches of sliding windows can until they drop their first token."""
    # A chunked cache always says that it can.
    has_dropped = any(isinstance(layer, ChunkedKVCache) and layer.start_position > 0 for layer in cache)
    return not has_dropped and bool(can_trim_prompt_cache(cache))


def shorten(cache: list[Any], length: int) -> None:
    """Keep the first `length` tokens of a cache that can be shortened, and no more memory than they take."""
    for layer in cache:
        layer.trim(layer.offset - length)
        layer.keys, layer.values = tree_map(mx.contiguous, layer.keys_and_values())
