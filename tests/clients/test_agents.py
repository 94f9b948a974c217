"""Coding agents, unchanged and headless: the played model makes each of them write a file.

Each has an empty home, a clean environment, and reaches nothing but this machine. What it sends is kept as in
test_node.py.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.confined import run_confined
from tests.clients.conftest import AGENT
from tests.clients.recorded import keep_or_compare
from tests.clients.recorder import Exchange, Recorder
from tests.service import Service

BIN = Path(__file__).parent / "node" / "node_modules" / ".bin"
TEXT = 'print("Hello")\n'

# What Codex has to know of a model to offer it the tool apply_patch in its own form.
_MODEL = {
    "slug": AGENT,
    "display_name": AGENT,
    "supported_reasoning_levels": [],
    "shell_type": "unified_exec",
    "visibility": "list",
    "supported_in_api": True,
    "priority": 1,
    "base_instructions": "You edit files.",
    "supports_reasoning_summaries": False,
    "support_verbosity": False,
    "apply_patch_tool_type": "freeform",
    "truncation_policy": {"mode": "tokens", "limit": 10_000},
    "supports_parallel_tool_calls": False,
    "context_window": 32_768,
    "experimental_supported_tools": [],
}

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


def work_of(
    command: list[str],
    call: dict[str, Any],
    service: Service,
    folder: Path,
    configure: Callable[[Path, str], dict[str, str]],
) -> list[Exchange]:
    """What an agent sends while it works. configure: writes its settings, from the folder and the gateway's URL, and
    returns its environment."""
    (folder / "home").mkdir()
    (folder / "work").mkdir()
    with Recorder(service.port) as recorder:
        environment = configure(folder, f"http://127.0.0.1:{recorder.port}")
        order = "CALL " + json.dumps(call)
        output = run_confined([str(BIN / command[0]), *command[1:]], folder, environment, order, seconds=200)
    assert (folder / "work" / "hello.py").read_text() == TEXT, output
    exchanges = recorder.exchanges()
    keep_or_compare(command[0], exchanges, folder)
    return exchanges


def _codex(folder: Path, url: str) -> dict[str, str]:
    """As docs/responses.md tells people to set it up; without plugins, which it would look for."""
    home = folder / "home" / ".codex"
    home.mkdir()
    (home / "models.json").write_text(json.dumps({"models": [_MODEL]}))
    (home / "config.toml").write_text(
        f'model = "{AGENT}"\nmodel_provider = "local"\nmodel_catalog_json = "{home / "models.json"}"\n'
        "check_for_update_on_startup = false\n"
        f'[model_providers.local]\nname = "local"\nbase_url = "{url}/v1"\nwire_api = "responses"\n'
        "[analytics]\nenabled = false\n[features]\napps = false\nplugins = false\nremote_plugin = false\n"
    )
    return {}


def test_codex(playing: Service, tmp_path: Path) -> None:
    patch = f"*** Begin Patch\n*** Add File: hello.py\n+{TEXT}*** End Patch\n"
    call = {"name": "apply_patch", "arguments": {"input": patch}}
    command = ["codex", "exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", "-"]
    exchanges = work_of(command, call, playing, tmp_path, _codex)
    asked = [exchange for exchange in exchanges if exchange.path == "/v1/responses"]
    assert [exchange.status for exchange in asked] == [200, 200]
    assert [tool["type"] for tool in asked[0].body["tools"] if tool.get("name") == "apply_patch"] == ["custom"]
    assert "custom_tool_call_output" in [item["type"] for item in asked[1].body["input"]]


def _opencode(folder: Path, url: str) -> dict[str, str]:
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "local", "options": {"baseURL": f"{url}/v1"}}
    settings = {
        "$schema": "https://opencode.ai/config.json",
        "autoupdate": False,
        "share": "disabled",
        "provider": {"local": {**provider, "models": {AGENT: {"name": AGENT, "tool_call": True}}}},
        "model": f"local/{AGENT}",
        "small_model": f"local/{AGENT}",
    }
    (folder / "work" / "opencode.json").write_text(json.dumps(settings))
    (folder / "home" / ".npmrc").write_text("offline=true\n")
    # It would ask for a list of models, for a newer release and for plugins.
    return {f"OPENCODE_{name}": "1" for name in ("DISABLE_MODELS_FETCH", "DISABLE_AUTOUPDATE", "PURE")}


def test_opencode(playing: Service, tmp_path: Path) -> None:
    path = str(tmp_path / "work" / "hello.py")
    call = {"name": "write", "arguments": {"filePath": path, "content": TEXT}}
    exchanges = work_of(["opencode", "run"], call, playing, tmp_path, _opencode)
    assert {exchange.path for exchange in exchanges} == {"/v1/chat/completions"}


def _claude(_folder: Path, url: str) -> dict[str, str]:
    """As docs/anthropic.md tells people to set it up."""
    names = ("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL", "ANTHROPIC_SMALL_FAST_MODEL")
    place = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": "none"}
    window = {"CLAUDE_CODE_MAX_CONTEXT_TOKENS": "32768"}
    return dict.fromkeys(names, AGENT) | place | window | {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}


def test_claude_code(playing: Service, tmp_path: Path) -> None:
    path = str(tmp_path / "work" / "hello.py")
    call = {"name": "Write", "arguments": {"file_path": path, "content": TEXT}}
    exchanges = work_of(["claude", "-p", "--permission-mode", "acceptEdits"], call, playing, tmp_path, _claude)
    assert {exchange.path for exchange in exchanges} == {"/v1/messages?beta=true"}
    assert "system" in [message["role"] for message in exchanges[0].body["messages"]]
