"""Starts the compared servers, each as its users start it, and reads CPU time and memory of their processes."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.cpu import cpu_seconds
from bench.models import ECHO
from tests.service import ROOT, free_port

_START_SECONDS = 120.0
_STOP_SECONDS = 10.0


@dataclass(slots=True)
class Server:
    """One server with all its processes. A model's name in requests is `prefix` and the folder's name. environment:
    that it was started with."""

    name: str
    port: int
    process: psutil.Process
    environment: dict[str, str]
    prefix: str = ""

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by role: broker, gateway, worker, honcho, or the server's name for all others."""
        seconds: dict[str, float] = defaultdict(float)
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                seconds[self._role(process)] += cpu_seconds(process.pid)
        return seconds

    def rss(self) -> dict[str, int]:
        """Bytes of each process except workers, by role."""
        processes = [self.process, *self.process.children(recursive=True)]
        return {self._role(p): p.memory_info().rss for p in processes if self._role(p) != "worker"}

    def _role(self, process: psutil.Process) -> str:
        command = process.cmdline()
        if "-m" in command and (module := command[command.index("-m") + 1]) in ("broker", "gateway", "worker"):
            return module
        return "honcho" if process.pid == self.process.pid and self.name == OURS else self.name


OURS = "mlx-broker"


@contextlib.contextmanager
def ours(models: Path, root: Path = ROOT) -> Iterator[Server]:
    """This project through honcho with default settings; it has the models of the folder and `echo`. root: the checkout
    that runs."""
    port = free_port()
    # A short path, because it contains sockets.
    directory = Path(tempfile.mkdtemp(prefix="mlxb-"))
    config = directory / "settings.toml"
    config.write_text(
        f'runtime_dir = "{directory / "run"}"\n'
        f'[broker]\nmodels_dir = "{models}"\nhub_dir = "{directory / "hub"}"\nstate_dir = "{directory / "state"}"\n'
        f'[gateway]\nport = {port}\nstate_dir = "{directory / "state"}"\n[models.echo]\n'
        + "".join(f'{k} = "{v}"\n' for k, v in ECHO.items())
    )
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("MLX_BROKER_")},
        "MLX_BROKER_CONFIG": str(config),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "honcho", "-d", str(root), "-f", str(root / "Procfile"), "start"]
    try:
        with _started(OURS, command, port, "/health", environment, folder=root) as server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def gateway_of(server: Server, module: str, **settings: str) -> Iterator[Server]:
    """One more gateway of the broker of `ours`: this module, with these settings."""
    port = free_port()
    environment = server.environment | {f"MLX_BROKER_{name.upper()}": value for name, value in settings.items()}
    environment |= {"MLX_BROKER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    with _started(module, [sys.executable, "-m", module], port, "/health", environment) as gateway:
        yield gateway


@contextlib.contextmanager
def theirs(module: str, model: Path) -> Iterator[Server]:
    """`mlx_lm.server` or `mlx_vlm.server` with this model and default settings."""
    port = free_port()
    command = [sys.executable, "-m", module, "--model", str(model), "--host", "127.0.0.1", "--port", str(port)]
    with _started(module, command, port, "/v1/models", {**os.environ, "HF_HUB_OFFLINE": "1"}) as server:
        server.prefix = f"{model.parent}/"
        yield server


class Limit:
    """bench/limit.py in its own process."""

    def __init__(self, model: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.limit", str(model)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def measure(self, waves: list[list[str]], tokens: int) -> tuple[list[float], list[list[str]]]:
        """Tokens per second of each wave of contents, and its texts."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"waves": waves, "tokens": tokens}).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer["tokens_per_second"], answer["texts"]

    def close(self) -> None:
        self._process.communicate(timeout=_STOP_SECONDS)


@contextlib.contextmanager
def _started(
    name: str, command: list[str], port: int, path: str, environment: dict[str, str], *, folder: Path = ROOT
) -> Iterator[Server]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _answers(f"http://127.0.0.1:{port}{path}"):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"{name} does not start: {log.read().decode(errors='replace')}")
                time.sleep(0.1)
            yield Server(name, port, psutil.Process(process.pid), environment)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, timeout=5.0).status_code == 200
    return False
