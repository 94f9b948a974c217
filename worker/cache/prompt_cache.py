"""What earlier prompts left in the key-value caches, so that the next turn of a chat reads only what is new.

Bounded by tokens and bytes; what was used least recently leaves first. What mlx-lm's LRUPromptCache does, with another
index (worker/cache/prefix_index.py says why) and with caches that are used counting as such. Knows nothing of requests.
Its memory is part of the worker's share.
"""

import copy
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import ChunkedKVCache, KVCache, can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache

from worker.cache.prefix_index import Key, PrefixIndex, common_length, key_of, length

# Of how many the index is kept; a cache of many short texts would be walked through for too long.
_MAX_ENTRIES = 256

# With which turns an entry ends. The first leave first.
_KINDS = ("assistant", "user", "system")

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


def can_be_batched(model: Any) -> bool:
    """Whether caches of this model can decode together; mlx_lm.server asks the same."""
    return all(hasattr(layer, "merge") for layer in make_prompt_cache(model))


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
            most = common_length(key_of(others), key_of(tokens))
            found = uid, most
    return found


def shorten(cache: list[Any], length: int) -> None:
    """Of a cache that can be shortened, the first `length` tokens, and no more memory than they take."""
    for layer in cache:
        layer.trim(layer.offset - length)
        layer.keys, layer.values = tree_map(mx.contiguous, layer.keys_and_values())


@dataclass(slots=True, frozen=True)
class _Entry:
    cache: list[Any]
    nbytes: int
    kind: str


class PromptCache:
    """The caches of what sequences have read, by their tokens. A limit of 0 turns it off.

    Mutable state: the entries, the one used least recently first, the order of their tokens, and what all of them come
    to, because walking through 256 of them for every answer that ends takes longer than all else here.
    """

    def __init__(self, max_tokens: int, max_bytes: int) -> None:
        self._max_tokens = max_tokens
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._index = PrefixIndex()
        self._nbytes = self._tokens = 0
        self._kinds: Counter[str] = Counter()

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._max_tokens > 0 and self._max_bytes > 0

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return self._nbytes

    @property
    def tokens(self) -> int:
        """Tokens of all entries."""
        return self._tokens

    def known(self, tokens: list[int]) -> int:
        """The n of `fetch`, without a copy and without counting as use."""
        near = self._nearest(tokens)
        return 0 if near is None else near[1]

    def fetch(self, tokens: list[int]) -> tuple[list[Any] | None, int]:
        """A cache of the first n of `tokens`, a copy, and n; at least one token is left to read. (None, 0): nothing."""
        near = self._nearest(tokens)
        if near is None:
            return None, 0
        known, count = near
        self._entries.move_to_end(known)
        cache = copy.deepcopy(self._entries[known].cache)
        trim_prompt_cache(cache, length(known) - count)
        return cache, count

    def store(self, tokens: list[int], cache: list[Any], kind: str = "assistant") -> None:
        """Keep the cache of exactly these tokens. It belongs to this object from now on. kind: with which turns the
        tokens end, one of _KINDS."""
        nbytes = sum(layer.nbytes for layer in cache)
        # What is too large would push out everything, and then itself.
        if not self.is_on or not tokens or len(tokens) > self._max_tokens or nbytes > self._max_bytes:
            return
        # Else each entry would hold the whole batch that it is a slice of.
        mx.async_eval([layer.state for layer in cache])  # type: ignore[no-untyped-call]
        key = key_of(tokens)
        # What a longer one can be shortened to only takes space.
        while (known := self._index.beginning_of(key)) and (known == key or _can_go_back(cache)):
            self._drop(known)
        entry = self._entries[key] = _Entry(cache, nbytes, kind)
        self._index.add(key)
        self._count(key, entry, 1)
        while len(self._entries) > _MAX_ENTRIES or self.tokens > self._max_tokens or self.nbytes > self._max_bytes:
            self._drop(self._next_to_leave())

    def _nearest(self, tokens: list[int]) -> tuple[Key, int] | None:
        """Of which entry most can be used, and how much of it."""
        wanted = key_of(tokens[:-1])
        near = self._index.nearest(wanted)
        if near is not None and near[1] < length(near[0]) and not _can_go_back(self._entries[near[0]].cache):
            known = self._index.beginning_of(wanted)
            near = None if known is None else (known, length(known))
        return near

    def _next_to_leave(self) -> Key:
        """As mlx-lm's LRUPromptCache chooses: of a kind that has at least as many entries as the next one."""
        counts = self._kinds
        kinds = (kind for kind, after in pairwise(_KINDS) if counts[kind] and counts[kind] >= counts[after])
        kind = next(kinds, _KINDS[-1])
        return next(key for key, entry in self._entries.items() if entry.kind == kind)

    def _drop(self, key: Key) -> None:
        self._count(key, self._entries.pop(key), -1)
        self._index.remove(key)

    def _count(self, key: Key, entry: _Entry, times: int) -> None:
        self._nbytes += times * entry.nbytes
        self._tokens += times * length(key)
        self._kinds[entry.kind] += times


def _can_go_back(cache: list[Any]) -> bool:
    """Whether this cache can be shortened now; those of sliding windows can while they have forgotten nothing."""
    # A chunked one says that it can in any case.
    forgets = any(isinstance(layer, ChunkedKVCache) and layer.start_position > 0 for layer in cache)
    return not forgets and bool(can_trim_prompt_cache(cache))
