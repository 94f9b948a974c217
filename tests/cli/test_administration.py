"""Commands that ask the gateway one thing: what they send and what they say."""

import asyncio
import json
import threading
from typing import Any

import pytest

from broker.wire.body import Body
from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Forget, Kill, Load, Pin, Reload, ReloadSettings, Unload, Unpin, Watch
from broker.wire.outputs import PARTIAL, Output
from tests.cli.played import HELD, PlayedService
from tests.cli.running import Command, Terminal
from tests.gateway.http.test_gateway import LOADED, STATUS
from tests.gateway.played_broker import PlayedBroker
from tests.service import wait_until

SMOL, LLAMA = "mlx-community/SmolLM2-135M-Instruct", "mlx-community/Llama-3.2-3B-Instruct-4bit"
NAMES = [{**HELD, "model_id": name} for name in (SMOL, LLAMA, "tiny-a")]


def test_ps_prints_a_row_for_each_model(service: PlayedService, cli: Command) -> None:
    result = cli(service.url, "ps")
    head, tiny, bad = result.out.splitlines()
    assert " ".join(head.split()) == "MODEL STATE PID MEMORY LIMIT MLX CPU TOK/S RUN WAIT IDLE UNTIL"
    assert tiny.split()[:5] == ["org/tiny", "ready", "4711", "256", "MiB"]
    assert tiny.split()[-1] == "pinned"
    assert bad.split()[:4] == ["bad", "failed", "-", "-"]
    assert (result.code, result.err) == (0, "")


def test_ps_says_when_an_idle_model_leaves_and_why_one_is_not_served(service: PlayedService, cli: Command) -> None:
    leaving = {**LOADED, "pinned": False, "idle_until": 4102444800.0}
    paused = {**LOADED, "model_id": "bad", "state": "cooldown", "reason": "exit code 71\x1b[31m"}
    service.status = {**STATUS, "models": [leaving, paused]}
    result = cli(service.url, "ps")
    assert "(in " in result.out.splitlines()[1]
    assert result.err == "bad: exit code 71\\x1b[31m\n"


def test_ps_as_json_is_the_gateways(service: PlayedService, cli: Command) -> None:
    status = cli(service.url, "ps", "--json").json
    assert status["models"][0]["model_id"] == "org/tiny"
    assert status["max_memory_gb"] == 8.0


def test_load_waits_and_says_how_large_it_is(service: PlayedService, cli: Command) -> None:
    service.finals(Load, {"model_id": "org/tiny", "model_type": "text-gen", "size_bytes": 2**29})
    result = cli(service.url, "load", "org/tiny")
    assert (result.code, result.out, result.err) == (0, "loaded org/tiny (512 MiB)\n", "")
    assert service.messages == [Load("org/tiny")]


def test_forget_says_whose_prompts(service: PlayedService, cli: Command) -> None:
    service.finals(Forget, {"model_id": "org/tiny"})
    assert cli(service.url, "forget", "org/tiny").out == "forgotten org/tiny\n"
    service.finals(Forget, {"model_id": None})
    assert cli(service.url, "forget").out == "forgotten all\n"
    assert service.messages == [Forget("org/tiny"), Forget(None)]


def test_unload_says_what_it_wants(service: PlayedService, cli: Command) -> None:
    service.finals(Unload, {"model_id": "org/tiny"})
    result = cli(service.url, "unload", "org/tiny", "--timeout", "2.5", "--force")
    assert (result.code, result.out, result.err) == (0, "unloaded org/tiny\n", "")
    assert service.messages == [Unload("org/tiny", timeout=2.5, force=True)]


def test_unload_without_options_leaves_them_to_the_broker(service: PlayedService, cli: Command) -> None:
    service.finals(Unload, {"model_id": "org/tiny"})
    assert cli(service.url, "unload", "org/tiny", "--json").json == {"status": "unloaded", "model_id": "org/tiny"}
    assert service.messages == [Unload("org/tiny", timeout=None, force=False)]


def test_a_drain_that_takes_too_long_says_what_to_do(service: PlayedService, cli: Command) -> None:
    service.refuses(
        Unload, Code.DRAIN_TIMEOUT, "org/tiny still has 1 requests; it stays loaded (force=true would kill it)"
    )
    result = cli(service.url, "unload", "org/tiny")
    assert (result.code, result.out) == (1, "")
    told = "org/tiny still has 1 requests; it stays loaded: give it more time with --timeout, or use --force"
    assert result.err == f"mlx-broker: {told}\n"


def test_kill_does_not_ask_where_nobody_is(service: PlayedService, cli: Command) -> None:
    service.finals(Kill, {"model_id": "org/tiny", "pid": 4711})
    result = cli(service.url, "kill", "org/tiny")
    assert (result.code, result.out) == (0, "killed org/tiny (process 4711)\n")


def test_reload_waits_for_the_new_process(service: PlayedService, cli: Command) -> None:
    service.finals(Reload, {"model_id": "org/tiny", "model_type": "text-gen", "size_bytes": 2**29, "pinned": True})
    result = cli(service.url, "reload", "org/tiny")
    assert (result.code, result.out, result.err) == (0, "reloaded org/tiny (512 MiB)\n", "")
    assert cli(service.url, "reload", "org/tiny", "--allow-gap", "--json").json["status"] == "reloaded"
    assert service.messages == [Reload("org/tiny"), Reload("org/tiny", allow_gap=True)]


def test_a_reload_without_room_names_the_option(service: PlayedService, cli: Command) -> None:
    why = "org/tiny needs 9.00 GiB beside the process that serves; 1.00 GiB of 12.00 are free"
    service.refuses(Reload, Code.INSUFFICIENT_MEMORY, f"{why}; allow_gap ends that process first")
    result = cli(service.url, "reload", "org/tiny")
    assert (result.code, result.out) == (1, "")
    assert result.err == f"mlx-broker: {why}: --allow-gap ends that process first\n"


def test_reload_of_the_settings_says_what_counts_when(service: PlayedService, cli: Command) -> None:
    lists = {"applied": ["max_models", "max_queue"], "at_next_load": ["org/tiny"], "needs_restart": ["allow_downloads"]}
    service.finals(ReloadSettings, lists)
    result = cli(service.url, "reload", "--settings")
    assert result.out.splitlines()[:3] == [
        "applied: max_models, max_queue",
        "at the next load or reload of: org/tiny",
        "after a restart of the broker: allow_downloads",
    ]
    assert cli(service.url, "reload", "--settings", "--json").json["applied"] == lists["applied"]
    service.refuses(ReloadSettings, Code.INVALID_REQUEST, "[broker] one: wrong\n[broker] two: wrong")
    result = cli(service.url, "reload", "--settings")
    assert (result.code, result.err) == (1, "mlx-broker: [broker] one: wrong\nmlx-broker: [broker] two: wrong\n")


@pytest.mark.parametrize("words", [[], ["org/tiny", "--settings"], ["--settings", "--allow-gap"]])
def test_reload_is_of_a_model_or_of_the_settings(service: PlayedService, cli: Command, words: list[str]) -> None:
    result = cli(service.url, "reload", *words)
    assert (result.code, service.messages) == (2, [])
    assert "--settings" in result.err


def test_unpin(service: PlayedService, cli: Command) -> None:
    service.finals(Unpin, {"model_id": "org/tiny"})
    assert cli(service.url, "unpin", "org/tiny").out == "unpinned org/tiny\n"


@pytest.mark.parametrize("command", ["unload", "kill", "unpin"])
def test_a_model_that_is_not_loaded(service: PlayedService, cli: Command, command: str) -> None:
    kind: type[Body] = {"unload": Unload, "kill": Kill, "unpin": Unpin}[command]
    service.models = NAMES
    service.refuses(kind, Code.NOT_LOADED, "Model not loaded: tiny-a")
    result = cli(service.url, command, "tiny-a")
    assert (result.code, result.err) == (5, "mlx-broker: Model not loaded: tiny-a\n")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("SmolLM2", f"did you mean {SMOL}?"),
        ("smollm2-135-instruct", f"did you mean {SMOL}?"),
        ("tiny-b", "did you mean tiny-a?"),
        ("llama-3.2-3b", f"did you mean {LLAMA}?"),
        ("gpt-5", "`mlx-broker models` lists those that it has"),
    ],
)
def test_an_unknown_model_has_its_nearest_names(service: PlayedService, cli: Command, typed: str, meant: str) -> None:
    service.models = NAMES
    service.refuses(Kill, Code.NOT_LOADED, f"Model not loaded: {typed}")
    service.refuses(Load, Code.MODEL_NOT_FOUND, f"there is no {typed}")
    for command in ("kill", "load"):
        result = cli(service.url, command, typed)
        assert (result.code, result.out) == (5, "")
        assert result.err == f"mlx-broker: {service.url} has no model {typed}: {meant}\n"


@pytest.mark.parametrize("typed", ["TINY-A", "tiny-a:latest"])
def test_another_form_of_a_name_is_no_unknown_model(service: PlayedService, cli: Command, typed: str) -> None:
    service.models = NAMES
    service.knows(["tiny-a"])
    service.refuses(Kill, Code.NOT_LOADED, "Model not loaded: tiny-a")
    result = cli(service.url, "kill", typed)
    assert (result.code, result.err) == (5, "mlx-broker: Model not loaded: tiny-a\n")


def test_a_load_that_fails_keeps_the_gateways_reason(service: PlayedService, cli: Command) -> None:
    service.models = NAMES
    service.refuses(Load, Code.INSUFFICIENT_MEMORY, "tiny-a needs 9 GiB of 8 GiB")
    result = cli(service.url, "load", "tiny-a")
    assert (result.code, result.err) == (1, "mlx-broker: tiny-a needs 9 GiB of 8 GiB\n")
    service.refuses(Load, Code.MODEL_NOT_FOUND, "the hub has no repository mlx-community/SmolLM2-135M")
    result = cli(service.url, "load", "mlx-community/SmolLM2-135M")
    assert result.err.startswith("mlx-broker: the hub has no repository mlx-community/SmolLM2-135M (did you mean ")


@pytest.mark.parametrize("command", ["load", "pin", "events", "launch"])
def test_a_broken_model_is_not_said_to_be_missing(service: PlayedService, cli: Command, command: str) -> None:
    service.knows([])
    reason = "half: config.json names the architecture 'new', unknown for type text-gen"
    service.broken = [{"model_id": "half", "path": "/models/half", "reason": reason}]
    service.refuses(Load, Code.LOAD_FAILED, reason)
    service.refuses(Pin, Code.MODEL_NOT_FOUND, reason)
    result = cli(service.url, command, *(["codex"] if command == "launch" else []), "half")
    told = "half cannot be loaded: config.json names the architecture 'new', unknown for type text-gen"
    assert (result.code, result.err) == (1, f"mlx-broker: {told}\n")


def test_a_load_in_a_terminal_shows_its_stages(service: PlayedService) -> None:
    ends = threading.Event()

    async def load(broker: PlayedBroker, request_id: bytes, _body: Body) -> None:
        await asyncio.to_thread(ends.wait, 20.0)
        await broker.final(request_id, {"model_id": "org/tiny", "model_type": "text-gen", "size_bytes": 2**29})

    async def watch(broker: PlayedBroker, request_id: bytes, _body: Body) -> None:
        change = {"model_id": "org/tiny", "state": "loading", "reason": None, "at": 1.0}
        await broker.outputs(Output(request_id, PARTIAL, {**change, "stage": "weights", "fraction": 0.5}))

    service.on(Load, load)
    service.on(Watch, watch)
    with Terminal(service.url, "load", "org/tiny") as terminal:
        terminal.wait_for("org/tiny: loading weights")
        terminal.wait_for("50%")
        ends.set()
        assert terminal.end() == 0
    assert terminal.text.endswith("loaded org/tiny (512 MiB)\n")


def test_ctrl_c_leaves_a_load_going(service: PlayedService) -> None:
    async def load(_broker: PlayedBroker, _request_id: bytes, _body: Body) -> None:
        """It takes its time."""

    service.on(Load, load)
    with Terminal(service.url, "load", "org/tiny") as terminal:
        wait_until(lambda: Load("org/tiny") in service.messages, what="the load")
        terminal.type("\x03")
        assert terminal.end() == 130
    assert terminal.text.endswith("org/tiny goes on loading; `mlx-broker unload org/tiny` ends that\n")


def events_of(changes: list[dict[str, Any]]) -> Any:
    """What a WATCH brings, after which the broker goes."""

    async def watch(broker: Any, request_id: bytes, _body: Body) -> None:
        for change in changes:
            await broker.outputs(Output(request_id, PARTIAL, change))
        await broker.error(request_id, Failure(Code.MODEL_UNAVAILABLE, "the broker is shutting down"))

    return watch


def test_events_are_lines_that_end_with_the_broker(service: PlayedService, cli: Command) -> None:
    first = {"model_id": "a\x1b[2J", "state": "loading", "reason": "signal SIGKILL", "stage": None, "fraction": None}
    second = {"model_id": "b", "state": "loading", "reason": None, "stage": "weights", "fraction": 0.5}
    service.on(Watch, events_of([{**first, "at": 1.5}, {**second, "at": 2.5}]))
    result = cli(service.url, "events")
    lines = [line.split("  ", 1)[1] for line in result.out.splitlines()]
    assert lines == ["a\\x1b[2J  loading  (signal SIGKILL)", "b  loading  weights  50%"]
    assert (result.code, result.err) == (1, "mlx-broker: the broker is shutting down\n")
    printed = cli(service.url, "events", "--json").out.splitlines()
    assert json.loads(printed[1]) == {**second, "at": 2.5}
    assert service.messages == [Watch(None), Watch(None)]
