"""The runtime directory: ours alone, one broker at a time."""

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.runtime import RuntimeDir, RuntimeDirError


@pytest.fixture
def parent() -> Iterator[Path]:
    # Not pytest's tmp_path: socket paths are limited to about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="mlxb-") as directory:
        yield Path(directory)


def test_it_is_made_for_its_owner_alone(parent: Path) -> None:
    path = parent / "a" / "run"
    runtime = RuntimeDir(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert runtime.gateway_endpoint == f"ipc://{path}/gateway.sock"
    assert runtime.worker_endpoint == f"ipc://{path}/worker.sock"
    runtime.close()


def test_one_that_others_could_enter_is_closed_to_them(parent: Path) -> None:
    path = parent / "run"
    path.mkdir()
    path.chmod(0o777)
    RuntimeDir(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_second_broker_is_told_about_the_first(parent: Path) -> None:
    first = RuntimeDir(parent / "run")
    told = f"another broker \\(pid {os.getpid()}\\) is running in {parent}/run: stop it or set"
    with pytest.raises(RuntimeDirError, match=told):
        RuntimeDir(parent / "run")
    first.close()
    RuntimeDir(parent / "run").close()


def test_the_lock_is_not_inherited_by_workers(parent: Path) -> None:
    runtime = RuntimeDir(parent / "run")
    assert not os.get_inheritable(runtime._locked)
    runtime.close()


def test_the_files_of_a_running_broker_are_deleted_and_it_still_has_the_directory(parent: Path) -> None:
    """As dirhelper of macOS, systemd-tmpfiles or people do it."""
    first = RuntimeDir(parent / "run")
    (parent / "run" / "lock").unlink()
    with pytest.raises(RuntimeDirError, match="another broker is running in "):
        RuntimeDir(parent / "run")
    first.repair()
    with pytest.raises(RuntimeDirError, match=f"another broker \\(pid {os.getpid()}\\) is running in "):
        RuntimeDir(parent / "run")
    first.close()


def test_the_directory_is_deleted_and_made_anew(parent: Path) -> None:
    first = RuntimeDir(parent / "run")
    shutil.rmtree(parent / "run")
    assert first.repair() == [first.gateway_endpoint, first.worker_endpoint]
    assert stat.S_IMODE((parent / "run").stat().st_mode) == 0o700
    with pytest.raises(RuntimeDirError, match=f"another broker \\(pid {os.getpid()}\\) is running in "):
        RuntimeDir(parent / "run")
    first.close()
    RuntimeDir(parent / "run").close()


def test_it_says_which_sockets_have_gone(parent: Path) -> None:
    runtime = RuntimeDir(parent / "run")
    with socket.socket(socket.AF_UNIX) as gateways, socket.socket(socket.AF_UNIX) as workers:
        gateways.bind(str(parent / "run" / "gateway.sock"))
        workers.bind(str(parent / "run" / "worker.sock"))
        assert runtime.repair() == []
        (parent / "run" / "worker.sock").unlink()
        assert runtime.repair() == [runtime.worker_endpoint]
        (parent / "run" / "worker.sock").touch()  # something else
        assert runtime.repair() == [runtime.worker_endpoint]
    runtime.close()


def test_another_broker_was_faster_in_a_directory_that_had_gone(parent: Path) -> None:
    first = RuntimeDir(parent / "run")
    shutil.rmtree(parent / "run")
    second = RuntimeDir(parent / "run")
    with pytest.raises(RuntimeDirError, match=f"another broker \\(pid {os.getpid()}\\) is running in "):
        first.repair()
    first.close()
    assert second.repair() == [second.gateway_endpoint, second.worker_endpoint]
    second.close()


def test_a_directory_that_cannot_be_made_again(parent: Path) -> None:
    runtime = RuntimeDir(parent / "run")
    shutil.rmtree(parent / "run")
    (parent / "run").write_text("")
    with pytest.raises(RuntimeDirError, match=f"runtime_dir {parent}/run cannot be used: File exists"):
        runtime.repair()
    runtime.close()


def test_a_path_too_long_for_a_socket_is_refused_before_anything_is_made(parent: Path) -> None:
    room = 103 - len(os.fsencode(parent / "x" / "gateway.sock"))
    fits, too_long = parent / ("x" * (room + 1)), parent / ("y" * (room + 2))
    RuntimeDir(fits).close()
    with pytest.raises(RuntimeDirError, match="is too long for sockets: choose a shorter one"):
        RuntimeDir(too_long)
    assert not too_long.exists()


def test_something_else_in_its_place(parent: Path) -> None:
    (parent / "run").write_text("")
    with pytest.raises(RuntimeDirError, match=f"runtime_dir {parent}/run cannot be used: File exists"):
        RuntimeDir(parent / "run")
    with pytest.raises(RuntimeDirError, match="cannot be used: Not a directory"):
        RuntimeDir(parent / "run" / "below")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_folder_of_another_user(parent: Path) -> None:
    (parent / "run").mkdir()
    os.chown(parent / "run", 12345, 12345)
    with pytest.raises(RuntimeDirError, match="belongs to another user"):
        RuntimeDir(parent / "run")
