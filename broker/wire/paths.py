"""The runtime directory of one user, and the sockets in it."""

import os
import tempfile
from pathlib import Path

# Gateways connect to one, workers to the other.
GATEWAY_SOCKET = "gateway.sock"
WORKER_SOCKET = "worker.sock"

# sockaddr_un holds 104 bytes on macOS and 108 on Linux, the terminating zero included.
MAX_SOCKET_PATH_BYTES = 103


def default_runtime_dir() -> Path:
    """The runtime directory if the settings name none; short, because socket paths are limited."""
    return Path(tempfile.gettempdir()) / f"mlx-broker-{os.getuid()}"
