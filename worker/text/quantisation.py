"""Quantised key-value caches, as mlx-lm has them. Whether a model can have them is decided here, before any request."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.generate import maybe_quantize_kv_cache
from mlx_lm.models.cache import make_prompt_cache

from broker.wire.failure import one_line


@dataclass(slots=True, frozen=True)
class Quantisation:
    """bits None: none. start: tokens from which on a cache is quantised."""

    bits: int | None
    group_size: int
    start: int

    def apply(self, cache: list[Any]) -> None:
        """Quantise the layers of a cache that are long enough."""
        maybe_quantize_kv_cache(cache, self.start, self.group_size, self.bits)

    def check(self, model: Any) -> None:
        """Raises ValueError if the caches of this model cannot be quantised with these numbers."""
        if self.bits is None:
            return
        cache = make_prompt_cache(model)
        try:
            mx.eval(model(mx.array([[0]]), cache=cache))
            maybe_quantize_kv_cache(cache, 0, self.group_size, self.bits)
            mx.eval(model(mx.array([[0, 0]]), cache=cache))
        except Exception as error:  # mlx and mlx-lm raise many kinds
            reason = one_line(error) or type(error).__name__
            raise ValueError(
                f"kv_bits {self.bits} with kv_group_size {self.group_size} does not work with this model: {reason}"
            ) from error
