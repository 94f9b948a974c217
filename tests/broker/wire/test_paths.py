"""Where the sockets are if nobody says so: a place that the system does not clean, and short enough."""

import os
from pathlib import Path

import pytest

from broker.wire.paths import GATEWAY_SOCKET, MAX_SOCKET_PATH_BYTES, default_runtime_dir

HOME = Path("/Users/someone")
FALLBACK = f"mlx-broker-{os.getuid()}"


def test_on_macos_it_is_not_below_tmpdir() -> None:
    environment = {"TMPDIR": "/var/folders/ab/cdefghijklmnopqrstuvwxyz012345/T/", "XDG_RUNTIME_DIR": "/run/user/501"}
    assert default_runtime_dir("darwin", environment, HOME) == HOME / ".local/state/mlx-broker/run"
    moved = {"XDG_STATE_HOME": "/Volumes/fast/state"}
    assert default_runtime_dir("darwin", moved, HOME) == Path("/Volumes/fast/state/mlx-broker/run")


def test_the_longest_name_that_macos_gives_a_user_fits() -> None:
    """Short names have at most 31 letters in System Settings; directories give more."""
    path = default_runtime_dir("darwin", {}, Path("/Users") / ("x" * 50)) / GATEWAY_SOCKET
    assert len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES


@pytest.mark.parametrize("given", [None, "", "run/user/1000"])
def test_on_linux_it_is_in_the_session_s_directory_where_there_is_one(given: str | None) -> None:
    assert default_runtime_dir("linux", {"XDG_RUNTIME_DIR": "/run/user/1000"}) == Path("/run/user/1000/mlx-broker")
    assert default_runtime_dir("linux", {} if given is None else {"XDG_RUNTIME_DIR": given}).name == FALLBACK
