"""Where a service is, which `serve` runs there, and what is said about others."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.wire import listening
from cli.commands import serve, stop
from cli.errors import CliError, ExitCode
from cli.service.place import ServicePlace, find_place
from cli.service.record import Serving, TakenError, end, read, take
from tests.service import ROOT

SERVING = Serving(os.getpid(), "http://127.0.0.1:8080", "/tmp/serve.log")  # noqa: S108 -- never opened
ANY = "0.0.0.0"  # noqa: S104 -- nothing listens
HOLD = """
import os, sys, time
from pathlib import Path
from cli.service.record import Serving, take
take(Path(sys.argv[1]), Serving(os.getpid(), "http://there", "log"))
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    """Short, as socket paths must be."""
    with tempfile.TemporaryDirectory(prefix="mlxb-") as directory:
        yield Path(directory)


@pytest.fixture
def record(runtime_dir: Path) -> Path:
    return runtime_dir / "serve.json"


def holder(record: Path) -> subprocess.Popen[bytes]:
    """Another process, with a record of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", HOLD, str(record)], stdout=subprocess.PIPE, env=environment)


def test_a_record_stands_until_its_process_has_gone(record: Path) -> None:
    assert read(record) is None
    descriptor = take(record, SERVING)
    assert read(record) == SERVING
    with pytest.raises(TakenError) as taken:
        take(record, SERVING)
    assert taken.value.serving == SERVING
    os.close(descriptor)
    assert record.exists()
    assert read(record) is None
    os.close(take(record, SERVING))


def test_a_process_id_that_was_given_away_again_is_not_signalled(record: Path) -> None:
    """The file names a process that lives, this one, but nobody holds its lock."""
    os.close(take(record, SERVING))
    assert end(record, 1)


def test_the_end_of_the_process_is_waited_for(record: Path) -> None:
    with holder(record) as holding:
        assert holding.stdout is not None
        assert holding.stdout.readline() == b"taken\n"
        serving = read(record)
        assert serving is not None
        assert serving.pid == holding.pid
        assert end(record, 10)
        assert holding.wait(10) < 0


def test_one_that_does_not_end_is_not_waited_for_for_ever(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "kill", lambda _pid, _number: None)
    descriptor = take(record, SERVING)
    assert not end(record, 0.05)
    os.close(descriptor)


def test_a_record_of_another_user_is_not_believed(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holder(record) as holding:
        assert holding.stdout is not None
        assert holding.stdout.readline() == b"taken\n"
        with monkeypatch.context() as patch:
            patch.setattr(os, "getuid", lambda: record.stat().st_uid + 1)
            for use in (lambda: read(record), lambda: end(record, 1), lambda: take(record, SERVING)):
                with pytest.raises(CliError, match=rf"^runtime_dir {record.parent} belongs to another user$"):
                    use()
        assert holding.poll() is None
        assert end(record, 10)


def test_a_reader_does_not_keep_a_serve_from_starting(record: Path) -> None:
    os.close(take(record, SERVING))
    with record.open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, (reader, fcntl.LOCK_UN)).start()
        os.close(take(record, SERVING))


@pytest.fixture
def settings(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file in the working directory, without variables that would win over it."""
    for name in [name for name in os.environ if name.startswith("MLX_BROKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(runtime_dir)
    (runtime_dir / "mlx-broker.toml").write_text(
        f"runtime_dir = {json.dumps(str(runtime_dir / 'run'))}\n[broker]\nstate_dir = 'state'\n"
        "[gateway]\nhost = '::'\nport = 1234\nollama_port = 0\n"
    )
    return runtime_dir


def test_the_place_is_where_broker_and_gateway_look(settings: Path) -> None:
    place = find_place()
    assert place == ServicePlace(settings / "run", settings / "state", "::", 1234, 0)
    assert (place.url, place.log) == ("http://[::1]:1234", settings / "state" / "serve.log")
    place = find_place({"MLX_BROKER_PORT": "0", "MLX_BROKER_HOST": ANY, "MLX_BROKER_RUNTIME_DIR": "/other"})
    assert (place.url, place.record) == ("http://127.0.0.1:0", Path("/other/serve.json"))
    assert find_place({"MLX_BROKER_PORT": "eighty"}).free_port() is None, "the gateway says what is wrong"


def test_ports_are_tried_before_anything_is_started(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_ASK_SECONDS", 0.05)
    assert (find_place({"MLX_BROKER_HOST": "127.0.0.1", "MLX_BROKER_PORT": "0"}).free_port() or 0) > 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        for name, variable in (("port", "PORT"), ("ollama_port", "OLLAMA_PORT")):
            variables = {"MLX_BROKER_HOST": "127.0.0.1", "MLX_BROKER_PORT": "0", f"MLX_BROKER_{variable}": str(number)}
            with pytest.raises(CliError, match=rf"^{name} {number} is taken: stop what listens there") as refused:
                find_place(variables).free_port()
            assert refused.value.exit_code == ExitCode.USAGE


def test_a_settings_file_that_cannot_be_read_is_one_line(settings: Path) -> None:
    (settings / "mlx-broker.toml").write_text("[gatway]\n")
    with pytest.raises(CliError, match=r"^mlx-broker.toml: gatway is not a table or name of this file$"):
        find_place()


def test_a_broker_that_honcho_has_started_is_named(settings: Path) -> None:
    (settings / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as broker:
        broker.bind(str(settings / "run" / "gateway.sock"))
        broker.listen()
        (settings / "run" / "lock").write_text("4711\n")
        with pytest.raises(CliError, match=r"^the broker \(pid 4711\) in \S+ was not started by `mlx-broker serve`: "):
            stop.command()
        with pytest.raises(CliError, match=r"^a broker \(pid 4711\) already runs in \S+: end it where it was started"):
            serve.command()
