"""`logs`: of one model, and of all loaded ones beside each other."""

import json

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Logs, Watch
from broker.wire.outputs import PARTIAL, Output
from tests.cli.played import PlayedService
from tests.cli.running import Command, Terminal, process
from tests.gateway.http.test_gateway import LOADED, STATUS
from tests.gateway.played_broker import PlayedBroker
from tests.service import wait_until

LINES = {
    "a": [[1.0, 11, "first of a"], [3.0, 11, "second \x1b[2Jof a"]],
    "b": [[2.0, 12, "first of b"]],
    "later": [[4.0, 13, "first of later"]],
}


async def play(broker: PlayedBroker, request_id: bytes, body: Logs) -> None:
    report = {"lines": LINES[body.model][-body.tail :]}
    if body.follow:
        await broker.outputs(Output(request_id, PARTIAL, report))
    else:
        await broker.final(request_id, report)


def test_the_log_of_one_model(service: PlayedService, cli: Command) -> None:
    service.on(Logs, play)
    assert cli(service.url, "logs", "a").out == "first of a\nsecond \x1b[2Jof a\n"  # into a pipe as it is
    assert cli(service.url, "logs", "a", "-n", "1", "--json").json == {
        "model_id": "a",
        "at": 3.0,
        "pid": 11,
        "text": "second \x1b[2Jof a",
    }
    assert service.messages[1:] == [Logs("a", tail=1, follow=False)]


def test_a_log_in_a_terminal_is_harmless(service: PlayedService) -> None:
    service.on(Logs, play)
    with Terminal(service.url, "logs", "a") as terminal:
        assert terminal.end() == 0
    assert "second \\x1b[2Jof a\n" in terminal.text
    assert b"\x1b[2J" not in terminal.raw


def test_a_line_of_ten_megabytes(service: PlayedService, cli: Command) -> None:
    async def answer(broker: PlayedBroker, request_id: bytes, _body: Logs) -> None:
        await broker.final(request_id, {"lines": [[1.0, 11, "x" * 10_000_000], [2.0, 11, "after"]]})

    service.on(Logs, answer)
    result = cli(service.url, "logs", "a")
    assert (result.code, len(result.out)) == (0, 10_000_007)


def test_without_a_model_the_logs_of_all_loaded_ones_in_the_order_of_time(service: PlayedService, cli: Command) -> None:
    service.on(Logs, play)
    models = [{**LOADED, "model_id": name} for name in ("a", "b")]
    service.status = {**STATUS, "models": [*models, {**LOADED, "model_id": "later", "state": "failed"}]}
    assert cli(service.url, "logs").out == "a | first of a\nb | first of b\na | second \x1b[2Jof a\n"


def test_following_all_begins_with_what_is_loaded_later_too(service: PlayedService) -> None:
    service.on(Logs, play)
    service.status = {**STATUS, "models": [{**LOADED, "model_id": "a"}]}

    async def watch(broker: PlayedBroker, request_id: bytes, _body: Watch) -> None:
        change = {"model_id": "later", "state": "loading", "reason": None, "stage": None, "fraction": None, "at": 1.0}
        await broker.outputs(Output(request_id, PARTIAL, change))

    service.on(Watch, watch)
    following = process(service.url, "logs", "--follow", "--json")
    assert following.stdout is not None
    lines = sorted(json.loads(following.stdout.readline())["text"] for _ in range(3))
    assert lines == ["first of a", "first of later", "second \x1b[2Jof a"]
    following.terminate()
    following.communicate(timeout=20)


def test_the_end_of_the_broker_ends_what_follows(service: PlayedService) -> None:
    async def die(broker: PlayedBroker, request_id: bytes, _body: Logs) -> None:
        await broker.outputs(Output(request_id, PARTIAL, {"lines": LINES["b"]}))
        await broker.error(request_id, Failure(Code.BROKER_UNAVAILABLE, "the broker has gone", retryable=True))

    service.on(Logs, die)
    following = process(service.url, "logs", "org/tiny", "-f")
    out, err = following.communicate(timeout=20)
    assert (following.returncode, err) == (3, "mlx-broker: the broker has gone\n")
    assert out in ("first of b\n", "")  # the gateway sends both at once, or only the error
    wait_until(lambda: service.messages == [Logs("org/tiny", tail=100, follow=True)])


def test_the_log_of_a_model_that_does_not_exist(service: PlayedService, cli: Command) -> None:
    """The route has an empty log for every name: it may be that of a model whose files are gone."""
    service.finals(Logs, {"lines": []})
    assert cli(service.url, "logs", "org/tiny").code == 0
    service.knows([])
    told = f"{service.url} has no model org/tni: did you mean org/tiny?"
    result = cli(service.url, "logs", "org/tni")
    assert (result.code, result.err) == (5, f"mlx-broker: {told}\n")
    for command in (["logs", "-f", "tin"], ["events", "tin"]):
        result = cli(service.url, *command)
        assert (result.code, result.err) == (5, f"mlx-broker: {told.replace('org/tni', 'tin')}\n")
    service.refuses(Logs, Code.BROKER_UNAVAILABLE, "the broker has gone")
    result = cli(service.url, "logs", "-f", "org/tni")
    assert (result.code, result.err.splitlines()[0]) == (3, told), "it may come from the hub"
