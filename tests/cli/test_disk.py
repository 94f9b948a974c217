"""What is on the disk: `models`, `pull`, `rm`, `pin`."""

import asyncio
import io
import signal
import threading
from typing import Any

import pytest
from rich.console import Console

from broker.wire.body import Body
from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import CancelPull, Pin, Pull, Remove
from broker.wire.outputs import PARTIAL, Output
from cli.output import bar
from tests.cli.played import HELD, PlayedService
from tests.cli.running import Command, Terminal, process
from tests.gateway.http.test_gateway import LOADED, STATUS
from tests.gateway.played_broker import PlayedBroker
from tests.service import wait_until

BROKEN = {"model_id": "half[red]", "path": "/models/half\x1b[31m", "reason": "lacks 1 of its weight files"}


def progress(done: int, reason: str | None = None) -> dict[str, Any]:
    """A PARTIAL of a download of 4 MiB."""
    return {
        "model_id": "org/tiny",
        "reason": reason,
        "fraction": done / 4,
        "done_bytes": done * 2**20,
        "total_bytes": 4 * 2**20,
    }


def downloads(service: PlayedService, *done: int, until: threading.Event | None = None) -> None:
    """It ends when `until` says so."""

    async def answer(broker: PlayedBroker, request_id: bytes, body: Pull) -> None:
        if body.stream:
            for count in done:
                await broker.outputs(Output(request_id, PARTIAL, progress(count)))
        if until is not None:
            await asyncio.to_thread(until.wait, 20.0)
        await broker.final(request_id, {"model_id": "org/tiny", "size_bytes": 4 * 2**20})

    service.on(Pull, answer)
    service.finals(CancelPull, {"model_id": "org/tiny"})


def test_models_are_listed_with_their_state(service: PlayedService, cli: Command) -> None:
    service.models = [{**HELD, "pinned": True, "state": "ready"}, {**HELD, "model_id": "b", "parameters": 134515008}]
    service.broken = [BROKEN]
    result = cli(service.url, "models")
    head, first, second = result.out.splitlines()
    assert " ".join(head.split()) == "MODEL STATE SIZE TYPE QUANT PARAMS CONTEXT CAN"
    assert " ".join(first.split()) == "org/tiny ready, pinned 512 MiB text-gen 4-bit 1000 2048 generate tools"
    assert second.split()[6] == "135M"
    assert result.err == "1 folder cannot be loaded: see `mlx-broker models --broken`\n"


def test_broken_entries_have_their_reason(service: PlayedService, cli: Command) -> None:
    service.broken = [BROKEN]
    head, row = cli(service.url, "models", "--broken").out.splitlines()
    assert head.split() == ["MODEL", "REASON", "PATH"]
    assert " ".join(row.split()) == "half[red] lacks 1 of its weight files /models/half\\x1b[31m"
    assert cli(service.url, "models", "--json").json["broken"] == [BROKEN]


def test_a_pull_into_a_pipe_says_how_it_ended(service: PlayedService, cli: Command) -> None:
    downloads(service, 1, 2, 3)
    result = cli(service.url, "pull", "org/tiny")
    assert (result.code, result.out, result.err) == (0, "pulled org/tiny (4.00 MiB)\n", "")
    assert cli(service.url, "pull", "org/tiny", "--json").json["status"] == "pulled"


@pytest.mark.parametrize("begun", [True, False])
def test_a_pull_that_fails(service: PlayedService, cli: Command, begun: bool) -> None:
    async def answer(broker: PlayedBroker, request_id: bytes, _body: Body) -> None:
        if begun:
            await broker.outputs(Output(request_id, PARTIAL, progress(1)))
        await broker.error(request_id, Failure(Code.MODEL_UNAVAILABLE, "no room on the disk"))

    service.on(Pull, answer)
    result = cli(service.url, "pull", "org/tiny")
    assert (result.code, result.out, result.err) == (1, "", "mlx-broker: no room on the disk\n")


def test_a_pull_of_what_the_hub_does_not_have(service: PlayedService, cli: Command) -> None:
    service.refuses(Pull, Code.MODEL_NOT_FOUND, "the hub has no repository org/tinny")
    result = cli(service.url, "pull", "org/tinny")
    assert (result.code, result.err) == (5, "mlx-broker: the hub has no repository org/tinny\n")


def test_a_pull_of_a_name_that_the_hub_cannot_have(service: PlayedService, cli: Command) -> None:
    service.refuses(Pull, Code.MODEL_NOT_FOUND, "no model named 'tiny' here")
    result = cli(service.url, "pull", "tiny")
    told = "mlx-broker: no model named 'tiny' here; on the hub, names have the form org/name\n"
    assert (result.code, result.err) == (5, told)


def test_a_pull_in_a_terminal_has_a_bar_which_is_gone_at_the_end(service: PlayedService) -> None:
    ends = threading.Event()
    downloads(service, 1, until=ends)
    with Terminal(service.url, "pull", "org/tiny", columns=120) as terminal:
        terminal.wait_for("1.0/4.0 MiB")
        assert "org/tiny" in terminal.text
        assert "25%" in terminal.text
        ends.set()
        assert terminal.end() == 0
    last = terminal.raw[terminal.raw.rindex(b"25%") :]
    assert b"\x1b[2K" in last  # the line of the bar is cleared
    assert last.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l") - len(terminal.raw)  # the cursor is back
    assert terminal.text.endswith("pulled org/tiny (4.00 MiB)\n")


def test_the_bar_of_a_pull_has_one_unit() -> None:
    with bar(in_bytes=True) as drawn:
        drawn.update(drawn.add_task("org/tiny", total=4 * 2**20), completed=2**20)
        drawn.tasks[0].finished_speed = 2.5 * 2**20
        text = io.StringIO()
        Console(file=text, width=120).print(drawn.get_renderable())
    assert "1.0/4.0 MiB 2.50 MiB/s" in text.getvalue()


@pytest.mark.parametrize("others", [True, False])
def test_ctrl_c_ends_the_download_that_this_command_began(service: PlayedService, others: bool) -> None:
    ends = threading.Event()
    downloads(service, 1, until=ends)
    if others:
        downloading = {**LOADED, "state": "downloading", "pid": None, "pinned": False}
        service.status = {**STATUS, "models": [downloading]}
    pulling = process(service.url, "pull", "org/tiny")
    wait_until(lambda: any(isinstance(message, Pull) for message in service.messages), what="the pull")
    pulling.send_signal(signal.SIGINT)
    out, err = pulling.communicate(timeout=20)
    ends.set()
    assert (pulling.returncode, out) == (130, "")
    if others:
        assert err == "the download of org/tiny goes on, as it had begun before\n"
    else:
        assert err == "stopped; `mlx-broker pull org/tiny` continues where it ended\n"
    assert any(isinstance(message, CancelPull) for message in service.messages) is not others


def test_rm_needs_a_yes(service: PlayedService, cli: Command) -> None:
    service.finals(Remove, {"model_id": "org/tiny"})
    asked = cli(service.url, "rm", "org/tiny")
    told = "mlx-broker: Delete org/tiny, 512 MiB, from the disk? There is no terminal to ask: say --yes to delete it\n"
    assert (asked.code, asked.err) == (2, told)
    assert service.messages == []
    assert cli(service.url, "rm", "org/tiny", "--yes").out == "removed org/tiny\n"
    assert service.messages == [Remove("org/tiny")]


@pytest.mark.parametrize(("answer", "removed"), [("y", True), ("", False)])
def test_rm_asks(service: PlayedService, answer: str, removed: bool) -> None:
    service.finals(Remove, {"model_id": "org/tiny"})
    with Terminal(service.url, "rm", "org/tiny") as terminal:
        terminal.wait_for("Delete org/tiny, 512 MiB, from the disk? [y/N] ")
        terminal.type(f"{answer}\n")
        assert terminal.end() == (0 if removed else 1)
    assert ("removed org/tiny" in terminal.text) is removed
    assert ("nothing was done" in terminal.text) is not removed


def test_rm_refuses_what_is_loaded(service: PlayedService, cli: Command) -> None:
    service.models = [{**HELD, "state": "ready"}]
    result = cli(service.url, "rm", "org/tiny", "--yes")
    told = "mlx-broker: org/tiny is in use (ready): unload it first with `mlx-broker unload org/tiny`\n"
    assert (result.code, result.err) == (1, told)
    assert service.messages == []


def test_rm_of_what_the_broker_finds_in_use(service: PlayedService, cli: Command) -> None:
    service.refuses(Remove, Code.MODEL_IN_USE, "another program is downloading org/tiny")
    result = cli(service.url, "rm", "org/tiny", "--yes")
    assert (result.code, result.err) == (1, "mlx-broker: another program is downloading org/tiny\n")


def test_rm_of_an_unknown_model(service: PlayedService, cli: Command) -> None:
    service.knows([])
    service.refuses(Remove, Code.MODEL_NOT_FOUND, "no model 'org/tinny'")
    result = cli(service.url, "rm", "org/tinny", "--yes")
    assert (result.code, result.err) == (
        5,
        f"mlx-broker: {service.url} has no model org/tinny: did you mean org/tiny?\n",
    )


def test_pin(service: PlayedService, cli: Command) -> None:
    service.finals(Pin, {"model_id": "org/tiny"})
    assert cli(service.url, "pin", "org/tiny").out == "pinned org/tiny\n"
    assert service.messages == [Pin("org/tiny")]
