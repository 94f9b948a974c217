"""The space that cached prompts take on disk: of all models of one service together, least recently used first to go.

Every worker looks at all files now and then; between two looks it knows only of its own writes. So the bound can be
passed by what other workers write within a few seconds.
"""

import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from worker.cache.disk.files import PART_SUFFIX
from worker.cache.disk.naming import SUFFIX

# The most files: a look takes as long as there are files.
_MOST_FILES = 16_384

# A file that a process was killed over while it wrote: how old it must be to be no other process's.
_LEFT_SECONDS = 60.0

# A look is worth at most this share of a thread's time, and is never older than the seconds allow.
_LOOK_SHARE = 0.02
_LOOK_SECONDS = 5.0


@dataclass(slots=True, frozen=True)
class Bounds:
    """max_bytes: on disk, for all models; reserve_bytes: of the disk, to be left to others."""

    max_bytes: int
    reserve_bytes: int


class Space:
    """Mutable state: what the last look has found, the least recently used first; the bytes in all, and those of `own`,
    with what has been written since; when the next look is due."""

    def __init__(
        self,
        whole: Path,
        own: Path,
        bounds: Bounds,
        *,
        clock: Callable[[], float] = time.monotonic,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        """whole: the folder of all models; own: a folder within, of this one."""
        self._whole = whole
        self._own = f"{own}/"
        self._bounds = bounds
        self._clock = clock
        self._free_bytes = free_bytes
        self._found: deque[tuple[int, int, str]] = deque()
        self._due = 0.0
        self.bytes = self.files = 0
        self.own_bytes = self.own_files = 0

    def look(self) -> None:
        """Count all files, and remove what processes have left that were killed while they wrote."""
        began = self._clock()
        found: list[tuple[int, int, str]] = []
        self.bytes = self.files = self.own_bytes = self.own_files = 0
        for path, status in _files(str(self._whole)):
            if path.endswith(SUFFIX):
                found.append((status.st_mtime_ns, status.st_size, path))
                self._count(path, status.st_size, 1)
            elif path.endswith(PART_SUFFIX) and time.time() - status.st_mtime > _LEFT_SECONDS:
                _remove(path)
        self._found = deque(sorted(found))
        ended = self._clock()
        self._due = ended + max(_LOOK_SECONDS, (ended - began) / _LOOK_SHARE)

    def make_room(self, nbytes: int) -> bool:
        """Whether a file of this size may be written; removes the least recently used for it. Raises OSError."""
        if self._clock() >= self._due:
            self.look()
        while self._lacks(nbytes):
            if not self._found:
                return False
            used, size, path = self._found.popleft()
            if not _is_used_since(path, used):
                _remove(path)
                self._count(path, size, -1)
        return True

    def written(self, path: str, nbytes: int, replaced: int | None = None) -> None:
        """This process has written a file. replaced: the size of the one that was there."""
        if replaced is not None:
            self._count(path, replaced, -1)
        self._count(path, nbytes, 1)

    def _lacks(self, nbytes: int) -> bool:
        most = self._bounds.max_bytes
        if self.bytes + nbytes > most or self.files >= _MOST_FILES:
            return True
        return self._free_bytes(self._whole) - nbytes < self._bounds.reserve_bytes

    def _count(self, path: str, nbytes: int, times: int) -> None:
        self.bytes += times * nbytes
        self.files += times
        if path.startswith(self._own):
            self.own_bytes += times * nbytes
            self.own_files += times


def _is_used_since(path: str, used: int) -> bool:
    """Whether it has been used since that time, in nanoseconds."""
    try:
        return os.stat(path).st_mtime_ns > used
    except FileNotFoundError:
        return False


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _files(folder: str) -> "list[tuple[str, os.stat_result]]":
    """All below this folder. What goes meanwhile is left out."""
    found = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    found += _files(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    found.append((entry.path, entry.stat(follow_symlinks=False)))
    return found
