"""What earlier prompts left in the key-value caches, so that the next turn of a chat reads only what is new.

mlx-lm's LRUPromptCache finds the longest known prefix and forgets what was used least recently; this file bounds it by
tokens as well as bytes. Knows nothing of requests. Its memory belongs to the worker's own.
"""

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import KVCache, LRUPromptCache, make_prompt_cache, trim_prompt_cache

from worker.prompt import common_length

# Entries are searched one by one when one of them leaves.
_MAX_ENTRIES = 256

# One engine has one model, the cache could tell several apart.
_MODEL = "model"

# Tokens. Fewer are read sooner than a copy of a cache is made of them.
WORTHWHILE = 32

# What the worker's memory leaves for this by default: a share of what the weights do not take, and the most of it.
_DEFAULT_SHARE = 0.25
_DEFAULT_MOST_BYTES = 2 * 2**30
_DEFAULT_BYTES = 512 * 2**20


def default_bytes(memory_limit_bytes: int, weights_bytes: int) -> int:
    """How large the cache may be where nobody says; memory_limit_bytes: of the process, 0 for none."""
    if not memory_limit_bytes:
        return _DEFAULT_BYTES
    return min(_DEFAULT_MOST_BYTES, max(0, int((memory_limit_bytes - weights_bytes) * _DEFAULT_SHARE)))


def can_be_shortened(model: Any) -> bool:
    """Whether a cache of this model can go back to an earlier token. Those of sliding windows and of state spaces
    cannot: what a later prompt shares must have been kept at exactly that point."""
    return all(type(layer) is KVCache for layer in make_prompt_cache(model))


def worthwhile(points: list[tuple[int, str]], known: int) -> dict[int, str]:
    """Of these places in a prompt, ascending, where a checkpoint saves enough beside the one before; known: tokens of
    the prompt that are cached already."""
    kept: dict[int, str] = {}
    for count, kind in points:
        if count >= known + WORTHWHILE:
            kept[count] = kind
            known = count
    return kept


def longest_common(held: Iterable[tuple[int, list[int]]], tokens: list[int], known: int) -> tuple[int, int] | None:
    """Which of these sequences begins with most of `tokens`, and how many; None where no copy of it is worthwhile,
    `known` being cached already."""
    found, most = None, known + WORTHWHILE - 1
    for uid, others in held:
        end = slice(most, most + 1)
        if tokens[end] and others[end] == tokens[end] and others[:most] == tokens[:most]:
            most = common_length(others, tokens)
            found = uid, most
    return found


def shorten(cache: list[Any], length: int) -> None:
    """Of a cache that can be shortened, the first `length` tokens, and no more memory than they take."""
    for layer in cache:
        layer.trim(layer.offset - length)
        layer.keys, layer.values = tree_map(mx.contiguous, layer.keys_and_values())


class PromptCache:
    """The caches of what sequences have read, by their tokens. A limit of 0 turns it off."""

    def __init__(self, max_tokens: int, max_bytes: int) -> None:
        self._max_tokens = max_tokens
        self._max_bytes = max_bytes
        self._is_on = max_tokens > 0 and max_bytes > 0
        self._entries: Any = LRUPromptCache(max_size=_MAX_ENTRIES, max_bytes=max_bytes)

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._is_on

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        count: int = self._entries.nbytes
        return count

    @property
    def tokens(self) -> int:
        """Tokens of all entries."""
        # mlx-lm counts sequences and bytes only.
        queues = self._entries._lru._lrus.values()  # noqa: SLF001
        return sum(len(tokens) for queue in queues for _, tokens in queue)

    def fetch(self, tokens: list[int]) -> tuple[list[Any] | None, int]:
        """A cache of the first n of `tokens`, a copy, and n; at least one token is left to read. (None, 0): nothing."""
        if not self._is_on or len(tokens) == 1:
            return None, 0
        cache, rest = self._entries.fetch_nearest_cache(_MODEL, tokens)
        if cache is not None and not rest:
            rest = tokens[-1:]
            if trim_prompt_cache(cache, 1) == 0:  # it cannot go back
                cache, before = self._entries.fetch_nearest_cache(_MODEL, tokens[:-1])
                rest = before + rest
        return cache, len(tokens) - len(rest)

    def store(self, tokens: list[int], cache: list[Any], kind: str = "assistant") -> None:
        """Keep the cache of exactly these tokens. It belongs to this object from now on. kind: with which turns the
        tokens end, as mlx-lm names it: `system` stays the longest, `assistant` leaves first."""
        if not self._is_on or not tokens or len(tokens) > self._max_tokens:
            return
        # It would push out everything, and then itself.
        if sum(layer.nbytes for layer in cache) > self._max_bytes:
            return
        # Else each entry would hold the whole batch that it is a slice of.
        mx.async_eval([layer.state for layer in cache])  # type: ignore[no-untyped-call]
        self._entries.insert_cache(_MODEL, list(tokens), cache, cache_type=kind)
        while self.tokens > self._max_tokens:
            self._entries.trim_to(n_sequences=len(self._entries) - 1)
