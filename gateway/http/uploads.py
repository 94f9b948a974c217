"""Files that clients upload: in a folder of this gateway's own, each for as long as its request lasts.

The folder is `uploads/<name>/` in the state directory, which is on a disk, and locked while its gateway lives. So
another gateway can tell what one that was killed has left behind, and removes it when it starts. Only this user can
read the files.
"""

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

from broker.wire.failure import Code, Failure, FailureError, one_line

log = logging.getLogger(__name__)

FOLDER = "uploads"
AT_ONCE = 16  # times the limit of one file: so many bytes may lie there at a time
FREE_BYTES = 2**30  # of the disk, which are left to others

Disk = Callable[[Path], os.statvfs_result]


class Upload:
    """One file. `write` may run in a thread; a `close` meanwhile waits for it."""

    def __init__(self, path: Path, disk: Disk = os.statvfs) -> None:
        self.path = path
        self._disk = disk
        self.size = 0
        self._hash = blake2b(digest_size=16)
        self._lock = threading.Lock()
        _check_room(disk, path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file: int | None = os.open(path, flags, 0o600)

    @property
    def digest(self) -> bytes:
        """Of its bytes."""
        return self._hash.digest()

    def write(self, data: bytes) -> None:
        """The next bytes. Raises FailureError if the disk does not take them."""
        with self._lock:
            if self._file is None:  # its request has ended
                return
            self._hash.update(data)
            left = memoryview(data)
            try:
                _check_room(self._disk, self.path.parent)
                while left:
                    left = left[os.write(self._file, left) :]
            except OSError as error:
                raise _unwritable(error) from None
            self.size += len(data)

    def close(self) -> None:
        """No more bytes come."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def remove(self) -> None:
        """Close and delete it."""
        self.close()
        self.path.unlink(missing_ok=True)


class Uploads:
    """The files of one gateway. limit: bytes of one file; disk: what is free in a folder. Mutable state: the folder,
    once there is one, and how many bytes have been let in for files that are still there."""

    def __init__(self, state_dir: Path, limit: int, disk: Disk = os.statvfs) -> None:
        self.limit = limit
        self._disk = disk
        self._all = state_dir.absolute() / FOLDER  # workers open them, wherever they run
        self._own: Path | None = None
        self._locked = -1
        self._taken = 0

    def open(self) -> None:
        """Remove what dead gateways have left. A place that cannot be used is an error of the uploads alone."""
        try:
            for left in sorted(self._all.iterdir()):
                if _remove_if_left(left):
                    log.info("removed uploads that another gateway has left: %s", left.name)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("uploads cannot be stored in %s: %s", self._all, one_line(error.strerror or error))

    def close(self) -> None:
        """Remove the folder, and what is in it."""
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            os.close(self._locked)
            self._own = None

    @contextlib.contextmanager
    def new(self) -> Iterator["UploadPlace"]:
        """A place for one file, which is removed at the end of the block. Raises FailureError if there is none."""
        try:
            place = UploadPlace(self, Upload(self._folder() / secrets.token_hex(16), self._disk))
        except OSError as error:
            raise _unwritable(error) from None
        try:
            yield place
        finally:
            place.file.remove()
            self._taken -= place.taken

    def take(self, size: int) -> None:
        """So many more bytes come. Raises FailureError `rate_limit_exceeded`."""
        if self._taken + size > AT_ONCE * self.limit:
            message = f"uploads of other requests take {self._taken >> 20} MiB: send this one later"
            raise FailureError(Failure(Code.RATE_LIMIT_EXCEEDED, message, retry_after=1, retryable=True))
        self._taken += size

    def _folder(self) -> Path:
        """Its own, made if there is none: something may have emptied the state directory."""
        if self._own is None or not self._own.exists():
            self._all.mkdir(mode=0o700, parents=True, exist_ok=True)
            while not self._make(self._all / secrets.token_hex(8)):
                pass  # another gateway took it for one that was left
        assert self._own is not None  # which `_make` has set
        return self._own

    def _make(self, path: Path) -> bool:
        path.mkdir(mode=0o700)
        locked = _lock(path)
        if locked is None or not path.exists():
            if locked is not None:
                os.close(locked)
            return False
        if self._own is not None:
            os.close(self._locked)
        self._own, self._locked = path, locked
        return True


class UploadPlace:
    """A file and what is counted for it. taken: bytes that were let in."""

    def __init__(self, uploads: Uploads, file: Upload) -> None:
        self.file = file
        self.limit = uploads.limit
        self.taken = 0
        self._uploads = uploads

    def take(self, size: int) -> None:
        """So many more bytes come. Raises FailureError."""
        self._uploads.take(size)
        self.taken += size


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock of a folder. None: another process has it, or there is no such folder."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        return None
    except OSError:
        os.close(folder)
        raise
    return folder


def _remove_if_left(path: Path) -> bool:
    try:
        locked = _lock(path)
    except OSError:  # no folder, or one of another user
        return False
    if locked is None:
        return False
    shutil.rmtree(path, ignore_errors=True)
    os.close(locked)
    return True


def _check_room(disk: Disk, folder: Path) -> None:
    """Raises OSError where the disk has less free than is left to others."""
    room = disk(folder)
    if room.f_bavail * room.f_frsize < FREE_BYTES:
        raise OSError(errno.ENOSPC, f"its disk has less than {FREE_BYTES >> 20} MiB free")


def _unwritable(error: OSError) -> FailureError:
    message = f"the upload cannot be stored: {one_line(error.strerror or error)}"
    log.warning("%s", message)
    return FailureError(Failure(Code.INSUFFICIENT_STORAGE, message, retryable=True))
