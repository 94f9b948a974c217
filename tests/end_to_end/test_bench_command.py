"""`mlx-broker bench` against a real service, whose echo engine is quicker than any model."""

import signal
import sys

import pytest

from cli.commands.bench import told
from tests.cli.running import Command, process
from tests.service import Service, wait_until


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def test_figures_of_every_level(shared: Service, cli: Command) -> None:
    result = cli(shared.url, "bench", "echo", "--streams", "1,3", "--tokens", "40", "--rounds", "2", "--json")
    assert result.code == 0, result.err
    answer = result.json
    assert [level["streams"] for level in answer["levels"]] == [1, 3]
    assert [level["requests"] for level in answer["levels"]] == [2, 6]
    assert [level["tokens"] for level in answer["levels"]] == [80, 240]
    for level in answer["levels"]:
        assert 0 < level["ttft_median"] <= level["ttft_p95"] < 10
        assert level["in_total"] > 0
        assert 100 < level["prompt_tokens"] < 160
        assert level["device_waits"] is None  # it has none
    assert (answer["model"], answer["prompt_tokens"], answer["tokens"]) == ("echo", 128, 40)
    assert answer["server"]["version"] in told("echo", 128, 40, answer["server"])
    assert not shared.model("echo")["preloaded"]


def test_a_table_for_people(shared: Service, cli: Command) -> None:
    result = cli(shared.url, "bench", "echo", "--streams", "2", "--tokens", "8", "--rounds", "1")
    assert result.code == 0, result.err
    header, row, empty, last = result.out.splitlines()
    assert header.split()[:2] == ["STREAMS", "TTFT"]
    assert row.split()[0] == "2"
    assert empty == ""
    assert last.startswith("echo: prompts of about 128 tokens, answers of 8 at most; mlx-broker ")


def test_what_cannot_be_measured(shared: Service, cli: Command) -> None:
    unknown = cli(shared.url, "bench", "ecko")
    assert (unknown.code, unknown.out) == (5, "")
    assert "did you mean echo?" in unknown.err
    wrongs = [("--streams", "1,0"), ("--streams", "x"), ("--tokens", "1e3"), ("--rounds", ""), ("--rounds", "1" * 5000)]
    for option, text in wrongs:
        wrong = cli(shared.url, "bench", "echo", option, text)
        assert wrong.code == 2
        assert f"{option} must be a whole number from 1 to" in wrong.err


def test_ctrl_c_leaves_nothing_running(shared: Service) -> None:
    bench = process(shared.url, "bench", "echo", "--streams", "4", "--tokens", "1000000", start_new_session=True)
    wait_until(lambda: shared.model("echo")["in_flight"] == 4, what="four streams")
    bench.send_signal(signal.SIGINT)
    out, err = bench.communicate(timeout=20)
    assert (bench.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    wait_until(lambda: shared.model("echo")["in_flight"] == 0, what="no stream")


def test_a_process_that_dies_ends_it_with_one_line(shared: Service) -> None:
    bench = process(shared.url, "bench", "echo", "--streams", "2", "--tokens", "1000000")
    wait_until(lambda: shared.model("echo")["in_flight"] == 2, what="two streams")
    # Requests without output would be replayed.
    flowing = shared.model("echo")["generation_tokens"]
    wait_until(lambda: shared.model("echo")["generation_tokens"] > flowing + 1000, what="tokens")
    assert shared.kill("echo").status_code == 200
    out, err = bench.communicate(timeout=20)
    assert (bench.returncode, out) == (1, ""), err
    assert err.splitlines()[-1].startswith("mlx-broker: a stream of echo failed: ")


@pytest.mark.slow
def test_its_own_cost_is_not_the_limit(shared: Service, cli: Command) -> None:
    """The engine here costs nothing, and yet the client is not what is busy."""
    sizes = ("--streams", "1,4,16", "--tokens", "2000", "--rounds", "2")
    answer = cli(shared.url, "bench", "echo", *sizes, "--json").json
    sys.stderr.write(f"{answer['levels']}\n")
    assert max(level["client_cpu"] for level in answer["levels"]) < 0.5
