"""Answers of the echo engine that go on in another process, and what cannot go on."""

import pytest

from broker.wire.body import ProtocolError
from broker.wire.failure import Code, FailureError
from broker.wire.to_workers import Assign
from tests.engines import Misbehaving
from tests.worker.engine_runs import add, run
from tests.worker.going_on import assert_goes_on, begun_after, told
from worker.echo.engine import EchoEngine

ASSIGN = Assign("echo", "", "echo", None, {})


def engine() -> EchoEngine:
    return EchoEngine(ASSIGN, lambda _stage, _fraction: None)


def test_an_echo_goes_on_after_every_token() -> None:
    whole = assert_goes_on(engine(), engine(), prompt="once upon a time", max_tokens=20, stream=True)
    assert told(whole) == [*range(19)]


def test_an_answer_that_is_not_streamed_tells_its_tokens_now_and_then() -> None:
    whole = assert_goes_on(engine(), engine(), prompt="once upon a time", max_tokens=40)
    assert [output.body.get("ids") for output in whole] == [[0], [*range(1, 17)], [*range(17, 33)], None]


@pytest.mark.parametrize(
    "begun",
    [
        {"ids": [0, 1], "characters": 7},
        {"ids": [0, 1, 2, 3], "characters": 16},
        {"ids": [1, 0], "characters": 8},
    ],
)
def test_what_has_been_sent_must_be_what_the_tokens_say(begun: dict[str, object]) -> None:
    with pytest.raises(FailureError, match="cannot go on") as error:
        add(engine(), 0, prompt="once upon a time", stream=True, begun=begun)
    assert error.value.failure.code == Code.WORKER_DIED
    assert error.value.failure.retryable


@pytest.mark.parametrize("begun", [{"ids": 3}, {"ids": ["a"]}, {"ids": [-1]}, {"ids": [True]}, {"characters": 1.5}])
def test_a_begun_answer_must_be_well_formed(begun: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="begun"):
        add(engine(), 0, prompt="once", begun=begun)


def test_an_engine_that_misbehaves_after_n_tokens_does_it_once_for_an_answer_that_goes_on() -> None:
    misbehaving = Misbehaving(ASSIGN, lambda _stage, _fraction: None)
    fields = {"prompt": "raise after 3 tokens, then go on", "stream": True, "tells_tokens": True}
    add(misbehaving, 0, **fields)
    outputs = [output for _ in range(3) for output in misbehaving.step()]
    with pytest.raises(RuntimeError):
        misbehaving.step()
    following = Misbehaving(ASSIGN, lambda _stage, _fraction: None)
    (rest,) = run(following, [{**fields, "begun": begun_after(outputs)}])
    assert "".join(output.body["text"] for output in (*outputs, *rest)) == fields["prompt"]
    again = {**fields, "prompt": "raise after 3 tokens again, then go on"}
    add(following, 1, **again, begun=begun_after(outputs))
    with pytest.raises(RuntimeError):
        following.step()
