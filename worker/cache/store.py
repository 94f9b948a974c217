"""Where the prompt cache keeps its entries: an interface, and the store that lives and dies with the process.

A store decides nothing: worker/cache/prompt_cache.py says what is kept and what is evicted.
"""

import copy
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from worker.cache.prefix_index import Key


@dataclass(slots=True, frozen=True)
class Entry:
    """Facts about one cache. nbytes: of all layers; kind: with which turns its tokens end; can_be_shortened: whether it
    can go back to an earlier token."""

    nbytes: int
    kind: str
    can_be_shortened: bool


class Store(Protocol):
    """Caches by their tokens. Called from the engine's thread only."""

    def entries(self) -> dict[Key, Entry]:
        """What an earlier process has left, the least recently used first."""

    def keep(self, key: Key, entry: Entry, cache: list[Any]) -> None:
        """Keep the cache of exactly these tokens. It belongs to the store from now on."""

    def load(self, key: Key) -> list[Any] | None:
        """A cache that the caller may change; None if it is lost or damaged, which is a cache miss."""

    def drop(self, key: Key) -> None:
        """Forget an entry; a lost one too."""


class MemoryStore:
    """Keeps the caches as they are."""

    def __init__(self) -> None:
        self._caches: dict[Key, list[Any]] = {}

    def entries(self) -> dict[Key, Entry]:
        """As in Store: always empty."""
        return {}

    def keep(self, key: Key, _entry: Entry, cache: list[Any]) -> None:
        """As in Store."""
        # A slice of a batch would keep the whole batch in memory until it is computed.
        mx.async_eval([layer.state for layer in cache])  # type: ignore[no-untyped-call]
        self._caches[key] = cache

    def load(self, key: Key) -> list[Any] | None:
        """As in Store: a copy."""
        return copy.deepcopy(self._caches.get(key))

    def drop(self, key: Key) -> None:
        """As in Store."""
        self._caches.pop(key, None)
