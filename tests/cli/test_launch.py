"""`launch`: what an agent is told, how it is started, and what is said where it cannot be."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from cli.agents import AGENTS, INSTALL, KEY, Launch, ServedModel
from tests.cli.played import HELD, PlayedService
from tests.cli.running import Command, process

MODEL = 'org/it\'s a "model"'
KNOWN = ServedModel("http://127.0.0.1:8080", MODEL, 40_960, has_key=False)
UNKNOWN = ServedModel("http://127.0.0.1:8080", MODEL, None, has_key=True)
# Says what it has been told.
SAYS = """#!/usr/bin/env python3
import json, os, sys
print(json.dumps({"arguments": sys.argv[1:], "variables": dict(os.environ)}))
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH in which every agent says what it has been told."""
    for name in AGENTS:
        (tmp_path / name).write_text(SAYS)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def told(launch: Launch, programs: Path, *, has_key: bool) -> tuple[list[str], dict[str, str]]:
    """What an agent gets by its own name, after a shell has read the lines."""
    script = "\n".join([*launch.shell_lines(has_key=has_key), f"{launch.program} exec 'a  b'"])
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", KEY: "secret"}
    said = subprocess.run(["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    words = json.loads(said.stdout)
    return words["arguments"], words["variables"]


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("to", [KNOWN, UNKNOWN], ids=["context", "key"])
def test_the_lines_do_in_a_shell_what_the_command_does(name: str, to: ServedModel, programs: Path) -> None:
    launch = AGENTS[name](to)
    arguments, variables = told(launch, programs, has_key=to.has_key)
    assert arguments == [*launch.arguments, "exec", "a  b"]
    assert launch.environment("secret" if to.has_key else None).items() <= variables.items()
    assert "secret" not in "\n".join(launch.shell_lines(has_key=to.has_key))


def test_codex_is_told_by_arguments() -> None:
    launch = AGENTS["codex"](KNOWN)
    assert launch.arguments[::2] == ["-c"] * 7
    settings = dict(word.partition("=")[::2] for word in launch.arguments[1::2])
    assert {name: json.loads(value) for name, value in settings.items()} == {
        "model": MODEL,
        "model_provider": "mlx-broker",
        "model_providers.mlx-broker.name": "mlx-broker",
        "model_providers.mlx-broker.base_url": "http://127.0.0.1:8080/v1",
        "model_providers.mlx-broker.wire_api": "responses",
        "model_context_window": 40_960,
        "model_auto_compact_token_limit": 32_768,
    }
    assert f'model_providers.mlx-broker.env_key="{KEY}"' in AGENTS["codex"](UNKNOWN).arguments


def test_opencode_is_told_by_a_variable() -> None:
    settings = json.loads(AGENTS["opencode"](KNOWN).variables["OPENCODE_CONFIG_CONTENT"])
    provider = settings["provider"]["mlx-broker"]
    assert provider["models"][MODEL]["limit"] == {"context": 40_960, "output": 8192}
    assert settings["model"] == settings["small_model"] == f"mlx-broker/{MODEL}"
    settings = json.loads(AGENTS["opencode"](UNKNOWN).variables["OPENCODE_CONFIG_CONTENT"])
    provider = settings["provider"]["mlx-broker"]
    assert provider["options"] == {"baseURL": "http://127.0.0.1:8080/v1", "apiKey": f"{{env:{KEY}}}"}
    assert "limit" not in provider["models"][MODEL]


def test_claude_code_is_told_by_variables() -> None:
    variables = AGENTS["claude"](KNOWN).environment(None)
    assert variables["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8080"
    assert variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "40960"
    assert variables["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "8192"
    assert (variables["ANTHROPIC_AUTH_TOKEN"], variables["ANTHROPIC_API_KEY"]) == ("none", "")
    assert {value for name, value in variables.items() if "MODEL" in name} == {MODEL}
    small = AGENTS["claude"](ServedModel("http://there", "small", 2048, has_key=False)).variables
    assert small["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "512", "an answer leaves room for the question"


@pytest.mark.parametrize("name", AGENTS)
def test_it_becomes_the_program(service: PlayedService, programs: Path, name: str) -> None:
    service.models = [{**HELD, "context_length": 32_768}]
    path = f"{programs}:{os.environ['PATH']}"
    started = process(service.url, "launch", name, "org/tiny", "--", "-p", "--url", env={"PATH": path, KEY: "secret"})
    out, err = started.communicate(timeout=30)
    assert (started.returncode, err) == (0, "")
    said = json.loads(out)
    launch = AGENTS[name](ServedModel(service.url, "org/tiny", 32_768, has_key=True))
    assert said["arguments"] == [*launch.arguments, "-p", "--url"]
    assert launch.environment("secret").items() <= said["variables"].items()


def test_print_only_prints(service: PlayedService, cli: Command, programs: Path) -> None:
    service.models = [{**HELD, "context_length": 32_768}]
    printed = cli(service.url, "launch", "claude", "org/tiny", "--print", PATH=str(programs))
    assert (printed.code, printed.err) == (0, "")
    assert "export CLAUDE_CODE_MAX_CONTEXT_TOKENS=32768" in printed.out.splitlines()
    assert all(shlex.split(text)[0] == "export" for text in printed.out.splitlines())


@pytest.mark.parametrize("name", AGENTS)
def test_one_that_is_not_installed(service: PlayedService, cli: Command, tmp_path: Path, name: str) -> None:
    service.models = [{**HELD, "context_length": 32_768}]
    said = cli(service.url, "launch", name, "org/tiny", PATH=str(tmp_path))
    assert said.code == 1
    assert said.err == (
        f"mlx-broker: {name} is not installed here, or not on PATH: {INSTALL[name]}. The lines above set it up\n"
    )
    printed = cli(service.url, "launch", name, "org/tiny", "--print", PATH=str(tmp_path))
    assert (printed.code, printed.out) == (0, said.out)
    assert "org/tiny" in said.out


def test_what_it_does_not_know(service: PlayedService, cli: Command) -> None:
    said = cli(service.url, "launch", "emacs", "org/tiny")
    assert (said.code, said.err) == (2, "mlx-broker: launch knows codex, opencode, claude, not 'emacs'\n")
    service.knows([])
    said = cli(service.url, "launch", "codex", "org/tni")
    assert (said.code, said.out) == (5, "")
    assert said.err == f"mlx-broker: {service.url} has no model org/tni: did you mean org/tiny?\n"


def test_a_context_that_is_small_for_agents(service: PlayedService, cli: Command, programs: Path) -> None:
    said = cli(service.url, "launch", "claude", "org/tiny", "--print", PATH=str(programs))
    assert said.err == "org/tiny holds 2048 tokens, and agents send prompts of 10,000 and more\n"
