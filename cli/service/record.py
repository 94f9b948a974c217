"""The file that says which `mlx-broker serve` runs in a runtime directory. It is locked for as long as that process
lives, so that it never names another one: a process id that has been given away again is behind no lock.
"""

import fcntl
import json
import os
import signal
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from cli.errors import CliError

_READER_SECONDS = 0.5  # for which a reader may hold the lock


@dataclass(slots=True, frozen=True)
class Serving:
    """A `serve` that runs. log: its file, None in the foreground."""

    pid: int
    url: str
    log: str | None = None

    @property
    def is_detached(self) -> bool:
        """Whether it runs without a terminal."""
        return self.log is not None


class TakenError(Exception):
    """Another `serve` runs in this directory."""

    def __init__(self, serving: Serving | None) -> None:
        super().__init__(serving)
        self.serving = serving


def take(path: Path, serving: Serving) -> int:
    """The descriptor that holds the lock: the record stands until it is closed. Raises TakenError or CliError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_anothers(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise CliError(f"runtime_dir {path.parent} cannot be used: {error.strerror}") from error
    deadline = time.monotonic() + _READER_SECONDS
    while not _lock(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            other = _parsed(descriptor)
            os.close(descriptor)
            raise TakenError(other)
        time.sleep(0.01)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(serving)).encode(), 0)
    return descriptor


def read(path: Path) -> Serving | None:
    """The `serve` that runs here; None if none does. Raises CliError for a directory of another user."""
    with suppress(OSError):
        _refuse_anothers(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            return None if _lock(descriptor, fcntl.LOCK_SH) else _parsed(descriptor)
        finally:
            os.close(descriptor)
    return None


def end(path: Path, seconds: float) -> bool:
    """SIGTERM to the `serve` that runs here; whether it has gone within this time. True, too, if none runs."""
    serving = read(path)
    if serving is None:
        return True
    with suppress(ProcessLookupError):
        os.kill(serving.pid, signal.SIGTERM)
    return _wait(path, seconds)


def _wait(path: Path, seconds: float) -> bool:
    """Wait for the lock, which the kernel gives when its process has gone."""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    try:
        with closing(path.open("rb")) as file:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            fcntl.flock(file, fcntl.LOCK_SH)
    except TimeoutError:
        return False
    except FileNotFoundError:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return True


def _refuse_anothers(path: Path) -> None:
    """Somebody else who made this directory first, in /tmp, could name any process to be signalled. The broker refuses
    it as well."""
    if path.parent.stat().st_uid != os.getuid():
        raise CliError(f"runtime_dir {path.parent} belongs to another user")


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parsed(descriptor: int) -> Serving | None:
    """What the file says; None while it is being written."""
    with suppress(ValueError, TypeError, KeyError):
        return Serving(**json.loads(os.pread(descriptor, 10_000, 0)))
    return None
