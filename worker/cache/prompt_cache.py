"""The prompt cache: key-value caches of earlier prompts, so that the next turn of a chat prefills only what is new.

Decides what is kept and what is evicted: bounded by tokens and bytes, least recently used first. Does what mlx-lm's
LRUPromptCache does, with another index (worker/cache/prefix_index.py says why), and a cache hit counts as use. The
caches are in a Store (worker/cache/store.py). Knows nothing of requests.
"""

from collections import Counter, OrderedDict
from itertools import pairwise
from typing import Any

from mlx_lm.models.cache import trim_prompt_cache

from worker.cache.kv_caches import can_go_back
from worker.cache.prefix_index import Key, PrefixIndex, key_of, length
from worker.cache.store import Entry, Store

# The most entries: eviction walks through them.
_MAX_ENTRIES = 256

# With which turns the tokens of an entry end, the first to be evicted first.
_KINDS = ("assistant", "user", "system")

# The default size: a share of the memory that the weights leave, and its upper bound; without a limit a fixed size.
_DEFAULT_SHARE = 0.25
_DEFAULT_MOST_BYTES = 2 * 2**30
_DEFAULT_BYTES = 512 * 2**20


def default_bytes(memory_limit_bytes: int, weights_bytes: int) -> int:
    """The size of the cache without a setting. memory_limit_bytes: of the process, 0 for none."""
    if not memory_limit_bytes:
        return _DEFAULT_BYTES
    return min(_DEFAULT_MOST_BYTES, max(0, int((memory_limit_bytes - weights_bytes) * _DEFAULT_SHARE)))


class PromptCache:
    """Caches by their tokens. A limit of 0 turns it off.

    Mutable state: the entries, least recently used first, and the index of their tokens. Their sums are kept too:
    adding up 256 entries for every answer would take longer than all else here.
    """

    def __init__(self, max_tokens: int, max_bytes: int, store: Store) -> None:
        self._max_tokens = max_tokens
        self._max_bytes = self._most_bytes = max_bytes
        self._store = store
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._index = PrefixIndex()
        self._nbytes = self._tokens = 0
        self._kinds: Counter[str] = Counter()
        for key, entry in store.entries().items():
            self._add(key, entry)
        self._evict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._max_tokens > 0 and self._most_bytes > 0

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return self._nbytes

    @property
    def tokens(self) -> int:
        """Tokens of all entries."""
        return self._tokens

    def bound(self, max_bytes: int) -> None:
        """Keep at most so many bytes from now on, and never more than at the beginning."""
        self._max_bytes = min(max_bytes, self._most_bytes)
        self._evict()

    def clear(self) -> None:
        """Keep nothing of what is here now."""
        for key in list(self._entries):
            self._drop(key)

    def known(self, tokens: list[int]) -> int:
        """How many tokens `fetch` would return, without a copy; does not count as use."""
        near = self._nearest(tokens)
        return 0 if near is None else near[1]

    def fetch(self, tokens: list[int]) -> tuple[list[Any] | None, int]:
        """A copy of a cache of the first n of `tokens`, and n, which leaves at least one token. (None, 0) is a miss."""
        while near := self._nearest(tokens):
            known, count = near
            cache = self._store.load(known)
            if cache is None:
                self._drop(known)
                continue
            self._entries.move_to_end(known)
            trim_prompt_cache(cache, length(known) - count)
            return cache, count
        return None, 0

    def store(self, tokens: list[int], cache: list[Any], kind: str = "assistant") -> None:
        """Keep the cache of exactly these tokens. It belongs to this object from now on. kind: with which turns the
        tokens end, one of _KINDS."""
        entry = Entry(sum(layer.nbytes for layer in cache), kind, can_go_back(cache))
        # An entry that is too large would evict all others, and then itself.
        if not self.is_on or not tokens or len(tokens) > self._max_tokens or entry.nbytes > self._max_bytes:
            return
        key = key_of(tokens)
        # A prefix is redundant if the longer cache can be shortened to it.
        while (known := self._index.beginning_of(key)) and (known == key or entry.can_be_shortened):
            self._drop(known)
        self._store.keep(key, entry, cache)
        self._add(key, entry)
        self._evict()

    def _nearest(self, tokens: list[int]) -> tuple[Key, int] | None:
        """The entry with the longest usable prefix of `tokens`, and its length."""
        wanted = key_of(tokens[:-1])
        near = self._index.nearest(wanted)
        if near is not None and near[1] < length(near[0]) and not self._entries[near[0]].can_be_shortened:
            known = self._index.beginning_of(wanted)
            near = None if known is None else (known, length(known))
        return near

    def _evict(self) -> None:
        while len(self._entries) > _MAX_ENTRIES or self._tokens > self._max_tokens or self._nbytes > self._max_bytes:
            self._drop(self._next_to_leave())

    def _next_to_leave(self) -> Key:
        """As mlx-lm's LRUPromptCache chooses: of a kind that has at least as many entries as the next one."""
        counts = self._kinds
        kinds = (kind for kind, after in pairwise(_KINDS) if counts[kind] and counts[kind] >= counts[after])
        kind = next(kinds, _KINDS[-1])
        return next(key for key, entry in self._entries.items() if entry.kind == kind)

    def _add(self, key: Key, entry: Entry) -> None:
        self._entries[key] = entry
        self._index.add(key)
        self._count(key, entry, 1)

    def _drop(self, key: Key) -> None:
        self._count(key, self._entries.pop(key), -1)
        self._index.remove(key)
        self._store.drop(key)

    def _count(self, key: Key, entry: Entry, times: int) -> None:
        self._nbytes += times * entry.nbytes
        self._tokens += times * length(key)
        self._kinds[entry.kind] += times
