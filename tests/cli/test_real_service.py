"""The command with a real broker and real processes of models."""

import signal
import subprocess

from tests.cli.running import Command, Terminal, process
from tests.service import Service, end_process, wait_until


def test_a_day_of_a_model(shared: Service, cli: Command) -> None:
    url = shared.url
    assert "tiny-a" in cli(url, "models").out
    loaded = cli(url, "load", "tiny-a")
    assert (loaded.code, loaded.err) == (0, "")
    assert loaded.out.startswith("loaded tiny-a (")
    [row] = [line for line in cli(url, "ps").out.splitlines() if line.startswith("tiny-a ")]
    assert row.split()[1] == "ready"
    assert row.endswith("pinned")
    assert cli(url, "ps", "--json").json["models"]
    refused = cli(url, "rm", "tiny-a", "--yes")
    assert (refused.code, refused.err.startswith("mlx-broker: tiny-a is in use (ready)")) == (1, True)
    assert cli(url, "run", "tiny-a", "Hi", "--max-tokens", "3", "--json").json["usage"]["completion_tokens"] <= 3
    assert cli(url, "unpin", "tiny-a").out == "unpinned tiny-a\n"
    assert cli(url, "pin", "tiny-a").out == "pinned tiny-a\n"
    assert cli(url, "kill", "tiny-a").out.startswith("killed tiny-a (process ")
    wait_until(lambda: shared.model("tiny-a")["state"] == "ready", what="tiny-a again")
    assert "signal SIGKILL" in cli(url, "logs", "tiny-a").out
    assert cli(url, "unload", "tiny-a").out == "unloaded tiny-a\n"
    gone = cli(url, "unload", "tiny-a")
    assert (gone.code, gone.err) == (5, "mlx-broker: Model not loaded: tiny-a\n")


def test_a_conversation_goes_on_after_its_process_was_killed(shared: Service) -> None:
    with Terminal(shared.url, "run", "bad") as terminal:
        terminal.wait_for(">>> ")
        terminal.type("slow and long\n")
        terminal.wait_for("slow and long", 2)
        end_process(shared.model("bad")["pid"])
        terminal.wait_for("The process of bad died in the middle of its answer")
        terminal.wait_for(">>> ", 2)
        terminal.type("quick\n")
        terminal.wait_for("quick", 2)
        terminal.wait_for(">>> ", 3)
        terminal.type("/bye\n")
        assert terminal.end() == 0


def test_events_and_logs_follow(shared: Service) -> None:
    events = process(shared.url, "events", "tiny-b", "--json")
    assert events.stdout is not None
    shared.load("tiny-b").raise_for_status()
    states = ""
    while '"ready"' not in states:
        states += events.stdout.readline()
    assert '"loading"' in states
    events.send_signal(signal.SIGINT)
    assert events.wait(20) == 130
    events.communicate()
    shared.unload("tiny-b").raise_for_status()


def test_a_reader_of_a_long_answer_goes(shared: Service) -> None:
    asking = process(shared.url, "run", "echo", "again and again", stdout=subprocess.PIPE)
    assert asking.stdout is not None
    asking.stdout.read(4)
    asking.stdout.close()
    assert asking.wait(20) in (0, 141)
    assert asking.stderr is not None
    assert asking.stderr.read() == ""
    asking.stderr.close()
