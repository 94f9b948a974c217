"""Where the processes of one user meet: the runtime directory and the sockets in it."""

import os
import tempfile
from pathlib import Path

# Gateways connect to one, workers to the other.
GATEWAY_SOCKET = "gateway.sock"
WORKER_SOCKET = "worker.sock"

# sockaddr_un holds 104 bytes on macOS and 108 on Linux, the terminating zero included.
MAX_SOCKET_PATH_BYTES = 103


def default_runtime_dir() -> Path:
    """Where broker and gateways of one user meet unless the settings say otherwise; short, as ipc paths must be."""
    return Path(tempfile.gettempdir()) / f"mlx-broker-{os.getuid()}"
