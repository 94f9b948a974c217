"""How the command behaves in terminals of all kinds, and where there is none."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from broker.wire.from_gateways import Watch
from tests.cli.played import PlayedService
from tests.cli.running import Command, Terminal, environment, in_bash, process
from tests.gateway.http.test_gateway import LOADED, STATUS
from tests.service import ROOT, wait_until

HOSTILE = "[red]x[/red]\x1b[31m\x1b]0;title\x07"
FULL = Path("/dev/full")


def loaded(*names: str) -> dict[str, object]:
    return {**STATUS, "models": [{**LOADED, "model_id": name} for name in names]}


def test_a_table_in_a_terminal_has_all_its_columns(service: PlayedService) -> None:
    with Terminal(service.url, "ps", columns=140) as terminal:
        assert terminal.end() == 0
    head, tiny, _bad = terminal.text.splitlines()
    assert " ".join(head.split()) == "MODEL STATE PID MEMORY LIMIT MLX CPU TOK/S RUN WAIT IDLE UNTIL"
    assert tiny.split()[:3] == ["org/tiny", "ready", "4711"]
    assert b"\x1b[32mready" in terminal.raw


def test_a_narrow_terminal_gets_the_columns_that_matter(service: PlayedService) -> None:
    with Terminal(service.url, "ps", columns=40) as terminal:
        assert terminal.end() == 0
    lines = terminal.text.splitlines()
    assert lines[0].split() == ["MODEL", "STATE", "MEMORY", "TOK/S", "RUN"]
    assert all(len(line) <= 40 for line in lines)
    assert len(lines) == 3


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colours_where_none_are_wanted(service: PlayedService, name: str, value: str) -> None:
    with Terminal(service.url, "ps", columns=140, env={name: value}) as terminal:
        assert terminal.end() == 0
    assert b"\x1b[3" not in terminal.raw
    assert "org/tiny" in terminal.text


@pytest.mark.parametrize("columns", [30, 140])
def test_names_with_markup_and_escapes_are_shown_harmless(service: PlayedService, columns: int) -> None:
    service.status = loaded(HOSTILE)
    with Terminal(service.url, "ps", columns=columns) as terminal:
        assert terminal.end() == 0
    assert "[red]x[/red]\\x1b[31" in terminal.text
    assert b"\x1b]0;" not in terminal.raw
    assert b"\x07" not in terminal.raw


def test_names_with_escapes_are_harmless_in_pipes_too(service: PlayedService, cli: Command) -> None:
    service.status = loaded(HOSTILE)
    assert "[red]x[/red]\\x1b[31m\\x1b]0;title\\x07  ready" in cli(service.url, "ps").out


def test_json_is_harmless_in_a_terminal(service: PlayedService, cli: Command) -> None:
    """JSON leaves U+009B as it is, which begins a sequence of its own in many terminals."""
    service.status = loaded("x\x9b31m")
    asked = cli(service.url, "ps", "--json")
    assert "\x9b" not in asked.out
    assert asked.json["models"][0]["model_id"] == "x\x9b31m"


def test_nothing_loaded_is_said_in_a_terminal(service: PlayedService) -> None:
    service.status = loaded()
    with Terminal(service.url, "ps") as terminal:
        assert terminal.end() == 0
    assert terminal.text == "No model is loaded. `mlx-broker models` lists those on this machine.\n"


def test_a_letter_that_the_output_lacks_ends_nothing(service: PlayedService) -> None:
    service.status = loaded("模型-ü")
    printing = process(service.url, "ps", "--json", env={"PYTHONIOENCODING": "ascii"})
    out, err = printing.communicate(timeout=20)
    assert (printing.returncode, err) == (0, "")
    assert '"\\u6a21\\u578b-\\u00fc"' in out
    printing = process(service.url, "ps", env={"PYTHONIOENCODING": "ascii"})
    assert printing.communicate(timeout=20)[0].splitlines()[1].startswith("??-?   ready")


def test_a_reader_that_goes_ends_it_quietly(service: PlayedService) -> None:
    service.status = loaded(*(f"org/model-{number}" for number in range(3000)))  # more than a pipe holds
    command = f"{sys.executable} -m cli ps | head -1; echo ${{PIPESTATUS[0]}}"
    result = in_bash(service.url, command)
    head, code = result.stdout.splitlines()
    assert head.startswith("MODEL")
    assert (code, result.stderr) == ("141", "")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["ps"], ["--help"]])
def test_a_full_disk_is_one_line(service: PlayedService, arguments: list[str]) -> None:
    with FULL.open("w") as full:
        writing = process(service.url, *arguments, stdout=full)
        _, err = writing.communicate(timeout=20)
    assert (writing.returncode, err) == (1, "mlx-broker: cannot write the answer: No space left on device\n")


def test_streams_that_are_closed_end_nothing(service: PlayedService) -> None:
    for closed in (">&-", "<&- >&- 2>&-"):
        result = in_bash(service.url, f"{sys.executable} -m cli ps {closed}")
        assert (result.returncode, result.stderr) == (0, ""), closed


def test_ctrl_c_while_it_waits(service: PlayedService) -> None:
    with Terminal(service.url, "events") as terminal:
        wait_until(lambda: Watch(None) in service.messages, what="the question")
        terminal.type("\x03")
        assert terminal.end() == 130, terminal.text
    assert "Traceback" not in terminal.text


def test_kill_asks_only_if_requests_would_be_lost(service: PlayedService) -> None:
    with Terminal(service.url, "kill", "org/tiny") as terminal:
        terminal.wait_for("org/tiny has 1 request in flight. Kill it? [y/N] ")
        terminal.type("n\n")
        assert terminal.end() == 1
    assert service.messages == []
    service.status = {**STATUS, "models": [{**LOADED, "in_flight": 0}]}
    with Terminal(service.url, "kill", "org/tiny") as terminal:
        assert terminal.end() == 5  # nobody plays Kill
    assert len(service.messages) == 1


def test_ps_imports_little(service: PlayedService) -> None:
    """What it takes is mostly imports: this bounds them where a clock would not be fair."""
    code = (
        "import sys; from cli.main import main; code = main(['ps']);"
        "print(code, len(sys.modules), *sorted({n.partition('.')[0] for n in sys.modules}), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(service.url),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    code, count, *packages = result.stderr.split()
    assert code == "0"
    assert int(count) < 230
    assert not {"pydantic", "rich", "zmq", "asyncio", "importlib.metadata"} & set(packages)


@pytest.mark.slow
def test_ps_is_quick(service: PlayedService) -> None:
    """Needs an idle machine: the median of ten is below 0.3 s."""
    import time

    taken = []
    for _ in range(10):
        began = time.monotonic()
        asked = process(service.url, "ps")
        asked.communicate(timeout=20)
        assert asked.returncode == 0
        taken.append(time.monotonic() - began)
    assert sorted(taken)[5] < 0.3, taken


def test_a_signal_ends_it_as_it_ends_others(service: PlayedService) -> None:
    waiting = process(service.url, "events")
    wait_until(lambda: Watch(None) in service.messages, what="the question")
    waiting.send_signal(signal.SIGTERM)
    out, err = waiting.communicate(timeout=20)
    assert (waiting.returncode, out, err) == (-signal.SIGTERM, "", "")


def test_ctrl_c_during_the_imports_is_no_traceback() -> None:
    code = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from cli.main import main
main(["ps"])
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGINT, b"", b"")
