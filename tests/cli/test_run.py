"""`run`: one question through pipes, and a conversation in a terminal."""

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Cancel, InferenceRequest, Watch
from broker.wire.outputs import PARTIAL, Output
from broker.wire.packing import unpack
from broker.wire.work import Generate
from tests.cli.played import PlayedService
from tests.cli.running import Command, Terminal, environment, process
from tests.gateway.played_broker import PlayedBroker, ending
from tests.service import ROOT, wait_until

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


class PlayedModel:
    """Answers prompts by what they say. `seen`: the conversations that it was asked to go on with."""

    def __init__(self, service: PlayedService) -> None:
        self.seen: list[list[dict[str, Any]]] = []
        self.work: list[Generate] = []
        self.may_die = threading.Event()
        service.on(InferenceRequest, self.answer)

    async def answer(self, broker: PlayedBroker, request_id: bytes, request: InferenceRequest) -> None:
        work = unpack(Generate, request.payload)
        assert work.messages is not None
        self.work.append(work)
        self.seen.append(work.messages)
        prompt = str(work.messages[-1]["content"])
        if "think" in prompt:
            await broker.outputs(Output(request_id, PARTIAL, {"text": "", "reasoning": "Let me\x1b[31m see."}))
        if not work.stream:
            await broker.finish(request_id, "Paris.")
            return
        await broker.partial(request_id, "Pa")
        if "die" in prompt:
            await asyncio.to_thread(self.may_die.wait, 20.0)
            await broker.error(request_id, Failure(Code.WORKER_DIED, "signal SIGKILL", retryable=True))
        elif "forever" not in prompt:
            await broker.partial(request_id, "\x1b[2Jris.\n")
            await broker.final(request_id, ending(""))


@pytest.fixture
def model(service: PlayedService) -> PlayedModel:
    return PlayedModel(service)


def test_one_question(service: PlayedService, model: PlayedModel, cli: Command) -> None:
    result = cli(service.url, "run", "org/tiny", "think of the capital of France", "--system", "Be short.")
    assert (result.code, result.out, result.err) == (
        0,
        "Pa\x1b[2Jris.\n\n",
        "",
    )  # into a pipe as it came, and no reasoning
    assert model.seen == [
        [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "think of the capital of France"},
        ]
    ]


def test_what_is_piped_in_comes_before_the_prompt(service: PlayedService, model: PlayedModel, cli: Command) -> None:
    cli(service.url, "run", "org/tiny", "Summarise this.", stdin="A long text.\n")
    cli(service.url, "run", "org/tiny", stdin="Only this.\n")
    assert [turns[-1]["content"] for turns in model.seen] == ["A long text.\n\nSummarise this.", "Only this."]
    nothing = cli(service.url, "run", "org/tiny", stdin="\n")
    told = "mlx-broker: there is no prompt: give it as an argument or pipe it in\n"
    assert (nothing.code, nothing.err) == (2, told)


def test_texts_that_are_not_utf8(service: PlayedService, model: PlayedModel) -> None:
    """As of a diff of an old file."""
    asking = subprocess.run(
        [sys.executable, "-m", "cli", "run", "org/tiny", b"a \xe4"],
        input=b"b \xff",
        cwd=ROOT,
        env=environment(service.url, PYTHONIOENCODING="utf-8", PYTHONUTF8="1"),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (asking.returncode, asking.stderr) == (0, b"")
    assert model.seen[0][-1]["content"] == "b \ufffd\n\na ?"


def test_a_whole_answer_as_json(service: PlayedService, model: PlayedModel, cli: Command) -> None:
    answer = cli(service.url, "run", "org/tiny", "Hi", "--json", "--max-tokens", "7", "--temperature", "0").json
    assert (model.work[0].max_tokens, model.work[0].temperature) == (7, 0)
    assert answer["choices"][0]["message"]["content"] == "Paris."
    assert answer["usage"]["completion_tokens"] == 3


def test_images_travel_with_the_prompt(
    service: PlayedService, model: PlayedModel, cli: Command, tmp_path: Path
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(PNG)
    cli(service.url, "run", "org/tiny", "What is it?", "--image", str(image), "--image", str(image))
    assert model.work[0].images == [PNG, PNG]


def test_an_image_that_is_none(cli: Command, tmp_path: Path) -> None:
    text = tmp_path / "a.png"
    text.write_text("text")
    for path, told in ((text, "must be a PNG, JPEG, GIF or WebP file"), (tmp_path / "b", "cannot be read: No such")):
        result = cli(None, "run", "org/tiny", "Hi", "--image", str(path))
        assert result.code == 2
        assert result.err.startswith(f"mlx-broker: --image {path} {told}")


def test_a_question_whose_model_dies(service: PlayedService, model: PlayedModel) -> None:
    asking = process(service.url, "run", "org/tiny", "die")
    assert asking.stdout is not None
    assert asking.stdout.read(2) == "Pa"
    model.may_die.set()
    out, err = asking.communicate(timeout=20)
    assert (asking.returncode, out, err) == (1, "", "mlx-broker: signal SIGKILL\n")


def test_a_model_that_is_not_there(service: PlayedService, cli: Command) -> None:
    service.knows([])
    result = cli(service.url, "run", "org/tinny", "Hi")
    assert result.code == 5
    assert result.err == f"mlx-broker: {service.url} has no model org/tinny: did you mean org/tiny?\n"


def test_a_conversation(service: PlayedService, model: PlayedModel) -> None:
    with Terminal(service.url, "run", "org/tiny") as terminal:
        terminal.wait_for(">>> ")
        terminal.type("think\n")
        terminal.wait_for("Let me\\x1b[31m see.")
        terminal.wait_for("Pa\\x1b[2Jris.")  # escaped, in a terminal
        assert b"\x1b[2mLet me" in terminal.raw  # dimmed
        terminal.wait_for(">>> ", 2)
        terminal.type('"""two\nlines"""\n')
        terminal.wait_for(">>> ", 3)
        terminal.type("/nonsense\n/help\n/clear\n")
        terminal.wait_for("forgotten")
        terminal.type("after\n")
        terminal.wait_for(">>> ", 7)
        terminal.type("/bye\n")
        assert terminal.end() == 0
    said = [[turn["content"] for turn in turns] for turns in model.seen]
    assert said == [["think"], ["think", "Pa\x1b[2Jris.\n", "two\nlines"], ["after"]]
    assert "/nonsense is not known" in terminal.text
    assert "leave (so does Ctrl-D)" in terminal.text


def test_a_death_is_one_line_and_the_conversation_goes_on(service: PlayedService, model: PlayedModel) -> None:
    with Terminal(service.url, "run", "org/tiny") as terminal:
        terminal.wait_for(">>> ")
        terminal.type("die\n")
        terminal.wait_for("Pa")
        model.may_die.set()
        terminal.wait_for("The process of org/tiny died in the middle of its answer (signal SIGKILL).")
        terminal.wait_for(">>> ", 2)
        terminal.type("again\n")
        terminal.wait_for("ris.")
        terminal.wait_for(">>> ", 3)
        terminal.type("\x04")
        assert terminal.end() == 0
    assert [turn["content"] for turn in model.seen[1]] == ["again"]
    assert "Traceback" not in terminal.text


def test_ctrl_c_stops_the_answer_and_not_the_conversation(service: PlayedService, model: PlayedModel) -> None:
    with Terminal(service.url, "run", "org/tiny") as terminal:
        terminal.wait_for(">>> ")
        terminal.type("forever\n")
        terminal.wait_for("Pa")
        terminal.type("\x03")
        terminal.wait_for("stopped")
        wait_until(lambda: any(isinstance(message, Cancel) for message in service.messages), what="the cancel")
        terminal.wait_for(">>> ", 2)
        terminal.press_until("\x03", "Ctrl-D or /bye leaves")
        terminal.wait_for(">>> ", 3)
        terminal.type("next\n")
        terminal.wait_for("ris.\n\n>>> ")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert [turn["content"] for turn in model.seen[1]] == ["forever", "Pa", "next"]


def test_ctrl_c_ends_a_question(service: PlayedService, model: PlayedModel) -> None:
    asking = process(service.url, "run", "org/tiny", "forever")
    assert asking.stdout is not None
    assert asking.stdout.read(2) == "Pa"
    asking.send_signal(signal.SIGINT)
    out, err = asking.communicate(timeout=20)
    assert (asking.returncode, out, err) == (130, "", "")


def test_a_conversation_without_colours(service: PlayedService, model: PlayedModel) -> None:
    with Terminal(service.url, "run", "org/tiny", "think", env={"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
        assert b"\x1b[2m" not in terminal.raw
        assert "Let me" in terminal.text


def test_what_watches_the_load_ends_when_the_model_is_ready(service: PlayedService, model: PlayedModel) -> None:
    watched: set[bytes] = set()
    cancelled: set[bytes] = set()

    async def watch(broker: PlayedBroker, request_id: bytes, _body: Watch) -> None:
        watched.add(request_id)
        change = {"model_id": "org/tiny", "state": "ready", "reason": None, "stage": None, "fraction": None, "at": 1.0}
        await broker.outputs(Output(request_id, PARTIAL, change))

    async def cancel(_broker: PlayedBroker, request_id: bytes, _body: Cancel) -> None:
        cancelled.add(request_id)

    service.on(Watch, watch)
    service.on(Cancel, cancel)
    with Terminal(service.url, "run", "org/tiny") as terminal:
        for number in range(1, 4):
            terminal.wait_for(">>> ", number)
            terminal.type("Hi\n")
            # The gateway watches the broker once for all who listen at a time.
            wait_until(lambda: number == len(watched & cancelled), what="the end of the watch")  # noqa: B023
        terminal.wait_for(">>> ", 4)
        terminal.type("/bye\n")
        assert terminal.end() == 0
