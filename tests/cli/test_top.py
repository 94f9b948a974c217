"""`top`: live, quit with a key, and the terminal is as before, whatever happens."""

import contextlib
import signal

import pytest

from broker.wire.failure import Code
from broker.wire.from_gateways import Status, Watch
from broker.wire.outputs import PARTIAL, Output
from tests.cli.played import PlayedService
from tests.cli.running import Command, Terminal
from tests.cli.strangers import answer, stranger
from tests.gateway.http.test_gateway import LOADED, STATUS
from tests.gateway.played_broker import PlayedBroker

ENTERED, LEFT = b"\x1b[?1049h", b"\x1b[?1049l"


def assert_restored(terminal: Terminal) -> None:
    assert terminal.raw.count(ENTERED) == terminal.raw.count(LEFT) == 1
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")  # the cursor
    assert terminal.mode() == terminal.before


@pytest.mark.parametrize("key", ["q", "\x1b", "\x03"])
def test_keys_that_end_it(service: PlayedService, key: str) -> None:
    with Terminal(service.url, "top") as terminal:
        terminal.wait_for("org/tiny")
        assert terminal.mode() != terminal.before
        terminal.type(key)
        assert terminal.end() == 0
        assert_restored(terminal)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_that_end_it(service: PlayedService, number: int) -> None:
    with Terminal(service.url, "top") as terminal:
        terminal.wait_for("org/tiny")
        terminal.signal(number)
        assert terminal.end() == 128 + number
        assert_restored(terminal)


def test_what_it_shows(service: PlayedService) -> None:
    with Terminal(service.url, "top", columns=140) as terminal:
        terminal.wait_for("org/tiny")
        assert f"mlx-broker 0.1.0  {service.url}  1 of 4 models  1.00 GiB of 8.00 GiB  pressure normal" in terminal.text
        terminal.type("xq")
        terminal.end()


def test_a_change_is_shown_at_once(service: PlayedService) -> None:
    async def watch(broker: PlayedBroker, request_id: bytes, _body: Watch) -> None:
        service.status = {**STATUS, "models": [{**LOADED, "model_id": "org/other"}]}
        change = {"model_id": "org/other", "state": "ready", "reason": None, "stage": None, "fraction": None, "at": 1.0}
        await broker.outputs(Output(request_id, PARTIAL, change))

    service.on(Watch, watch)
    with Terminal(service.url, "top", "--interval", "3600") as terminal:
        terminal.wait_for("org/other")
        terminal.type("q")
        assert terminal.end() == 0


def test_it_survives_a_broker_that_is_away_for_a_while(service: PlayedService) -> None:
    with Terminal(service.url, "top", "--interval", "0.3", columns=160) as terminal:
        terminal.wait_for("org/tiny")
        service.refuses(Status, Code.BROKER_UNAVAILABLE, "the broker has gone")
        terminal.wait_for("but the broker has gone: start it again, or see its log; trying again")
        del service.handlers[Status]
        service.status = {**STATUS, "models": [{**LOADED, "model_id": "org/new"}]}
        terminal.wait_for("org/new")
        terminal.type("q")
        assert terminal.end() == 0
        assert_restored(terminal)


def test_a_small_terminal_has_as_many_models_as_fit(service: PlayedService) -> None:
    service.status = {**STATUS, "models": [{**LOADED, "model_id": f"m{number}"} for number in range(50)]}
    with Terminal(service.url, "top", columns=40, rows=12) as terminal:
        terminal.wait_for("and 42 more")
        terminal.type("q")
        assert terminal.end() == 0
        assert_restored(terminal)


def test_where_it_cannot_draw(service: PlayedService, cli: Command) -> None:
    told = "mlx-broker: top needs a terminal that it can draw in: use `mlx-broker ps`\n"
    result = cli(service.url, "top")
    assert (result.code, result.err) == (2, told)
    with Terminal(service.url, "top", env={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 2
        assert terminal.text == told


def test_without_a_gateway_it_does_not_begin(cli: Command) -> None:
    with Terminal("http://127.0.0.1:1", "top") as terminal:
        assert terminal.end() == 3
        assert ENTERED not in terminal.raw
        assert terminal.text.startswith("mlx-broker: no gateway at http://127.0.0.1:1")


def test_it_survives_a_gateway_that_goes() -> None:
    with contextlib.ExitStack() as going:
        url = going.enter_context(stranger(answer('{"models":[{"model_id":"org/tiny"}]}')))
        with Terminal(url, "top", "--interval", "0.3", columns=160) as terminal:
            terminal.wait_for("org/tiny")
            going.close()
            terminal.wait_for("; trying again")
            assert "no gateway at" in terminal.text
            terminal.type("q")
            assert terminal.end() == 0
            assert_restored(terminal)
