"""`honcho start` with the project's own Procfile, as `make run` calls it: its end, of any kind, ends every process."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ECHO
from tests.service import ROOT, START_SECONDS, Service, processes_with, wait_until

# Seconds between honcho's SIGTERM and its SIGKILL.
KILL_WAIT_SECONDS = 5.0


# Becomes the command that follows. Tests that run under nohup ignore SIGHUP, and their children would, too. With a
# descriptor of a terminal: the leader of a session in its foreground, as in a window; its output still goes to the log.
_AS_FROM_A_SHELL = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if sys.argv[1]:
    log = os.dup(1)
    os.login_tty(int(sys.argv[1]))
    os.dup2(log, 1)
    os.dup2(log, 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextlib.contextmanager
def honcho_start(service: Service, terminal: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Start honcho with the settings of this service and wait until the service is healthy. terminal: the one that it
    runs in."""
    bin_directory = Path(sys.executable).parent
    environment = {**service.environment, "PATH": os.pathsep.join((str(bin_directory), os.environ["PATH"]))}
    command = [sys.executable, "-m", "honcho", "--procfile", str(ROOT / "Procfile"), "--app-root", str(ROOT)]
    command += ["--env", os.devnull, "start"]  # a developer's .env must not change the test
    command = [sys.executable, "-c", _AS_FROM_A_SHELL, "" if terminal is None else str(terminal), *command]
    with (service.directory / "honcho.log").open("ab") as log:
        honcho = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=terminal is None,  # login_tty makes one
            pass_fds=() if terminal is None else (terminal,),
        )
    try:
        wait_until(service.healthy, START_SECONDS, lambda: f"{service.log('honcho')}health")
        yield honcho
    finally:
        honcho.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            honcho.wait(KILL_WAIT_SECONDS)
        honcho.kill()
        honcho.wait()


def the(service: Service, module: str) -> psutil.Process:
    """The only process of this service that runs `python -m <module>`."""
    [process] = [p for p in processes_with(service.token) if p.cmdline()[1:3] == ["-m", module]]
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_everything(make_service: Callable[..., Service], number: signal.Signals) -> None:
    service = make_service(start=False, broker={"warm_spares": 1})
    with honcho_start(service) as honcho:
        with service.stream("tiny-a", max_tokens=8000) as stream:
            stream.next_text()
            # Ctrl-C in a terminal reaches the whole process group of honcho.
            os.killpg(honcho.pid, number)
            stream.finish()
        assert stream.done
        assert stream.error is not None
        assert honcho.wait(KILL_WAIT_SECONDS) == 128 + number
        assert processes_with(service.token) == []
    log = service.log("honcho")
    assert "broker.1 stopped (rc=0)" in log
    assert "gateway.1 stopped (rc=0)" in log
    assert "SIGKILL" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP], ids=lambda number: number.name)
def test_without_honcho_nothing_goes_on(make_service: Callable[..., Service], number: signal.Signals) -> None:
    """It has no chance to end its children, and its helpers live on."""
    service = make_service(start=False, models={"echo": ECHO})
    with honcho_start(service) as honcho:
        assert service.load("echo").status_code == 200
        honcho.send_signal(number)
        honcho.wait()
        wait_until(lambda: processes_with(service.token) == [], 10.0, "the end of everything")


def test_a_window_that_is_closed_leaves_nothing_behind(make_service: Callable[..., Service]) -> None:
    service = make_service(start=False, models={"echo": ECHO})
    window, terminal = os.openpty()
    with honcho_start(service, terminal) as honcho:
        os.close(terminal)
        assert service.load("echo").status_code == 200
        os.close(window)
        assert honcho.wait(10.0) == -signal.SIGHUP
        wait_until(lambda: processes_with(service.token) == [], 10.0, "the end of everything")


def test_started_by_hand_they_go_on_without_their_parent(make_service: Callable[..., Service]) -> None:
    """As under nohup: the shell that started them has ended."""
    service = make_service(start=False)
    commands = " & ".join(f"exec {sys.executable} -m {module} >>{module}.log 2>&1" for module in ("broker", "gateway"))
    subprocess.run(
        ["/bin/sh", "-c", f"{commands} &"],
        cwd=service.directory,
        env=service.environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        check=True,
        timeout=10,
    )
    wait_until(service.healthy, START_SECONDS, lambda: f"{service.log('broker')}{service.log('gateway')}health")
    # Longer than it takes them to notice that honcho has gone.
    wait_until(lambda: service.status()["uptime_seconds"] > 2.5, what="an uptime of some seconds")
    for module in ("gateway", "broker"):
        process = the(service, module)
        assert process.ppid() != os.getpid()
        process.terminate()
    wait_until(lambda: processes_with(service.token) == [], 10.0, "the end of everything")


@pytest.mark.slow  # tests/gateway/http/test_server.py has the line itself
def test_a_port_that_is_taken_is_one_line_among_those_of_honcho(make_service: Callable[..., Service]) -> None:
    service = make_service(start=False)
    with socket.create_server(("127.0.0.1", service.port)):
        command = [sys.executable, "-m", "honcho", "--procfile", str(ROOT / "Procfile"), "--app-root", str(ROOT)]
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        done = subprocess.run(
            [*command, "--env", os.devnull, "start"],
            env={**service.environment, "PATH": path},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 2
    lines = [line.partition("| ")[2] for line in done.stdout.splitlines() if "gateway.1 " in line.partition("|")[0]]
    assert [line.partition(": stop")[0] for line in lines] == [f"gateway: port {service.port} is taken"]


def test_sigkill_of_the_broker_leaves_no_worker_and_the_next_start_works(make_service: Callable[..., Service]) -> None:
    service = make_service(start=False, broker={"warm_spares": 1})
    with honcho_start(service) as honcho:
        assert service.load("tiny-a").status_code == 200
        wait_until(lambda: service.status()["spares"], what="the spare")
        workers = [p for p in processes_with(service.token) if p.cmdline()[1:3] == ["-m", "worker"]]
        assert len(workers) == 2
        with service.stream("tiny-a", max_tokens=8000) as stream:
            stream.next_text()
            the(service, "broker").kill()
            wait_until(lambda: not any(worker.is_running() for worker in workers), 5.0, "the end of the workers")
            stream.finish()
        assert stream.done
        assert stream.error is not None
        # honcho ends the others when one ends; an orphan that holds its pipe would keep it waiting for ever.
        assert honcho.wait(KILL_WAIT_SECONDS) == -signal.SIGKILL % 256
        assert processes_with(service.token) == []

    with honcho_start(service) as honcho:
        entry = service.wait_state("tiny-a", "ready")
        assert entry["preloaded"] is True
        assert service.chat("tiny-a").status_code == 200
        honcho.terminate()
        assert honcho.wait(KILL_WAIT_SECONDS) == 128 + signal.SIGTERM
        assert processes_with(service.token) == []


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this system does not share cores by session")
def test_broker_and_workers_have_a_lower_priority_than_the_gateway(make_service: Callable[..., Service]) -> None:
    service = make_service(start=False, broker={"warm_spares": 0})
    with honcho_start(service) as honcho:
        assert service.load("tiny-a").status_code == 200
        sessions = {
            module: Path(f"/proc/{the(service, module).pid}/autogroup").read_text().split()
            for module in ("broker", "worker", "gateway")
        }
        assert sessions["broker"][1:] == ["nice", "10"]
        assert sessions["worker"] == sessions["broker"]
        assert sessions["gateway"][1:] == ["nice", "0"]
        honcho.terminate()
        assert honcho.wait(KILL_WAIT_SECONDS) == 128 + signal.SIGTERM


def test_the_environment_is_enough(make_service: Callable[..., Service], models_dir: Path) -> None:
    """No settings file: environment variables set the port, the folders and the default model."""
    service = make_service(start=False)
    del service.environment["MLX_BROKER_CONFIG"]
    service.environment |= {
        "PORT": "1",  # honcho sets it for its own use; it must not matter here
        "MLX_BROKER_PORT": str(service.port),
        "MLX_BROKER_RUNTIME_DIR": str(service.directory / "run"),
        "MLX_BROKER_STATE_DIR": str(service.directory / "state"),
        "MLX_BROKER_HUB_DIR": str(service.directory / "hub"),
        "MLX_BROKER_MODELS_DIR": str(models_dir),
        "MLX_BROKER_WARM_SPARES": "0",
        "MLX_BROKER_PRELOAD_MODELS": "tiny-b",
        "MLX_BROKER_DEFAULT_MODEL": "tiny-b",
    }
    with honcho_start(service) as honcho:
        assert service.wait_state("tiny-b", "ready")["preloaded"] is True
        answer = service.client.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 1})
        assert answer.json()["model"] == "tiny-b"
        wait_until(lambda: f"curl {service.url}/v1/chat/completions" in service.log("honcho"), what="the line to try")
        honcho.terminate()
        assert honcho.wait(KILL_WAIT_SECONDS) == 128 + signal.SIGTERM
