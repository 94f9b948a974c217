"""The command: in this process, for what it says; as a process with a terminal, for how it behaves in one."""

import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from fcntl import ioctl
from typing import Any, Self

import pytest

from cli.main import main
from tests.service import ROOT

SECONDS = 20.0
# What terminals take for commands.
_ESCAPES = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_=>])")


@dataclass(slots=True, frozen=True)
class Result:
    """How it ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    """Runs it in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        for name in ("MLX_BROKER_URL", "MLX_BROKER_API_KEY", "MLX_BROKER_ADMIN_TOKEN"):
            monkeypatch.delenv(name, raising=False)

    def __call__(self, url: str | None, *arguments: str, stdin: str = "", **environment: str) -> Result:
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            for name, value in {"MLX_BROKER_URL": url or "", **environment}.items():
                patch.setenv(name, value)
            self._capsys.readouterr()
            code = main(arguments)
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)


def environment(url: str, **more: str) -> dict[str, str]:
    """For a process of its own."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MLX_BROKER_")}
    return ours | {"MLX_BROKER_URL": url, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | more


def process(url: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Without a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments],
        env=environment(url, **options.pop("env", {})),
        text=True,
        cwd=ROOT,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def in_bash(url: str, script: str) -> subprocess.CompletedProcess[str]:
    """A script that runs the command."""
    return subprocess.run(
        ["/bin/bash", "-c", script],
        cwd=ROOT,
        env=environment(url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Terminal:
    """The command in a terminal of this size: `with Terminal(url, "top") as terminal`. `text` is all that it wrote,
    without what steers a terminal; `raw` is with it."""

    def __init__(
        self, url: str, *arguments: str, columns: int = 100, rows: int = 30, env: dict[str, str] | None = None
    ) -> None:
        self._leader, follower = pty.openpty()
        ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(follower)
        self._follower = follower
        self.raw = b""
        variables = {"COLUMNS": "", "LINES": "", "NO_COLOR": "", **(env or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments],
            env={name: value for name, value in environment(url, **variables).items() if value or name == "TERM"},
            cwd=ROOT,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 -- Ctrl-C must reach it
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._follower)
        os.close(self._leader)

    @property
    def text(self) -> str:
        return _ESCAPES.sub(b"", self.raw).decode("utf-8", "replace").replace("\r", "")

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def press_until(self, key: str, text: str) -> None:
        """Once a second until it has written this: a Ctrl-C in the moment between a prompt and readline's wait for
        keys is noticed by Python with the next key only."""
        deadline = time.monotonic() + SECONDS
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.text[-1000:]!r}"
            self.type(key)
            again = time.monotonic() + 1.0
            while text not in self.text and time.monotonic() < again:
                self._read(0.05)

    def wait_for(self, text: str, count: int = 1) -> None:
        """Reads until it has written this so often."""
        deadline = time.monotonic() + SECONDS
        while self.text.count(text) < count:
            assert self._read(deadline - time.monotonic()), f"{text!r} is not in {self.text[-1000:]!r}"

    def end(self) -> int:
        """Reads to the end; the exit code."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            self._read(0.05)
            assert time.monotonic() < deadline, f"it does not end: {self.text[-1000:]!r}"
        while self._read(0.0):
            pass
        return self.process.returncode

    def mode(self) -> list[Any]:
        """Of the terminal, now."""
        return termios.tcgetattr(self._follower)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._leader], [], [], max(0.0, seconds))
        if not ready:
            return False
        self.raw += os.read(self._leader, 65536)
        return True
