"""What is slow about long requests is done in a thread, while the engine steps."""

from pathlib import Path
from threading import Event
from typing import Any

import pytest

from broker.wire.failure import Code, FailureError
from broker.wire.from_gateways import Cancel, InferenceRequest
from broker.wire.kinds import Task
from broker.wire.outputs import Output, Outputs, decode_outputs
from broker.wire.packing import pack
from broker.wire.work import Generate
from tests.worker.engine_runs import add, load, run
from tests.worker.harness import PATIENCE, WorkerHarness, text_of
from tests.worker.stepping import steps
from worker.ahead import LONG, Ahead, Work

MISBEHAVING = "tests.engines:Misbehaving"
PADDING = " -" * LONG


def request(number: int, size: int = LONG) -> InferenceRequest:
    return InferenceRequest("model", bytes([number]) * size)


class Prepared:
    """A thread that does a request when the test lets it."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.has_begun, self._may_end = ({number: Event() for number in range(9)} for _ in range(2))
        self.ahead = Ahead(self._prepare)

    def _prepare(self, payload: bytes) -> None:
        self.begun.append(payload[0])
        self.has_begun[payload[0]].set()
        assert self._may_end[payload[0]].wait(PATIENCE)
        raise ValueError("which `add` raises again")

    def end(self, number: int) -> None:
        self._may_end[number].set()

    def lets_in(self, arrived: dict[bytes, Work], *, steps: bool = True) -> bool:
        return self.ahead.lets_in(arrived, steps=steps, waits=False)

    def until_in(self, arrived: dict[bytes, Work]) -> None:
        """The first of these may be added, soon."""
        for _ in range(200):
            if self.ahead.lets_in(arrived, steps=True, waits=True):
                return
        raise AssertionError("it is never let in")


def test_a_long_request_is_done_while_others_step() -> None:
    prepared = Prepared()
    assert not prepared.lets_in({})
    assert prepared.lets_in({b"1": request(1)}, steps=False)  # nobody would wait
    assert prepared.lets_in({b"1": request(1, LONG - 1)})
    assert not prepared.lets_in({b"2": request(2)})
    prepared.end(2)
    prepared.until_in({b"2": request(2)})
    prepared.ahead.drop(b"2")
    assert prepared.lets_in({b"1": request(1, LONG - 1)})
    assert prepared.begun == [2]


def test_what_comes_behind_it_keeps_its_place() -> None:
    """Also what is short, and counts: nothing else writes prompts while the thread does."""
    count = InferenceRequest("model", b"c" * LONG, Task.COUNT)
    arrived: dict[bytes, Work] = {b"1": request(1), b"2": request(2, 9), b"c": count, b"3": request(3)}
    prepared = Prepared()
    assert not prepared.lets_in(arrived, steps=True)
    prepared.end(1)
    prepared.until_in(arrived)
    prepared.ahead.drop(b"1")
    del arrived[b"1"]
    assert not prepared.lets_in(arrived)
    assert not prepared.lets_in(arrived, steps=False)
    prepared.end(2)
    prepared.until_in(arrived)
    prepared.ahead.drop(b"2")
    del arrived[b"2"]
    prepared.until_in(arrived)
    assert prepared.begun == [1, 2]


def test_few_are_done_ahead_of_their_turn() -> None:
    """The engine keeps no more: it would have to do them again."""
    prepared = Prepared()
    arrived: dict[bytes, Work] = {bytes([number]): request(number) for number in range(40)}
    assert not prepared.lets_in(arrived)
    for number in range(8):
        prepared.end(number)
    assert prepared.has_begun[7].wait(PATIENCE)
    prepared.until_in(arrived)
    assert prepared.begun == list(range(8))


def test_a_request_that_has_gone_is_left_out_if_it_has_not_begun() -> None:
    prepared = Prepared()
    arrived: dict[bytes, Work] = {bytes([number]): request(number) for number in (1, 2, 3)}
    assert not prepared.lets_in(arrived)
    assert prepared.has_begun[1].wait(PATIENCE)
    for number in (1, 2):
        prepared.ahead.drop(bytes([number]))
        del arrived[bytes([number])]
    assert not prepared.lets_in(arrived)
    for number in (1, 3):
        prepared.end(number)
    prepared.until_in(arrived)
    assert prepared.begun == [1, 3]


def test_streams_go_on_while_a_request_is_never_taken_in(harness: WorkerHarness) -> None:
    worker = harness.start()
    worker.serve(MISBEHAVING)
    stream = worker.request(prompt="go on, slow", stream=True, max_tokens=10**6)
    worker.expect(Outputs)
    clogged = worker.request(prompt="clog" + PADDING)
    behind = worker.request(prompt="hello")
    for _ in range(5):
        (output,) = decode_outputs(worker.expect(Outputs))
        assert output.request_id == stream
    for request_id in (clogged, behind, stream):
        worker.send(Cancel(), request_id)
    ended = worker.until_ended(clogged, behind, stream)
    assert {outputs[-1].body["code"] for outputs in ended.values()} == {Code.CANCELLED}


def chats(count: int) -> list[dict[str, Any]]:
    """Long requests, two of which differ in their seeds alone; one prompt is too long for the model."""
    fields = {"seed": 7, "max_tokens": 8, "stream": True, "key": "k" * LONG}
    said = [[{"role": "user", "content": f"{number} " + "and then " * 9}] for number in range(count)]
    return [
        *({"messages": messages, **fields} for messages in said),
        {"messages": said[0], **fields, "seed": 8},
        {"messages": [{"role": "user", "content": "x" * 20_000}], **fields},
        {"messages": [{"role": "user", "content": "short"}], **fields, "key": ""},
    ]


def test_answers_are_what_they_are_without_it(tiny_model: Path) -> None:
    """The thread writes prompts while the engine steps, and the engine finds them."""
    engine = load(tiny_model, prompt_cache_tokens=0)
    stream = add(engine, 99, prompt="others", stream=True, seed=1, max_tokens=200, logit_bias={"5": 100.0})
    prepared: list[bytes] = []

    def prepare(payload: bytes) -> None:
        engine.prepare(payload)
        prepared.append(payload)

    ahead = Ahead(prepare)
    payloads = [pack(Generate(**fields)) for fields in chats(3)]
    ids = [b"gateway1" + number.to_bytes(8, "big") for number in range(len(payloads))]
    arrived: dict[bytes, Work] = {
        request_id: InferenceRequest("model", payload) for request_id, payload in zip(ids, payloads, strict=True)
    }
    outputs: dict[bytes, list[Output]] = {request_id: [] for request_id in [stream, *ids]}
    refused: dict[bytes, Code] = {}
    while arrived or engine.has_work:
        while ahead.lets_in(arrived, steps=engine.has_work, waits=not engine.has_work):
            request_id = next(iter(arrived))
            ahead.drop(request_id)
            try:
                engine.add(request_id, payloads[ids.index(request_id)])
            except FailureError as error:
                refused[request_id] = error.failure.code
            del arrived[request_id]
        for output in engine.step():
            outputs[output.request_id].append(output)
    assert set(prepared) <= set(payloads)
    assert len(prepared) >= 4  # the one that is too long raises; behind the last long one the thread may rest
    assert set(text_of(outputs[stream])) == {"&"}
    assert refused == {ids[4]: Code.CONTEXT_LENGTH_EXCEEDED}
    for request_id, fields in zip(ids, chats(3), strict=True):
        if request_id not in refused:
            assert outputs[request_id] == [
                Output(request_id, output.kind, output.body) for output in run(engine, [fields])[0]
            ]


def test_a_prompt_is_written_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ahead, and for all choices of a request."""
    engine = load(tiny_model)
    written: list[str] = []
    tokenizer = engine.loaded.tokenizer
    original = type(tokenizer).apply_chat_template

    def noted(self: Any, *arguments: Any, **options: Any) -> Any:
        written.append(arguments[0][-1]["content"])
        return original(self, *arguments, **options)

    run(engine, [chats(1)[-1]])  # the form of such chats is found out
    monkeypatch.setattr(type(tokenizer), "apply_chat_template", noted)
    first, *_ = chats(1)
    engine.prepare(pack(Generate(**first)))
    assert len(written) == 1
    for number, seed in enumerate((7, 8, 9)):
        add(engine, number, **{**first, "seed": seed})
    steps(engine)
    assert len(written) == 1
