"""The runtime directory of one user, and what is in it."""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

# Gateways connect to one, workers to the other.
GATEWAY_SOCKET = "gateway.sock"
WORKER_SOCKET = "worker.sock"

# Names the broker's process. Workers lock it, one at a time: worker/process/one_core.py.
LOCK_FILE = "lock"

# sockaddr_un holds 104 bytes on macOS and 108 on Linux, the terminating zero included.
MAX_SOCKET_PATH_BYTES = 103


def default_state_dir(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> Path:
    """Where this user's programs keep what they remember. home: the user's, found out if None."""
    state = environment.get("XDG_STATE_HOME") or (home or Path.home()) / ".local" / "state"
    return Path(state) / "mlx-broker"


def default_runtime_dir(
    platform: str = sys.platform, environment: Mapping[str, str] = os.environ, home: Path | None = None
) -> Path:
    """The runtime directory if the settings name none; short, because socket paths are limited.

    Not below $TMPDIR on macOS: the system deletes what has not been read there for three days, sockets in use too.
    """
    if platform == "darwin":
        return default_state_dir(environment, home) / "run"
    if (runtime := environment.get("XDG_RUNTIME_DIR", "")).startswith("/"):  # the standard ignores any other
        return Path(runtime) / "mlx-broker"
    return Path(tempfile.gettempdir()) / f"mlx-broker-{os.getuid()}"
