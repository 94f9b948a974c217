"""Decode steps of mlx-vlm's BatchGenerator without what nobody reads.

It normalises log-probabilities of each step to take the likeliest token, and makes a mask for sequences that have no
padding. A language model with a `fused_greedy_decode` of its own is asked for a step's tokens instead, where no
sequence has logits processors; this file gives it one.
"""

from typing import Any

import mlx.core as mx
from mlx_vlm.models.cache import BatchKVCache


def decode_leanly(language_model: Any) -> None:
    """Let its greedy steps compute the tokens alone. Some families have a way of their own."""
    if callable(getattr(language_model, "fused_greedy_decode", None)):
        return

    def decode(tokens: mx.array, *, cache: list[Any], **rest: Any) -> mx.array:
        """tokens: (sequences, 1); the next ones: (sequences,)."""
        if type(cache[0]) is not _LeanCache:
            for layer in cache:
                if type(layer) is BatchKVCache:
                    layer.__class__ = _LeanCache
        output = language_model(tokens, cache=cache, **rest)
        logits = output.logits if hasattr(output, "logits") else output
        return mx.argmax(logits[:, -1, :], axis=-1)

    language_model.fused_greedy_decode = decode


class _LeanCache(BatchKVCache):  # type: ignore[misc] # mlx-vlm is not read by mypy
    """Makes no mask for one token of sequences without padding, as caches of a single sequence do.

    Mutable: the padding that was looked at last, and whether there was any. Where sequences come or go, it is another
    array."""

    _padding: mx.array | None = None
    _is_padded = False

    def make_mask(self, tokens: int, *arguments: Any, window_size: int | None = None, **rest: Any) -> mx.array | None:
        """As in BatchKVCache."""
        if tokens == 1 and window_size is None and not self._has_padding():
            return None
        mask: mx.array = super().make_mask(tokens, *arguments, window_size=window_size, **rest)
        return mask

    def _has_padding(self) -> bool:
        if self._padding is not self.left_padding:
            self._padding = self.left_padding
            self._is_padded = bool(mx.any(self.left_padding > 0).item())
        return self._is_padded
