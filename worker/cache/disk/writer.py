"""Writes cached prompts behind the answers: a thread with a queue, bounded in bytes per second.

The first error of the disk ends the writing of this process, with one line in the log: a full or read-only disk must
cost nobody an answer. What is there already can still be read.
"""

import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread

from broker.wire.failure import named_line
from worker.cache.disk.files import Tensor, Uncached, write_file
from worker.cache.disk.space import Space

log = logging.getLogger("worker")

# Copies of the caches of live sequences that may wait for the disk. Those of ended ones are no copies.
MOST_COPIED_BYTES = 64 * 2**20

# So many seconds without writes may be made up for: prompts come in bursts, and what waits is lost if the process dies.
BURST_SECONDS = 60.0


@dataclass(slots=True, frozen=True)
class Job:
    """One file. nbytes: about; tensors: called by the writer's thread, must not use MLX. used: files to be marked as
    used after that, the one that should go first at the beginning; replaces: it may be there with other content; then
    it waits until nothing else does, and one that comes later with the same name takes its place."""

    file: str
    nbytes: int
    tensors: Callable[[], Mapping[str, Tensor]]
    facts: Mapping[str, str]
    used: tuple[str, ...] = ()
    replaces: bool = False


class Writer:
    """Mutable state, all under one lock: the queue of jobs, each with its owner, None for a copy, and those that
    replace files, by file; the bytes of all, and of copies; whether it has been turned off, or is to end."""

    def __init__(
        self,
        folders: tuple[Path, ...],
        space: Space,
        bytes_per_second: float,
        uncached: Uncached,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """folders: from the one of all models down to the one of these files."""
        self._folders = folders
        self._folder = f"{folders[-1]}/"
        self._space = space
        self._rate = bytes_per_second
        self._uncached = uncached
        self._clock = clock
        self._may_write_at = 0.0
        self._changed = Condition()
        self._queue: deque[tuple[bytes | None, Job]] = deque()
        self._replacing: dict[str, tuple[bytes | None, Job]] = {}
        self._queued = self._copied = 0
        self._is_off = self._is_ending = False
        self._thread = Thread(target=self._run, name="prompt-cache", daemon=True)
        self._thread.start()

    @property
    def queued_bytes(self) -> int:
        """What waits to be written. May be called from any thread."""
        return self._queued

    @property
    def is_off(self) -> bool:
        """Whether the disk has failed."""
        return self._is_off

    @property
    def room(self) -> int:
        """Bytes of copies that it takes."""
        return MOST_COPIED_BYTES - self._copied

    def offer(self, job: Job) -> None:
        """Take a copy, for which there must be room."""
        with self._changed:
            if not self._is_off:
                self._put(None, job)

    def enter(self, owner: bytes, jobs: list[Job]) -> None:
        """The files of an entry of the prompt cache."""
        with self._changed:
            if not self._is_off:
                for job in jobs:
                    self._put(owner, job)

    def cancel(self, owner: bytes | None = None) -> None:
        """Forget what is left of an entry, or the whole queue."""
        with self._changed:
            if self._is_empty:
                return
            waiting = [*self._queue, *self._replacing.values()]
            kept = [] if owner is None else [one for one in waiting if one[0] != owner]
            self._queue.clear()
            self._replacing.clear()
            self._queued = self._copied = 0
            for one in kept:
                self._put(*one)

    def forget(self) -> None:
        """Remove all files of this model; what is queued is not written any more."""
        self.cancel()
        self.enter(b"", [Job("", 0, self._remove, {})])

    def wait(self, seconds: float) -> bool:
        """Whether the queue is empty within this time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_empty, seconds)

    def close(self, seconds: float) -> None:
        """Write what is queued within this time, without the bound of bytes per second, and end."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        self._thread.join(seconds)

    @property
    def _is_empty(self) -> bool:
        return not (self._queue or self._replacing)

    def _put(self, owner: bytes | None, job: Job) -> None:
        if job.replaces:
            if (older := self._replacing.pop(job.file, None)) is not None:
                self._count(*older, -1)
            self._replacing[job.file] = owner, job
        else:
            self._queue.append((owner, job))
        self._count(owner, job, 1)
        self._changed.notify_all()

    def _count(self, owner: bytes | None, job: Job, times: int) -> None:
        self._queued += times * job.nbytes
        if owner is None:
            self._copied += times * job.nbytes

    def _run(self) -> None:
        try:
            self._make_folders()
            self._space.look()
            while (job := self._next()) is not None:
                self._perform(job)
                self._done(job)
        except Exception as error:  # noqa: BLE001 # else the queue would never be empty again
            log.warning("the prompt cache on disk is off: %s", named_line(error))
            with self._changed:
                self._is_off = True
        self.cancel()
        with self._changed:
            self._changed.notify_all()

    def _next(self) -> Job | None:
        """The first job, once the bound of bytes per second allows it; it stays in the queue until it is done."""
        with self._changed:
            while True:
                left = self._may_write_at - self._clock()
                if not self._is_empty and (left <= 0 or self._is_ending):
                    return (self._queue[0] if self._queue else next(iter(self._replacing.values())))[1]
                if self._is_ending:
                    return None
                self._changed.wait(None if self._is_empty else left)

    def _done(self, job: Job) -> None:
        with self._changed:
            if self._queue and self._queue[0][1] is job:
                self._count(*self._queue.popleft(), -1)
            elif job.file in self._replacing and self._replacing[job.file][1] is job:
                self._count(*self._replacing.pop(job.file), -1)
            self._changed.notify_all()

    def _perform(self, job: Job) -> None:
        path = self._folder + job.file
        if not job.file:
            job.tensors()
        elif (job.replaces or not os.path.exists(path)) and self._space.make_room(job.nbytes):
            self._write(path, job)
        for file in job.used:
            with suppress(FileNotFoundError):
                os.utime(self._folder + file)

    def _write(self, path: str, job: Job) -> None:
        tensors = job.tensors()
        replaced = _size_of(path) if job.replaces else None
        try:
            nbytes = write_file(path, tensors, job.facts, self._uncached)
        except FileNotFoundError:  # all of it has been forgotten, and so is what waits
            self.cancel()
            self._make_folders()
            return
        self._space.written(path, nbytes, replaced)
        self._may_write_at = max(self._may_write_at, self._clock() - BURST_SECONDS) + nbytes / self._rate

    def _remove(self) -> Mapping[str, Tensor]:
        shutil.rmtree(self._folders[1], ignore_errors=True)
        self._make_folders()
        self._space.look()
        return {}

    def _make_folders(self) -> None:
        first, *others = self._folders
        first.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in others:
            folder.mkdir(mode=0o700, exist_ok=True)


def _size_of(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None
