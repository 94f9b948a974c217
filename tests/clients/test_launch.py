"""`mlx-broker launch` with the agents themselves: the played model makes each of them write a file.

As in test_agents.py, but told by the command alone: nothing is written into the empty home before, and what each needs
to stay on this machine comes after `--`, as a person would write it.
"""

import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.agents import AGENTS, ServedModel
from tests.clients.confined import run_confined
from tests.clients.recorder import Exchange, Recorder
from tests.clients.test_agents import BIN, TEXT
from tests.service import ROOT, Service

CODER = "org/coder"
CONTEXT = 65_536
KEY = "key of the test"

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def coding() -> Iterator[Service]:
    """A service with a key, whose only model plays."""
    models = {CODER: {"type": "echo", "engine": "tests.clients.agent:Agent"}}
    settings = {"models": models, "gateway": {"api_key": KEY}}
    with tempfile.TemporaryDirectory(prefix="mlxb-") as directory, Service(Path(directory), settings) as service:
        yield service


def launched(agent: str, url: str, arguments: list[str]) -> list[str]:
    """By the command. The played model has no files that tell its context."""
    return [sys.executable, "-m", "cli", "launch", agent, CODER, "--url", url, "--", *arguments]


def by_shell_lines(agent: str, url: str, arguments: list[str]) -> list[str]:
    """By a shell that has read what `--print` prints, of a model whose context is known."""
    lines = AGENTS[agent](ServedModel(url, CODER, CONTEXT, has_key=True)).shell_lines(has_key=True)
    return ["/bin/sh", "-c", "\n".join([*lines, shlex.join([agent, *arguments])])]


Way = Callable[[str, str, list[str]], list[str]]
ways = pytest.mark.parametrize("way", [launched, by_shell_lines])


def work_of(
    way: Way,
    agent: str,
    arguments: list[str],
    call: dict[str, Any],
    service: Service,
    *,
    folder: Path,
    **variables: str,
) -> list[Exchange]:
    """What it sends while it works."""
    (folder / "home").mkdir()
    (folder / "work").mkdir()
    with Recorder(service.port) as recorder:
        environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "MLX_BROKER_API_KEY": KEY}
        command = way(agent, f"http://127.0.0.1:{recorder.port}", arguments)
        output = run_confined(command, folder, environment | variables, "CALL " + json.dumps(call), seconds=200)
    assert (folder / "work" / "hello.py").read_text() == TEXT, output
    exchanges = [exchange for exchange in recorder.exchanges() if exchange.method == "POST"]
    assert exchanges, output
    assert {exchange.status for exchange in exchanges} == {200}
    assert {exchange.body["model"] for exchange in exchanges} == {CODER}
    return exchanges


@ways
def test_codex(coding: Service, tmp_path: Path, way: Way) -> None:
    """It patches through its shell tool, as with every model whose name it does not know."""
    call = {"name": "exec_command", "arguments": {"cmd": f"printf '%s\\n' '{TEXT.strip()}' > hello.py"}}
    local = ["analytics.enabled=false", "check_for_update_on_startup=false"]
    local += [f"features.{name}=false" for name in ("apps", "plugins", "remote_plugin")]
    arguments = [word for setting in local for word in ("-c", setting)]
    arguments += ["exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", "-"]
    exchanges = work_of(way, "codex", arguments, call, coding, folder=tmp_path)
    assert {exchange.path for exchange in exchanges} == {"/v1/responses"}
    # Codex writes what it works with into the record of its session; it keeps 5 % for itself.
    [session] = (tmp_path / "home" / ".codex" / "sessions").rglob("*.jsonl")
    windows = set(re.findall(r'"model_context_window":(\d+)', session.read_text()))
    assert (windows == {str(CONTEXT * 95 // 100)}) == (way is by_shell_lines), windows


@ways
def test_opencode(coding: Service, tmp_path: Path, way: Way) -> None:
    call = {"name": "write", "arguments": {"filePath": str(tmp_path / "work" / "hello.py"), "content": TEXT}}
    local = {f"OPENCODE_{name}": "1" for name in ("DISABLE_MODELS_FETCH", "DISABLE_AUTOUPDATE", "PURE")}
    exchanges = work_of(way, "opencode", ["run"], call, coding, folder=tmp_path, NPM_CONFIG_OFFLINE="true", **local)
    assert {exchange.path for exchange in exchanges} == {"/v1/chat/completions"}
    limits = {exchange.body.get("max_tokens") for exchange in exchanges}
    assert (limits == {8192}) == (way is by_shell_lines), limits


@ways
def test_claude_code(coding: Service, tmp_path: Path, way: Way) -> None:
    call = {"name": "Write", "arguments": {"file_path": str(tmp_path / "work" / "hello.py"), "content": TEXT}}
    exchanges = work_of(way, "claude", ["-p", "--permission-mode", "acceptEdits"], call, coding, folder=tmp_path)
    assert {exchange.path for exchange in exchanges} == {"/v1/messages?beta=true"}
    limits = {exchange.body["max_tokens"] for exchange in exchanges}
    assert (limits == {8192}) == (way is by_shell_lines), limits
