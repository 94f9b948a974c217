"""The runtime directory: it holds the sockets, and its lock lets one broker use it at a time."""

import contextlib
import fcntl
import os
from pathlib import Path

from broker.wire.paths import GATEWAY_SOCKET, LOCK_FILE, MAX_SOCKET_PATH_BYTES, WORKER_SOCKET


class RuntimeDirError(Exception):
    """The directory cannot be used. The message says what to change."""


class RuntimeDir:
    """Mode 0700 and locked for as long as this object lives. Raises RuntimeDirError.

    The directory itself is locked: files in it can be deleted, and then a second broker would find nothing in its way.
    systemd-tmpfiles also leaves alone what lies in a locked directory. The file `lock` names the process.
    """

    def __init__(self, path: Path) -> None:
        longest = max(len(os.fsencode(path / name)) for name in (GATEWAY_SOCKET, WORKER_SOCKET))
        if longest > MAX_SOCKET_PATH_BYTES:
            raise RuntimeDirError(f"runtime_dir {path} is too long for sockets: choose a shorter one")
        self._path = path
        self._locked = _lock(path)
        self._write_pid()
        self.gateway_endpoint = f"ipc://{path / GATEWAY_SOCKET}"
        self.worker_endpoint = f"ipc://{path / WORKER_SOCKET}"

    def repair(self) -> list[str]:
        """Make the directory and its file anew if something has deleted them; the endpoints whose sockets have gone, to
        be bound again. Raises RuntimeDirError if this fails, or if another broker has the directory by now."""
        if not _is_at(self._locked, self._path):
            locked = _lock(self._path)
            os.close(self._locked)
            self._locked = locked
        if not (self._path / LOCK_FILE).exists():
            self._write_pid()
        endpoints = (self.gateway_endpoint, self.worker_endpoint)
        return [endpoint for endpoint in endpoints if not Path(endpoint.removeprefix("ipc://")).is_socket()]

    def close(self) -> None:
        os.close(self._locked)

    def _write_pid(self) -> None:
        try:
            (self._path / LOCK_FILE).write_text(f"{os.getpid()}\n")
        except OSError as error:
            raise _unusable(self._path, error) from error


def _lock(path: Path) -> int:
    """A descriptor that holds the lock of the directory, made if there is none. Raises RuntimeDirError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_uid != os.getuid():
            raise RuntimeDirError(f"runtime_dir {path} belongs to another user")
        path.chmod(0o700)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(directory)
        message = f"another broker{_named(path)} is running in {path}: stop it or set MLX_BROKER_RUNTIME_DIR"
        raise RuntimeDirError(message) from error
    except OSError as error:  # of a file system that has no locks
        os.close(directory)
        raise _unusable(path, error) from error
    return directory


def _named(path: Path) -> str:
    """` (pid 123)`, for the process that has locked the directory; empty if that is not known."""
    with contextlib.suppress(OSError, ValueError):
        return f" (pid {int((path / LOCK_FILE).read_text())})"
    return ""


def _is_at(directory: int, path: Path) -> bool:
    """Whether this open directory is the one at `path`."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(directory), path.stat())
    return False


def _unusable(path: Path, error: OSError) -> RuntimeDirError:
    return RuntimeDirError(f"runtime_dir {path} cannot be used: {error.strerror}")
