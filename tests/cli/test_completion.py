"""What the shells complete: commands, options and names of models."""

import sys
import time
from pathlib import Path

import pytest

from cli.names import nearest
from tests.cli.played import HELD, PlayedService
from tests.cli.running import Command, in_bash, process
from tests.cli.strangers import stranger

MODELS = ["org/tiny", "org/tiny-2", "other", "$(reboot)`x`", "a b"]


def completed(url: str, shell: str, line: str) -> tuple[str, str]:
    """What is offered for the end of this line, and stderr."""
    words = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    asked = process(url, env={**words, "_MLX_BROKER_COMPLETE": f"complete_{shell}"})
    out, err = asked.communicate(timeout=20)
    return out, err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_names_of_models(service: PlayedService, shell: str) -> None:
    service.models = [{**HELD, "model_id": name} for name in MODELS]
    out, err = completed(service.url, shell, "mlx-broker load org/t")
    assert err == ""
    assert [name in out for name in MODELS] == [True, True, False, False, False]


def test_no_name_that_a_shell_could_run(service: PlayedService) -> None:
    service.models = [{**HELD, "model_id": name} for name in MODELS]
    out, _ = completed(service.url, "zsh", "mlx-broker run ")
    assert [name in out for name in MODELS] == [True, True, True, False, False]


def test_commands_and_options(service: PlayedService) -> None:
    assert completed(service.url, "bash", "mlx-broker un")[0].split() == ["unload", "unpin"]
    assert "--force" in completed(service.url, "bash", "mlx-broker unload --")[0].split()


def test_it_is_silent_where_no_gateway_is(service: PlayedService) -> None:
    assert completed("http://127.0.0.1:1", "bash", "mlx-broker load o") == ("\n", "")
    assert completed("nonsense", "bash", "mlx-broker load o") == ("\n", "")


def test_it_is_quick_where_a_gateway_does_not_answer() -> None:
    with stranger(None) as url:
        began = time.monotonic()
        assert completed(url, "bash", "mlx-broker load o") == ("\n", "")
        assert time.monotonic() - began < 10.0  # a question of half a second, and a start


@pytest.mark.parametrize(
    ("shell", "has"),
    [("bash", "complete -o"), ("zsh", "#compdef mlx-broker"), ("fish", "complete --command mlx-broker")],
)
def test_every_shell_has_its_script(cli: Command, capsys: pytest.CaptureFixture[str], shell: str, has: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli(None, f"--show-completion={shell}")
    assert ended.value.code == 0
    assert has in capsys.readouterr().out


def test_the_script_of_bash_works_in_bash(service: PlayedService, tmp_path: Path) -> None:
    script = process(service.url, "--show-completion", "bash").communicate(timeout=20)[0]
    program = tmp_path / "mlx-broker"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cli "$@"\n')
    program.chmod(0o755)
    command = (
        f"{script}\nCOMP_WORDS=(mlx-broker load org/); COMP_CWORD=2; _mlx_broker_completion {program}; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    result = in_bash(service.url, command)
    assert (result.returncode, result.stdout.split()) == (0, ["org/tiny"])


def test_nearest_names() -> None:
    names = ["mlx-community/Qwen3-8B-4bit", "mlx-community/Qwen3-4B-4bit", "SmolLM2-135M-Instruct"]
    assert nearest("qwen3-8b", names) == ["mlx-community/Qwen3-8B-4bit"]
    assert nearest("qwen3-9b-4bit", names) == ["mlx-community/Qwen3-4B-4bit", "mlx-community/Qwen3-8B-4bit"]
    assert nearest("SMOLLM2-135M-INSTRUCT", names) == ["SmolLM2-135M-Instruct"]
    assert nearest("", names) == nearest("x", names) == []
