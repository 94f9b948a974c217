"""`mlx-broker serve` and `stop` with real processes: in a terminal, without one, and their ends of every kind."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ECHO, PACED
from tests.service import START_SECONDS, Service, free_port, processes_with, wait_until

END_SECONDS = 10.0
# Becomes the command that follows, as the leader of a session in the foreground of the terminal whose descriptor is
# the first argument. Tests that run under nohup ignore SIGHUP, and their children would, too.
_IN_A_WINDOW = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.login_tty(int(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "cli", *words]


def run(service: Service, *words: str, **variables: str) -> tuple[int, str, list[str]]:
    """Exit code, stdout, and the lines of stderr."""
    done = subprocess.run(
        command(*words),
        cwd=service.directory,
        env=service.environment | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


def detach(service: Service) -> int:
    """The process id of a detached `serve`, once it answers."""
    code, said, complaints = run(service, "serve", "--detach")
    assert (code, complaints) == (0, [])
    first, log = said.splitlines()
    assert log == f"log: {service.directory / 'state' / 'serve.log'}"
    assert service.healthy()
    pid = json.loads((service.directory / "run" / "serve.json").read_text())["pid"]
    assert first == f"mlx-broker listens on {service.url} (pid {pid}), `mlx-broker stop` ends it"
    assert psutil.Process(pid).terminal() is None
    return int(pid)


class Window:
    """A terminal in which `serve` runs. What it says is read at once: the system forgets it at the end."""

    def __init__(self, service: Service) -> None:
        self._master, terminal = os.openpty()
        self.said = ""
        words = [sys.executable, "-c", _IN_A_WINDOW, str(terminal), *command("serve")]
        self.process = subprocess.Popen(words, cwd=service.directory, env=service.environment, pass_fds=(terminal,))
        os.close(terminal)
        self._closing, self._close = os.pipe()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # nobody has the other end any more
            while self._closing not in select.select([self._master, self._closing], [], [])[0]:
                self.said += os.read(self._master, 65536).decode()

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def close(self) -> None:
        """The second time does nothing."""
        if self._close >= 0:
            os.close(self._close)
            self._close = -1
            self._reader.join()
            os.close(self._closing)
            os.close(self._master)


@contextlib.contextmanager
def window(service: Service) -> Iterator[Window]:
    opened = Window(service)
    try:
        wait_until(lambda: f"mlx-broker listens on {service.url}" in opened.said, START_SECONDS, lambda: opened.said)
        yield opened
    finally:
        opened.process.kill()
        opened.process.wait()
        opened.close()


def test_ctrl_c_in_a_terminal_is_quiet(make_service: Callable[..., Service]) -> None:
    service = make_service(start=False, models={"echo": {**ECHO, "options": PACED}})
    with window(service) as terminal:
        directory = service.directory / "run"
        pid = terminal.process.pid
        code, said, [line] = run(service, "serve")
        assert (code, said) == (1, "")
        assert line.startswith(
            f"mlx-broker: mlx-broker serve (pid {pid}) already runs at {service.url}, in {directory}: "
        )
        code, said, [line] = run(service, "stop")
        assert (code, said) == (1, "")
        where = f"(pid {pid}) runs in the foreground at {service.url}"
        assert line == f"mlx-broker: mlx-broker serve {where}: press Ctrl-C in its terminal"
        other = str(service.directory / "other")
        code, said, [line] = run(service, "serve", MLX_BROKER_RUNTIME_DIR=other)
        assert (code, said) == (2, "")
        assert line.startswith(
            f"mlx-broker: port {service.port} is taken by another mlx-broker: stop what listens there, "
        )
        with service.stream("echo", "word " * 500, max_tokens=500) as stream:
            stream.next_text()
            terminal.press(b"\x03")
            stream.finish()
        assert stream.error is not None
        assert terminal.process.wait(END_SECONDS) == 0
        wait_until(lambda: processes_with(service.token) == [], END_SECONDS, "the end of everything")
    said = terminal.said
    assert not [word for word in ("Traceback", "ERROR", "has gone", "Interrupt", "has ended") if word in said], said


@pytest.mark.slow
def test_a_window_that_is_closed_leaves_nothing_behind(make_service: Callable[..., Service]) -> None:
    service = make_service(start=False)
    with window(service) as terminal:
        terminal.close()
        terminal.process.wait(END_SECONDS)
        wait_until(lambda: processes_with(service.token) == [], END_SECONDS, "the end of everything")


def test_a_detached_one_goes_on_until_stop(make_service: Callable[..., Service]) -> None:
    service = make_service(start=False, models={"echo": ECHO})
    pid = detach(service)
    os.kill(pid, signal.SIGHUP)
    assert service.chat("echo").status_code == 200
    code, said, complaints = run(service, "stop")
    assert (code, complaints) == (0, [])
    assert said == f"stopped the service at {service.url} (pid {pid})\n"
    assert processes_with(service.token) == []
    path = service.directory / "state" / "serve.log"
    assert path.stat().st_mode & 0o777 == 0o600
    log = path.read_text()
    assert f"mlx-broker listens on {service.url}" in log
    assert "Traceback" not in log
    assert run(service, "stop") == (1, "", [f"mlx-broker: nothing runs in {service.directory / 'run'}"])


def test_without_serve_nothing_goes_on(make_service: Callable[..., Service]) -> None:
    """It has no chance to end its children."""
    service = make_service(start=False)
    os.kill(detach(service), signal.SIGKILL)
    wait_until(lambda: processes_with(service.token) == [], END_SECONDS, "the end of everything")
    assert "what started it has gone: the gateway ends" in (service.directory / "state" / "serve.log").read_text()
    assert run(service, "stop") == (1, "", [f"mlx-broker: nothing runs in {service.directory / 'run'}"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["broker", "gateway"])
def test_both_end_when_one_of_them_does(make_service: Callable[..., Service], name: str) -> None:
    service = make_service(start=False)
    detach(service)
    [process] = [p for p in processes_with(service.token) if p.cmdline()[1:3] == ["-m", name]]
    process.kill()
    wait_until(lambda: processes_with(service.token) == [], END_SECONDS, "the end of everything")
    log = (service.directory / "state" / "serve.log").read_text()
    assert f"mlx-broker: the {name} has ended (SIGKILL), so everything ends" in log
    detach(service)  # the next start keeps the log of the last one
    assert (service.directory / "state" / "serve.log.1").read_text() == log
    assert run(service, "stop")[0] == 0


def test_one_that_does_not_come_up_shows_the_end_of_its_log(make_service: Callable[..., Service]) -> None:
    service = make_service(start=False)
    code, said, lines = run(service, "serve", "--detach", MLX_BROKER_MAX_MODELS="none")
    assert (code, said) == (1, "")
    log = service.directory / "state" / "serve.log"
    assert lines[-1] == f"mlx-broker: the service has ended with exit code 2: the lines above are the end of {log}"
    assert "broker: [broker] max_models (MLX_BROKER_MAX_MODELS): must be a whole number, not 'none'" in lines[0]
    assert lines[:-1] == log.read_text().splitlines()
    assert processes_with(service.token) == []


@pytest.mark.slow
def test_the_options_are_settings_and_a_missing_model_is_prepared(
    tmp_path: Path, make_service: Callable[..., Service]
) -> None:
    """Without a settings file; what lies in the working directory is not taken for the project's packages."""
    service = make_service(start=False)
    for name in ("broker", "cli", "demo", "gateway", "worker"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('foreign')")
    del service.environment["MLX_BROKER_CONFIG"]
    service.environment |= {
        "MLX_BROKER_RUNTIME_DIR": str(service.directory / "run"),
        "MLX_BROKER_STATE_DIR": str(service.directory / "state"),
        "MLX_BROKER_HUB_DIR": str(service.directory / "hub"),
        "PYTHONSAFEPATH": "1",
    }
    models = service.directory / "models"
    options = ["--host", "127.0.0.1", "--port", str(free_port()), "--models-dir", str(models)]
    words = command("serve", "--detach", *options, "--preload", "SmolLM2-135M-Instruct")
    started = subprocess.run(words, cwd=tmp_path, env=service.environment, check=True, capture_output=True, text=True)
    assert "demo model: ready after" in started.stdout
    with contextlib.closing(service.client):
        service.client.base_url = f"http://127.0.0.1:{options[3]}"
        service.wait_state("SmolLM2-135M-Instruct", "ready", 60)
        answer = service.chat("SmolLM2-135M-Instruct", "What is the capital of France?").json()
        assert "Paris" in answer["choices"][0]["message"]["content"]
        stopped = subprocess.run(command("stop"), cwd=tmp_path, env=service.environment, check=False)
        assert stopped.returncode == 0
