"""The runtime directory: it holds the sockets, and its lock lets one broker use it at a time."""

import fcntl
import os
from pathlib import Path

from broker.wire.paths import GATEWAY_SOCKET, MAX_SOCKET_PATH_BYTES, WORKER_SOCKET


class RuntimeDirError(Exception):
    """The directory cannot be used. The message says what to change."""


class RuntimeDir:
    """Mode 0700 and locked for as long as this object lives. Raises RuntimeDirError."""

    def __init__(self, path: Path) -> None:
        longest = max(len(os.fsencode(path / name)) for name in (GATEWAY_SOCKET, WORKER_SOCKET))
        if longest > MAX_SOCKET_PATH_BYTES:
            raise RuntimeDirError(f"runtime_dir {path} is too long for sockets: choose a shorter one")
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.stat().st_uid != os.getuid():
                raise RuntimeDirError(f"runtime_dir {path} belongs to another user")
            path.chmod(0o700)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RuntimeDirError(f"runtime_dir {path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise RuntimeDirError(
                f"another broker is running in {path}: stop it or set MLX_BROKER_RUNTIME_DIR"
            ) from error
        self.gateway_endpoint = f"ipc://{path / GATEWAY_SOCKET}"
        self.worker_endpoint = f"ipc://{path / WORKER_SOCKET}"

    def close(self) -> None:
        os.close(self._lock)
