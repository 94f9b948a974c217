"""The test kit's service: the real broker and gateway as processes, on a free port and in their own directory, with a
client that keeps tests short.

Every process that descends from a service has the service's token in its environment, so that a test can prove that
none is left, orphans included.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
MARK = "MLX_BROKER_TEST_MARK"
START_SECONDS = 40.0


def wait_until(
    condition: Callable[[], Any], seconds: float = 20.0, what: str | Callable[[], str] = "the condition"
) -> Any:
    """The first truthy value of `condition`, checked every few milliseconds; AssertionError after `seconds`.

    what: names the condition in the error; a callable where the text is known only later, such as a log.
    """
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what() if callable(what) else what} did not come true within {seconds:g} s")
        pause.wait(0.005)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def processes_with(token: str) -> list[psutil.Process]:
    """Every live process whose environment has this token."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == token:
                found.append(process)
    return found


class Service:
    """broker and gateway with the given TOML settings. `start()` waits until the broker answers through the gateway.

    models: the folder with models. settings: extra tables, e.g. {"broker": {"max_models": 1}, "models": {...}}.
    """

    def __init__(self, models: Path, settings: dict[str, Any] | None = None) -> None:
        self.token = secrets.token_hex(8)
        # Not pytest's tmp_path: socket paths are limited to about 100 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="mlxb-"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        tables = {name: dict(table) for name, table in (settings or {}).items()}
        tables["broker"] = {
            "models_dir": str(models),
            "hub_dir": str(self.directory / "hub"),
            "state_dir": str(self.directory / "state"),
            "warm_spares": 0,
        } | tables.get("broker", {})
        tables["gateway"] = {"port": self.port, "state_dir": str(self.directory / "state")} | tables.get("gateway", {})
        self.config = self.directory / "settings.toml"
        self.config.write_text(f"runtime_dir = {json.dumps(str(self.directory / 'run'))}\n" + _toml(tables))
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("MLX_BROKER_")},
            "MLX_BROKER_CONFIG": str(self.config),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            MARK: self.token,
        }
        self.broker: subprocess.Popen[bytes] | None = None
        self.gateway: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=self.url, timeout=60.0)

    def start(self) -> "Service":
        """Both at once, as honcho does."""
        self.broker = self._spawn("broker")
        self.start_gateway()
        return self

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_broker(self) -> None:
        self.broker = self._spawn("broker")
        wait_until((self.directory / "run" / "gateway.sock").exists, START_SECONDS, "the broker's socket")

    def start_gateway(self) -> None:
        self.gateway = self._spawn("gateway")
        wait_until(
            self.healthy, START_SECONDS, lambda: f"{self.log('broker')}{self.log('gateway')}health of {self.url}"
        )

    def second_client(self) -> httpx.Client:
        """A client of the gateway that listens on `port` now."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60.0)

    def healthy(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/admin/health").status_code == 200
        return False

    def stop(self) -> None:
        """SIGTERM to both processes, then SIGKILL to every process with the token; removes the directory."""
        self.client.close()
        for process in (self.gateway, self.broker):
            if process is not None and process.poll() is None:
                process.terminate()
        for process in (self.gateway, self.broker):
            if process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(15)
                process.kill()
                process.wait()
        left = self.left_behind()
        for orphan in left:
            with contextlib.suppress(psutil.Error):
                orphan.kill()
        logs = self.log("broker")
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not left, f"left behind: {left}\n{logs}"

    def left_behind(self) -> list[psutil.Process]:
        """The processes of this service that are still alive after a grace period; none if all is well."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not processes_with(self.token), 10.0)
        return processes_with(self.token)

    def log(self, name: str) -> str:
        path = self.directory / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # ---- what tests ask -------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        response = self.client.get("/admin/models/status")
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    def model(self, model_id: str) -> dict[str, Any]:
        """The status entry of this model; {"state": "unloaded"} if it has none."""
        entries = [m for m in self.status()["models"] if m["model_id"] == model_id]
        return entries[0] if entries else {"state": "unloaded", "pid": None, "in_flight": 0}

    def wait_state(self, model_id: str, state: str, seconds: float = 30.0) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            entry = self.model(model_id)
            return entry if entry["state"] == state else None

        entry: dict[str, Any] = wait_until(reached, seconds, f"{model_id} {state}")
        return entry

    def load(self, model_id: str) -> httpx.Response:
        return self.client.post(f"/admin/models/load/{model_id}")

    def unload(self, model_id: str, **params: Any) -> httpx.Response:
        return self.client.post(f"/admin/models/unload/{model_id}", params=params)

    def kill(self, model_id: str, *, resume: bool = True) -> httpx.Response:
        params = {} if resume else {"resume": "false"}
        return self.client.post(f"/admin/models/kill/{model_id}", params=params)

    def chat(self, model_id: str, content: str = "Hello", **fields: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json=chat_body(model_id, content, **fields))

    @contextlib.contextmanager
    def stream(self, model_id: str, content: str = "Hello", **fields: Any) -> Iterator["Stream"]:
        """A streamed chat; the test reads it."""
        body = chat_body(model_id, content, stream=True, **fields)
        with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            yield Stream(response)

    def _spawn(self, module: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{module}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def chat_body(model_id: str, content: str, **fields: Any) -> dict[str, Any]:
    defaults = {"max_tokens": 16, "temperature": 0}
    return {"model": model_id, "messages": [{"role": "user", "content": content}], **defaults, **fields}


class Stream:
    """Server-sent events as they arrive."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.text = ""
        self.error: dict[str, Any] | None = None
        self.usage: dict[str, Any] | None = None
        self.finish_reason: str | None = None
        self.done = False
        self.times: list[float] = []
        self._events = self._read()

    def next_text(self) -> str:
        """The next piece of text; AssertionError if the stream ends first."""
        for event in self._events:
            if event.get("choices") and (text := event["choices"][0]["delta"].get("content")):
                return str(text)
        raise AssertionError(f"the stream ended: {self.error or self.text!r}")

    def events(self) -> Iterator[dict[str, Any]]:
        """All that is left, event by event."""
        return self._events

    def finish(self) -> "Stream":
        """Read to the end."""
        for _ in self._events:
            pass
        return self

    def _read(self) -> Iterator[dict[str, Any]]:
        for line in self.response.iter_lines():
            if not line.startswith("data: "):
                continue
            assert not self.done, f"after [DONE]: {line}"
            if line == "data: [DONE]":
                self.done = True
                continue
            event = json.loads(line.removeprefix("data: "))
            self.error = event.get("error") or self.error
            self.usage = event.get("usage") or self.usage
            for choice in event.get("choices", []):
                self.text += choice["delta"].get("content") or ""
                self.finish_reason = choice["finish_reason"] or self.finish_reason
                self.times.append(time.monotonic())
            yield event


def end_process(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)


def _toml(tables: dict[str, Any]) -> str:
    lines = []
    for name, table in tables.items():
        if name == "models":
            for model_id, fields in table.items():
                lines += [f"[models.{json.dumps(model_id)}]", *_fields(fields)]
        else:
            lines += [f"[{name}]", *_fields(table)]
    return "\n".join(lines) + "\n"


def _fields(table: dict[str, Any]) -> list[str]:
    return [f"{json.dumps(name)} = {_value(value)}" for name, value in table.items()]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)
