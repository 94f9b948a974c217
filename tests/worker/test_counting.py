"""A worker process counts prompts: between its steps, and without the engine that generates."""

import pytest

from broker.wire.failure import FailureError
from broker.wire.from_gateways import Cancel, InferenceRequest
from broker.wire.kinds import Task
from broker.wire.outputs import ERROR, FINAL, Output, Outputs, decode_outputs
from broker.wire.packing import pack
from broker.wire.work import Generate
from tests.worker.harness import GATEWAY, Worker, WorkerHarness
from worker.echo.engine import EchoEngine
from worker.engine import counter_of

MISBEHAVING = "tests.engines:Misbehaving"


@pytest.fixture
def worker(harness: WorkerHarness) -> Worker:
    worker = harness.start()
    worker.serve(MISBEHAVING)
    return worker


def ask(worker: Worker, number: int, payload: bytes) -> bytes:
    request_id = GATEWAY + number.to_bytes(8, "little")
    worker.send(InferenceRequest("model", payload, Task.COUNT), request_id)
    return request_id


def test_a_count_is_answered_while_others_generate(worker: Worker) -> None:
    slow = worker.request(prompt="slow " * 200, stream=True)
    worker.expect(Outputs)
    counts = [ask(worker, number, pack(Generate(prompt="x" * number, stream=True))) for number in (1, 9)]
    ended: list[Output] = []
    while len(ended) < len(counts):
        ended += [output for output in decode_outputs(worker.expect(Outputs)) if output.request_id != slow]
    assert ended == [
        Output(request_id, FINAL, {"prompt_tokens": tokens}) for request_id, tokens in zip(counts, (1, 3), strict=True)
    ]
    worker.send(Cancel(), slow)
    [*_, end] = worker.until_ended(slow)[slow]
    assert end.kind == ERROR  # it was still there


def test_a_bad_count_is_refused(worker: Worker) -> None:
    bad = {
        b"\xc1": "not msgpack",
        pack(Generate()): "nothing to echo",
        pack(Generate(prompt="x", max_tokens=0)): "at least 1",
        pack(Generate(prompt="refuse")): "refused on request",
    }
    for number, (payload, message) in enumerate(bad.items()):
        [output] = worker.until_ended(request_id := ask(worker, number, payload))[request_id]
        assert (output.kind, output.body["code"]) == (ERROR, "invalid_request")
        assert message in output.body["message"]
    assert worker.answer(worker.request(prompt="still here"))["text"] == "still here"


def test_a_count_whose_client_leaves_ends_once(worker: Worker) -> None:
    gone, stays = (ask(worker, number, pack(Generate(prompt="dawdle " * 9))) for number in (1, 2))
    worker.send(Cancel(), gone)
    outputs = worker.until_ended(gone, stays)
    assert [len(of_one) for of_one in outputs.values()] == [1, 1]
    assert outputs[stays][0].body == {"prompt_tokens": 16}


def test_an_engine_that_cannot_count_says_so() -> None:
    class Uncounting(EchoEngine):
        count = None  # type: ignore[assignment]

    with pytest.raises(FailureError, match="cannot count"):
        counter_of(Uncounting.__new__(Uncounting))
