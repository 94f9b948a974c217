"""The command with a real broker and real processes of models."""

import signal
import subprocess

from tests.cli.running import Command, Terminal, process
from tests.service import Service, wait_until


def test_a_day_of_a_model(shared: Service, cli: Command) -> None:
    url = shared.url
    assert "tiny-a" in cli(url, "models").out
    loaded = cli(url, "load", "echo")
    assert (loaded.code, loaded.err) == (0, "")
    assert loaded.out.startswith("loaded echo (")
    [row] = [line for line in cli(url, "ps").out.splitlines() if line.startswith("echo ")]
    assert row.split()[1] == "ready"
    assert row.endswith("pinned")
    assert cli(url, "ps", "--json").json["models"]
    assert cli(url, "run", "echo", "Hi", "--max-tokens", "3").out.startswith("Hi")
    assert cli(url, "unpin", "echo").out == "unpinned echo\n"
    assert cli(url, "pin", "echo").out == "pinned echo\n"
    assert cli(url, "kill", "echo").out.startswith("killed echo (process ")
    wait_until(lambda: shared.model("echo")["state"] == "ready", 60.0, what="echo again")
    assert "signal SIGKILL" in cli(url, "logs", "echo").out
    assert cli(url, "unload", "echo").out == "unloaded echo\n"
    gone = cli(url, "unload", "echo")
    assert (gone.code, gone.err) == (5, "mlx-broker: Model not loaded: echo\n")


def test_a_conversation_goes_on_after_its_process_was_killed(shared: Service) -> None:
    with Terminal(shared.url, "run", "bad") as terminal:
        terminal.wait_for(">>> ")
        terminal.type("slow and long\n")
        terminal.wait_for("slow and long", 2)
        shared.kill("bad", resume=False).raise_for_status()
        terminal.wait_for("The process of bad died in the middle of its answer")
        terminal.wait_for(">>> ", 2)
        terminal.type("quick\n")
        terminal.wait_for("quick", 2)
        terminal.wait_for(">>> ", 3)
        terminal.type("/bye\n")
        assert terminal.end() == 0


def test_events_and_logs_follow(shared: Service) -> None:
    shared.unload("echo")
    events = process(shared.url, "events", "echo", "--json")
    assert events.stdout is not None
    shared.load("echo").raise_for_status()
    states = ""
    while '"ready"' not in states:
        states += events.stdout.readline()
    events.send_signal(signal.SIGINT)
    assert events.wait(20) == 130
    events.communicate()
    shared.unload("echo").raise_for_status()


def test_a_reader_of_a_long_answer_goes(shared: Service) -> None:
    asking = process(shared.url, "run", "echo", "again and again", stdout=subprocess.PIPE)
    assert asking.stdout is not None
    asking.stdout.read(4)
    asking.stdout.close()
    assert asking.wait(20) in (0, 141)
    assert asking.stderr is not None
    assert asking.stderr.read() == ""
    asking.stderr.close()
