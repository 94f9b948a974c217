"""The prompt cache on disk, of one model in one process: finds and reads the files of a prompt, and queues new ones.

Reads in a thread of its own, writes in another (writer.py). A cache that can be shortened lies there in blocks of
tokens, any other whole, as it was at a checkpoint. Knows no batch and no requests.
"""

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from worker.cache.disk.files import DamagedError, Scratch, Tensor, Uncached, keep_out_of_page_cache, read_file
from worker.cache.disk.layers import BlockReader, ReadCache, cut, is_quantised, on_own_stream, read_whole, whole
from worker.cache.disk.naming import (
    BLOCK,
    Namer,
    block_file,
    checkpoint_file,
    checkpoint_files,
    checkpoint_length,
    tail_file,
)
from worker.cache.disk.space import Bounds, Space
from worker.cache.disk.writer import Job, Writer
from worker.cache.worthwhile import WORTHWHILE

log = logging.getLogger("worker")


@dataclass(slots=True, frozen=True)
class DiskSettings:
    """folder: of one model, within the one of all. bytes_per_second: that one process writes on average."""

    folder: Path
    bounds: Bounds
    bytes_per_second: float


@dataclass(slots=True, frozen=True)
class Found:
    """Files that hold the beginning of a prompt. tokens: so many; tail: a file with some that may follow; rest: those
    that do, as many as a tail can have."""

    files: list[str]
    tokens: int
    is_whole: bool
    tail: str | None = None
    rest: tuple[int, ...] = ()


class DiskCache:
    """Mutable state: the lengths of the whole caches, as they were when the folder was last changed; what has been
    counted."""

    def __init__(
        self,
        settings: DiskSettings,
        fingerprint: bytes,
        *,
        quantises: bool = False,
        uncached: Uncached = keep_out_of_page_cache,
        make_space: Callable[..., Space] = Space,
    ) -> None:
        """fingerprint: of all that decides what a cache of some tokens holds. quantises: whether caches of this engine
        may be quantised."""
        self._fingerprint = fingerprint
        self._kinds = (True, False) if quantises else (False,)
        self._uncached = uncached
        folder = settings.folder / Namer(fingerprint).name([], 0)
        self._folder = f"{folder}/"
        self._space = make_space(settings.folder.parent, settings.folder, settings.bounds)
        folders = (settings.folder.parent, settings.folder, folder)
        self.writer = Writer(folders, self._space, settings.bytes_per_second, uncached)
        self._reader = ThreadPoolExecutor(1, "prompt-cache-reader", on_own_stream)
        self._lengths: tuple[int, frozenset[int]] = (0, frozenset())
        self.hits = 0

    @property
    def nbytes(self) -> int:
        """Of this model's files. May be called from any thread."""
        return self._space.own_bytes

    @property
    def files(self) -> int:
        """How many this model has. May be called from any thread."""
        return self._space.own_files

    def find_blocks(self, tokens: list[int]) -> Found | None:
        """The longest beginning that is there; leaves at least one token."""
        found: list[str] = []
        last = ""  # the name of the last block, if it may have a tail
        for quantised in self._kinds:
            namer, names = Namer(self._fingerprint), []
            for end in range(BLOCK, len(tokens), BLOCK):
                name = namer.name(tokens, end)
                if not self.has(block_file(name, is_quantised=quantised)):
                    break
                names.append(name)
            if len(names) > len(found):
                found = [block_file(name, is_quantised=quantised) for name in names]
                last = "" if quantised else names[-1]
        if not found:
            return None
        end = len(found) * BLOCK
        behind = tuple(tokens[end : end + BLOCK])
        tail = tail_file(last, behind) if last else None
        has_tail = tail is not None and self.has(tail)
        return Found(found, end, False, tail if has_tail else None, behind[: len(tokens) - 1 - end])

    def find_whole(self, tokens: list[int]) -> Found | None:
        """The longest whole cache of a beginning that leaves at least one token."""
        for length, file in checkpoint_files(self._fingerprint, tokens[:-1], self._known_lengths()):
            if self.has(file):
                return Found([file], length, is_whole=True)
        return None

    def read(self, found: Found, most: int) -> "Future[ReadCache | None]":
        """What these files hold, perhaps less than was found; None if nothing can be used. most: tokens that blocks
        should have room for."""
        return self._reader.submit(self._read, found, max(most, found.tokens))

    def count_hit(self) -> None:
        """A prompt has got its beginning from here."""
        self.hits += 1

    def has(self, file: str) -> bool:
        """Whether there is such a file, damaged or not."""
        return os.path.exists(self._folder + file)

    def namer(self) -> Namer:
        """Names the beginnings of one sequence."""
        return Namer(self._fingerprint)

    def keep_blocks(self, owner: bytes, tokens: list[int], layers: list[Any]) -> None:
        """Write the complete blocks of an entry of the prompt cache, whose arrays must not change any more."""
        namer, quantised = self.namer(), is_quantised(layers)
        names = [namer.name(tokens, end) for end in range(BLOCK, len(tokens) + 1, BLOCK)]
        if not names:
            return
        files = [block_file(name, is_quantised=quantised) for name in names]
        missing = [(number, file) for number, file in enumerate(files) if not self.has(file)]
        behind = tokens[len(files) * BLOCK :]
        tail = None if quantised or len(behind) < WORTHWHILE else tail_file(names[-1], behind)
        jobs = []
        if missing or tail is not None:
            whole_cut = cut(layers)
            size, facts = whole_cut.block_bytes, whole_cut.form.facts
            jobs = [Job(file, size, partial(whole_cut.block, number), facts) for number, file in missing]
            if tail is not None:
                content = partial(whole_cut.tail, tokens)
                jobs.append(Job(tail, size * len(behind) // BLOCK, content, facts, _marks(files), replaces=True))
        self.writer.enter(owner, jobs if tail is not None else [*jobs, _use(files)])

    def keep_whole(self, owner: bytes, tokens: list[int], layers: list[Any]) -> None:
        """Write an entry of the prompt cache in one file; its arrays must not change any more."""
        file = checkpoint_file(self.namer().name(tokens, len(tokens)), len(tokens))
        tensors, facts = whole(layers)
        nbytes = sum(tensor.data.nbytes for tensor in tensors.values())
        self.writer.enter(owner, [Job(file, nbytes, lambda: tensors, facts, (file,))])

    def forget(self) -> None:
        """Nothing that is queued is written any more, and no file stays that this process writes just now."""
        self.writer.forget()

    def close(self, seconds: float) -> None:
        """Write for so long what is queued."""
        self._reader.shutdown(wait=False, cancel_futures=True)
        self.writer.close(seconds)

    def _read(self, found: Found, most: int) -> ReadCache | None:
        scratch = Scratch()
        try:
            if found.is_whole:
                content = self._content(found.files[0], scratch)
                cache = None if content is None else read_whole(*content, found.tokens)
            else:
                cache = self._read_blocks(found, most, scratch)
        except DamagedError:
            self._drop(found.files)
            return None
        if cache is not None:
            self.writer.enter(b"", [_use([*found.files, found.tail] if found.tail else found.files)])
        return cache

    def _read_blocks(self, found: Found, most: int, scratch: Scratch) -> ReadCache | None:
        blocks, is_all = None, True
        for file in found.files:
            if (content := self._content(file, scratch)) is None:
                is_all = False
                break
            blocks = blocks or BlockReader(most)
            blocks.add(*content)
        if blocks is None:
            return None
        if found.tail and is_all and (content := self._content(found.tail, scratch)) is not None:
            blocks.add_tail(*content, list(found.rest))
        return blocks.cache()

    def _content(self, file: str, scratch: Scratch) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """None for a file that is missing or damaged, which is removed."""
        try:
            return read_file(self._folder + file, self._uncached, scratch)
        except OSError:
            return None
        except DamagedError:
            self._drop([file])
            return None

    def _drop(self, files: list[str]) -> None:
        log.warning("removed a damaged file of the prompt cache on disk")
        for file in files:
            with suppress(OSError):
                os.unlink(self._folder + file)

    def _known_lengths(self) -> frozenset[int]:
        try:
            changed = os.stat(self._folder).st_mtime_ns
            if changed != self._lengths[0]:
                files = os.listdir(self._folder)
                lengths = (checkpoint_length(file) for file in files)
                self._lengths = changed, frozenset(length for length in lengths if length is not None)
        except OSError:
            return frozenset()
        return self._lengths[1]


def _use(files: list[str]) -> Job:
    return Job("", 0, dict, {}, _marks(files))


def _marks(files: list[str]) -> tuple[str, ...]:
    """The order in which files are marked as used, so that the end of a chat goes before its beginning."""
    return tuple(reversed(files))
