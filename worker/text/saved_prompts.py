"""Between the text engine and the prompt cache on disk: what of live sequences is written as they go on, and which
requests wait for a cache that is being read. All methods are called from the engine's thread.
"""

import logging
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYetError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Generic, TypeVar

import mlx.core as mx

from worker.cache.disk.disk_cache import DiskCache
from worker.cache.disk.layers import BlockForm, ReadCache, can_be_whole, form_of, is_quantised, tensors_of
from worker.cache.disk.naming import BLOCK, Namer, block_file
from worker.cache.disk.writer import Job
from worker.cache.prefix_index import Key, tokens_of
from worker.cache.store import Entry, Store
from worker.cache.worthwhile import WORTHWHILE
from worker.text.batch import Batch

log = logging.getLogger("worker")

T = TypeVar("T")

# Decode steps between two looks at live sequences, at least: those that complete blocks at different times wait for the
# device together. At most: where none completes a block before, or the queue is full.
_SELDOM = 16
_EVERY = 64

# Bytes that a look copies, or one block: all sequences wait for it.
_COPIED_BYTES = 16 * 2**20

# A cache is read from disk if that saves at least this part of it: memory may hold almost as much.
_LEAST_PART = 8

# How long a step without other work waits for the disk, and how long a request does before it prefills everything.
_WAIT_SECONDS = 0.005
_MOST_SECONDS = 10.0

# How long the last writes of a process may take.
_CLOSE_SECONDS = 1.0


@dataclass(slots=True)
class _Watched:
    """A sequence in the batch. form: of its files, once there is one; done: its blocks that have been written or
    queued."""

    namer: Namer
    form: BlockForm | None = None
    is_quantised: bool = False
    done: int = 0

    @property
    def end(self) -> int:
        """Of its next block, in tokens."""
        return (self.done + 1) * BLOCK


@dataclass(slots=True, frozen=True)
class _Copy:
    """A block of a live sequence, lazily."""

    file: str
    form: BlockForm
    arrays: dict[str, mx.array]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


@dataclass(slots=True)
class _Reading(Generic[T]):
    what: T
    future: "Future[ReadCache | None]"
    until: float


class SavedPrompts(Generic[T]):
    """Mutable state: the sequences that have been looked at; steps between this look and the next, those that are left,
    and those after which a block is complete; the bytes of a block; the requests whose cache is being read; entries of
    the prompt cache that are not queued yet."""

    def __init__(self, disk: DiskCache | None, batch: Batch, *, in_blocks: bool) -> None:
        """disk: None for none. in_blocks: whether caches can be shortened."""
        self._disk = disk
        self._batch = batch
        self._in_blocks = in_blocks
        self._live: dict[int, _Watched] = {}
        self._between = self._steps = self._until_block = _EVERY
        self._block_bytes = 1  # unknown
        self._prefilled = batch.prefilled
        self._reading: dict[bytes, _Reading[T]] = {}
        self._fresh: dict[Key, list[Any]] = {}

    @property
    def reading(self) -> int:
        """How many requests wait for the disk. May be called from any thread."""
        return len(self._reading)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """(bytes of files, files, hits, bytes that wait to be written). May be called from any thread."""
        disk = self._disk
        if disk is None:
            return 0, 0, 0, 0
        is_complete = bool(self._live) and self._between - self._steps >= self._until_block
        return disk.nbytes, disk.files, disk.hits, disk.writer.queued_bytes + is_complete * self._block_bytes

    def over(self, store: Store) -> Store:
        """The store that also writes to disk what it keeps."""
        return store if self._disk is None else _SavingStore(store, self._fresh, self._disk)

    def begin(self, request_id: bytes, what: T, tokens: list[int], known: int) -> bool:
        """Whether this request waits for its cache, `known` tokens of which are in memory."""
        if self._disk is None or len(tokens) <= known + WORTHWHILE:
            return False
        found = self._disk.find_blocks(tokens) if self._in_blocks else self._disk.find_whole(tokens)
        if found is None or found.tokens - known < max(WORTHWHILE, found.tokens // _LEAST_PART):
            return False
        self._reading[request_id] = _Reading(what, self._disk.read(found, _room(tokens)), monotonic() + _MOST_SECONDS)
        return True

    def ended(self, *, waits: bool) -> list[tuple[T, list[Any] | None, int]]:
        """Requests whose cache has been read: (what, the cache, its tokens), or None and 0 if it cannot be used. waits:
        for a moment, because there is nothing else to do."""
        if not self._reading:
            return []
        if waits:
            first = next(iter(self._reading.values()))
            with suppress(NotYetError):
                first.future.exception(_WAIT_SECONDS)
        now = monotonic()
        done = [one for one, reading in self._reading.items() if reading.future.done() or now > reading.until]
        return [self._result(self._reading.pop(request_id)) for request_id in done]

    def drop(self, request_id: bytes) -> T | None:
        """A request has gone; what it was, if it has been waiting for the disk."""
        reading = self._reading.pop(request_id, None)
        if reading is None:
            return None
        reading.future.cancel()
        return reading.what

    def look(self) -> None:
        """After each step: queue the blocks that live sequences have completed."""
        if self._disk is None:
            return
        if self._fresh:
            self.settle()
        self._steps -= 1
        if not self._in_blocks or (self._steps > 0 and self._batch.prefilled == self._prefilled):
            return
        self._prefilled = self._batch.prefilled
        self._between = self._steps = self._copy_blocks(self._disk)

    def idle(self) -> None:
        """No sequence is left: nothing will come to look again."""
        self.settle()
        self._live.clear()

    def settle(self) -> None:
        """Queue the entries that the prompt cache has kept since the last step."""
        if self._disk is None or not self._fresh:
            return
        for key, layers in self._fresh.items():
            tokens = tokens_of(key)
            if self._in_blocks:
                self._disk.keep_blocks(key, tokens, layers)
            elif can_be_whole(layers):
                self._disk.keep_whole(key, tokens, layers)
        self._fresh.clear()

    def forget(self) -> None:
        """Remove what is on disk; nothing that is queued is written any more."""
        if self._disk is not None:
            self._live.clear()
            self._disk.forget()

    def close(self) -> None:
        """Write what is queued, for a bounded time."""
        if self._disk is not None:
            self.settle()
            self._disk.close(_CLOSE_SECONDS)

    def _copy_blocks(self, disk: DiskCache) -> int:
        """Queue blocks that are complete, as many as one look may copy; the steps until the next look."""
        if disk.writer.is_off:
            self._live.clear()
            return _EVERY
        seen: dict[int, _Watched] = {}
        blocks: list[_Copy] = []
        copied, room, steps = 0, disk.writer.room, 0
        left = _EVERY
        for uid, tokens, settled in self._batch.settled():
            live = seen[uid] = self._live.get(uid) or _Watched(disk.namer())
            while not steps and live.end <= settled:
                block = self._block(disk, uid, live, tokens, settled)
                size = 0 if block is None else block.nbytes
                if copied + size > room:
                    steps = _EVERY
                elif copied and copied + size > _COPIED_BYTES:
                    steps = 1
                else:
                    live.done += 1
                    if block is not None:
                        blocks.append(block)
                        copied += size
            # A sequence grows by a token in a step, or by prefill.
            left = min(left, max(0, live.end - settled))
        self._live = seen
        self._until_block = left
        if blocks:
            self._queue(disk, blocks)
        return steps or max(left, _SELDOM)

    def _block(self, disk: DiskCache, uid: int, live: _Watched, tokens: list[int], settled: int) -> _Copy | None:
        """The next block of this sequence; None if it is on disk already."""
        layers = self._batch.layers(uid)
        quantised = is_quantised(layers)
        if live.form is None or live.is_quantised is not quantised:
            live.namer, live.form, live.is_quantised, live.done = disk.namer(), form_of(layers), quantised, 0
            # One that goes on from the disk has all of them there. What lacks is written at its end.
            last, namer = settled // BLOCK, disk.namer()
            if disk.has(block_file(namer.name(tokens, last * BLOCK), is_quantised=quantised)):
                live.namer, live.done = namer, last - 1
                return None
        file = block_file(live.namer.name(tokens, live.end), is_quantised=quantised)
        if disk.has(file):
            return None
        return _Copy(file, live.form, self._batch.copies(uid, live.end - BLOCK, live.end, live.form))

    def _queue(self, disk: DiskCache, blocks: list[_Copy]) -> None:
        mx.eval([array for block in blocks for array in block.arrays.values()])
        for block in blocks:
            tensors = tensors_of(block.form, block.arrays)
            self._block_bytes = block.nbytes
            disk.writer.offer(Job(block.file, block.nbytes, partial(dict, tensors), block.form.facts))

    def _result(self, reading: _Reading[T]) -> tuple[T, list[Any] | None, int]:
        assert self._disk is not None
        if not reading.future.done():
            reading.future.cancel()
            log.warning("the prompt cache on disk takes longer than %g s to read", _MOST_SECONDS)
            return reading.what, None, 0
        if (error := reading.future.exception()) is not None:
            log.error("the prompt cache on disk cannot be read", exc_info=error)
            return reading.what, None, 0
        read = reading.future.result()
        if read is None:
            return reading.what, None, 0
        try:
            cache = read.make()
        except ValueError as error:  # checked, and yet not what these caches are made of
            log.error("the prompt cache on disk cannot be used", exc_info=error)
            return reading.what, None, 0
        self._disk.count_hit()
        return reading.what, cache, read.tokens


def _room(tokens: list[int]) -> int:
    """For this prompt and the next tokens, as mlx-lm's caches grow: they need not be copied for them."""
    return (len(tokens) // BLOCK + 1) * BLOCK


class _SavingStore:
    """A Store that hands what it keeps to the disk after the next step: it has to be computed by then."""

    def __init__(self, store: Store, fresh: dict[Key, list[Any]], disk: DiskCache) -> None:
        self._store = store
        self._fresh = fresh
        self._disk = disk

    def entries(self) -> dict[Key, Entry]:
        """As in Store."""
        return self._store.entries()

    def keep(self, key: Key, entry: Entry, cache: list[Any]) -> None:
        """As in Store."""
        self._store.keep(key, entry, cache)
        self._fresh[key] = cache

    def load(self, key: Key) -> list[Any] | None:
        """As in Store."""
        return self._store.load(key)

    def drop(self, key: Key) -> None:
        """As in Store."""
        self._store.drop(key)
        if self._fresh.pop(key, None) is None:
            self._disk.writer.cancel(key)
