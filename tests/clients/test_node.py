"""Client libraries of JavaScript, unchanged, each in a process that reaches nothing but this machine.

What they send is kept in `recorded/`, where tests without Node find it; RECORD_CLIENTS=1 writes it anew.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.confined import run_confined
from tests.clients.conftest import AGENT
from tests.clients.recorded import keep_or_compare
from tests.clients.recorder import Recorder
from tests.service import Service

NODE = Path(__file__).parent / "node"
HELLO = "Hello from JavaScript"
SUN = "The tool says: sun in Paris"
# What an echo has made before its process dies; the last of it may die with the process.
BEFORE = "crash after 3 tokens, and not before them"[:12]

pytestmark = [pytest.mark.clients, pytest.mark.timeout(180)]


def seen_by(name: str, service: Service, folder: Path) -> dict[str, Any]:
    """What a script of the folder `node` prints."""
    with Recorder(service.port) as recorder:
        script = [str(NODE / f"{name}.mjs"), f"http://127.0.0.1:{recorder.port}", AGENT]
        output = run_confined(["node", *script], folder, {})
    keep_or_compare(name, recorder.exchanges(), folder)
    seen: dict[str, Any] = json.loads(output.splitlines()[-1])
    before = seen.pop("before")
    assert before
    assert BEFORE.startswith(before)
    return seen


def test_openai(playing: Service, tmp_path: Path) -> None:
    seen = seen_by("openai", playing, tmp_path)
    events = seen.pop("events")
    assert events[:2] == ["response.created", "response.in_progress"]
    assert events[-1] == "response.completed"
    assert seen == {
        "stream": HELLO,
        "tools": SUN,
        "responses": SUN,
        "error": [400, "invalid_request", "messages"],
        "death": "worker_died",
        "failed": "failed",
    }


def test_anthropic(playing: Service, tmp_path: Path) -> None:
    assert seen_by("anthropic", playing, tmp_path) == {
        "stream": HELLO,
        "stop": "end_turn",
        "tools": ["tool_use", SUN],
        "counted": True,
        "error": [400, "invalid_request_error"],
        "death": "APIError",
    }


def test_ollama(playing: Service, tmp_path: Path) -> None:
    seen = seen_by("ollama", playing, tmp_path)
    assert "SIGSEGV" in seen.pop("death")
    assert seen == {
        "stream": HELLO,
        "done": "stop",
        "generated": "Once upon a time",
        "tools": SUN,
        "listed": True,
        "running": True,
        "capabilities": ["completion"],
        "error": 404,
    }


def test_ai_sdk(playing: Service, tmp_path: Path) -> None:
    assert seen_by("ai", playing, tmp_path) == {
        "stream": HELLO,
        "tools": SUN,
        "streamedTools": SUN,
        "error": 400,
        "death": True,
    }
