"""What a user can set, call or meet is documented where they look for it. Names count only inside code marks."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from starlette.routing import BaseRoute, Mount, Route

from broker.policy.actions import Action
from broker.policy.events import Event
from broker.settings import BrokerSettings, ModelSettings
from broker.wire.codec import COMMANDS
from broker.wire.failure import Failure
from broker.wire.frames import VERSION
from broker.wire.states import State
from broker.wire.work import Embed, Generate, Rerank
from gateway.app import create_app
from gateway.http import errors
from gateway.link.client import BrokerClient
from gateway.openai import requests as gateway_openai
from gateway.settings import PREFIX
from gateway.settings import Settings as GatewaySettings
from tests.service import ROOT


def document(name: str) -> str:
    path = ROOT / name
    assert path.exists(), f"{name} is missing"
    return path.read_text()


def code_in(text: str) -> str:
    """Everything between code marks: fenced blocks and inline spans, one a line."""
    blocks = re.findall(r"^```.*?^```", text, flags=re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(blocks + re.findall(r"`([^`\n]+)`", rest))


def missing(names: set[str], text: str) -> list[str]:
    """Those of `names` that are no word of `text`."""
    return sorted(name for name in names if not re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text))


def paths_of(routes: list[BaseRoute], prefix: str = "") -> set[str]:
    paths = set()
    for route in routes:
        if isinstance(route, Mount):
            paths |= paths_of(route.routes, prefix + route.path)
        elif isinstance(route, Route):
            paths.add(prefix + route.path)
    return paths


def _any_parameter(path: str) -> str:
    """`{model_id:path}`, `{model_id}` and `{id}` are the same to a reader."""
    return re.sub(r"\{[^}\n]*\}", "{}", path)


def test_every_setting_is_in_the_readme() -> None:
    # `models` is the settings file's alone: a table for each model.
    names = {
        f"{PREFIX}{name.upper()}" for name in {*BrokerSettings.model_fields, *GatewaySettings.model_fields} - {"models"}
    }
    code = code_in(document("README.md"))
    assert missing(names, code) == []
    assert missing(set(ModelSettings.model_fields), code) == []
    assert "[models." in code


def test_every_field_that_is_refused_is_in_the_readme() -> None:
    fields = {*gateway_openai._NOT_YET_CHAT, *gateway_openai._NOT_YET_COMPLETION}
    assert len(fields) > 20
    assert missing(fields, code_in(document("README.md").partition("does not do yet")[2])) == []


def test_the_readme_names_no_setting_that_is_gone() -> None:
    known = {name.upper() for name in {*BrokerSettings.model_fields, *GatewaySettings.model_fields}} | {"CONFIG"}
    named = set(re.findall(rf"\b{PREFIX}([A-Z_]+[A-Z])\b", document("README.md")))
    assert named - known == set()


def test_every_route_is_in_the_readme() -> None:
    app = create_app(GatewaySettings.model_construct(), BrokerClient(Path("unused")))
    paths = paths_of(app.routes)
    assert len(paths) >= 11  # the walk has found the mounts
    without_host = re.sub(r"https?://[^/\s`]+", " ", document("README.md"))
    assert missing({_any_parameter(path) for path in paths}, _any_parameter(without_host)) == []


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_its_fields_are_in_the_protocol(command: bytes) -> None:
    body: Any = COMMANDS[command]
    code = code_in(document("docs/protocol.md"))
    assert missing({command.decode(), *(f.name for f in fields(body))}, code) == []


def test_the_payload_and_the_errors_are_in_the_protocol() -> None:
    code = code_in(document("docs/protocol.md"))
    names = {f.name for body in (Generate, Embed, Rerank, Failure) for f in fields(body)}
    assert missing(names | {"PARTIAL", "FINAL", "ERROR", VERSION.decode()}, code) == []
    assert missing({*errors._TABLE, errors.INTERNAL_ERROR.code}, code) == []


def test_every_event_action_and_state_is_in_the_pool() -> None:
    names = {c.__name__ for c in (*get_args(Event), *get_args(Action))}
    assert len(names) > 30
    code = code_in(document("docs/pool.md"))
    assert missing(names | set(State), code) == []


def test_every_module_is_in_the_architecture() -> None:
    """As `broker/policy/pool.py`, or as `pool.py` in a section or tree of its package."""
    text = document("docs/architecture.md")
    for package in ("broker", "worker", "gateway"):
        for path in (ROOT / package).glob("*.py"):
            if path.name != "__init__.py":
                named = re.search(rf"\b{package}/\s.*?\b{path.name}|\b{package}/{path.name}", text, flags=re.DOTALL)
                assert named, f"docs/architecture.md does not name {package}/{path.name}"
