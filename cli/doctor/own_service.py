"""A service of the doctor's own: broker and gateway in a directory of its own, on a free port, without the user's
settings and keys. Everything ends with it, and it ends with this process, however that ends.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from cli.doctor.programs import last_line, own_environment
from cli.errors import CliError
from cli.gateway import Gateway

_START_SECONDS = 40.0
_STOP_SECONDS = 8.0
_POLL_SECONDS = 0.01


class OwnServiceError(Exception):
    """It does not start. The message is its last line."""


class OwnService:
    """models: the folder with models; hub: a second place of them. settings: of the table [broker]."""

    def __init__(self, directory: Path, models: Path, hub: Path, settings: Mapping[str, Any]) -> None:
        self.directory = directory
        self.port = _free_port()
        self.gateway = Gateway(f"http://127.0.0.1:{self.port}")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        state = {"state_dir": str(directory / "state")}
        places = {"models_dir": str(models), "hub_dir": str(hub), **state}
        tables = {"broker": {**places, **settings}, "gateway": {"port": self.port, **state}}
        lines = [f"runtime_dir = {json.dumps(str(directory / 'run'))}"]
        for name, table in tables.items():
            lines += [f"[{name}]", *(f"{field} = {json.dumps(value)}" for field, value in table.items())]
        self._config = directory / "settings.toml"
        self._config.write_text("\n".join(lines) + "\n")

    def start(self) -> float:
        """Seconds until it answers. Raises OwnServiceError."""
        began = time.monotonic()
        for name in ("broker", "gateway"):
            self._processes[name] = self._spawn(name)
        while not self._answers():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise OwnServiceError(f"the {name} ended: {last_line(self.log(name))}")
            if time.monotonic() - began > _START_SECONDS:
                raise OwnServiceError(f"it does not answer within {_START_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - began

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to whatever takes too long."""
        processes = [*self._processes.values()][::-1]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            process.kill()
            process.wait()

    def kill_broker(self) -> None:
        """SIGKILL, and reap it."""
        broker = self._processes["broker"]
        broker.kill()
        broker.wait()

    def model(self, model_id: str) -> dict[str, Any]:
        """Its entry in the status; an empty one if it is not loaded."""
        models = self.gateway.get("/admin/models/status")["models"]
        return next((dict(model) for model in models if model["model_id"] == model_id), {})

    def spares(self) -> list[dict[str, Any]]:
        """The warm spares of the status."""
        return list(self.gateway.get("/admin/models/status")["spares"])

    def log(self, name: str) -> str:
        """What this process has printed."""
        with contextlib.suppress(OSError):
            return (self.directory / f"{name}.log").read_text(errors="replace")
        return ""

    def _answers(self) -> bool:
        with contextlib.suppress(CliError):
            return bool(self.gateway.get("/admin/health")["status"] == "healthy")
        return False

    def _spawn(self, name: str) -> "subprocess.Popen[bytes]":
        inherited = own_environment()
        environment = {field: value for field, value in inherited.items() if not field.startswith("MLX_BROKER_")}
        environment |= {
            "MLX_BROKER_CONFIG": str(self._config),
            "MLX_BROKER_RESUME_LIMIT": "0",  # what a death does is seen at its error
            "HF_HUB_OFFLINE": "1",
            # What engines remember about architectures stays here as well.
            "XDG_CACHE_HOME": str(self.directory / "cache"),
            "XDG_STATE_HOME": str(self.directory / "state"),
            # The mark of a process that ends with the one that started it (broker/wire/parents.py).
            "HONCHO_PROCESS_NAME": f"doctor.{name}",
        }
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", name],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


@contextlib.contextmanager
def own_directory() -> Iterator[Path]:
    """A directory that is gone afterwards, with a path that is short enough for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="mlxd-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as Ctrl-C does: through every `finally`. A second Ctrl-C changes nothing."""

    def end(number: int, _frame: FrameType | None) -> None:
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def is_running(pid: int) -> bool:
    """Whether this process lives; one that nobody has reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # Linux: an orphan may stay a zombie where the first process reaps none, as in containers.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return not Path("/proc/self").exists() or Path(f"/proc/{pid}").exists()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
