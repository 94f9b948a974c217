"""The bodies of outputs as types, and the questions that they answer."""

from typing import Any

import pytest

from broker.wire.body import ProtocolError
from broker.wire.from_gateways import InferenceRequest
from broker.wire.kinds import Task
from broker.wire.packing import unpack
from broker.wire.work import Generate
from gateway.core import ask
from gateway.core.answer import Counted, Delta, PromptUsage, ToolUse, counted_of, delta_of, end_of, joined
from tests.gateway.played_broker import ending

CALL: dict[str, Any] = {"id": "c", "name": "f", "arguments": "{}"}


def test_a_count_asks_for_the_same_work_without_an_answer() -> None:
    unit = Generate(prompt="x", stream=True, seed=1)
    counts, generates = ask.count("m", unit).body, ask.generate_stream("m", unit).body
    assert isinstance(counts, InferenceRequest)
    assert isinstance(generates, InferenceRequest)
    assert (counts.model, counts.task) == ("m", Task.COUNT)
    assert unpack(Generate, counts.payload) == Generate(prompt="x", seed=1)
    assert counts.origin == generates.origin  # whoever ends its process by the one is refused the other


def test_choices_of_one_request_have_one_origin() -> None:
    def origin(unit: Generate) -> bytes:
        body = ask.generate_stream("m", unit).body
        assert isinstance(body, InferenceRequest)
        return body.origin

    assert origin(Generate(prompt="x")) == origin(Generate(prompt="x", seed=1, stream=True))
    assert origin(Generate(prompt="x")) != origin(Generate(prompt="x", top_k=1))


def test_the_answer_to_a_count() -> None:
    question = ask.count("m", Generate(prompt="x"))
    assert question.final({"prompt_tokens": 7}) == counted_of({"prompt_tokens": 7}) == Counted(7)
    with pytest.raises(ProtocolError):
        question.partial({"text": "x"})
    for body in ({}, {"prompt_tokens": "7"}, {"prompt_tokens": True}):
        with pytest.raises(ProtocolError, match="prompt_tokens"):
            question.final(body)


def test_what_an_end_may_say() -> None:
    plain = end_of(ending())
    assert (plain.stop_string, plain.context_full, plain.reasoning_tokens) == (None, False, 0)
    full = end_of({**ending(), "stop_string": "END", "context_full": True, "reasoning_tokens": 3})
    assert (full.stop_string, full.context_full, full.reasoning_tokens) == ("END", True, 3)
    for name, value in (("stop_string", 1), ("context_full", 1), ("reasoning_tokens", "3")):
        with pytest.raises(ProtocolError, match=name):
            end_of({**ending(), name: value})


def test_the_size_of_the_prompt_is_kept_when_outputs_are_joined() -> None:
    first = delta_of({"text": "a", "prompt": {"tokens": 9, "cached": 4}})
    assert first.prompt == PromptUsage(9, 4)
    assert joined([first, Delta("b")]) == Delta("ab", "", [], [], [], PromptUsage(9, 4))
    for prompt in (None, 9, {"tokens": 9}, {"tokens": "9", "cached": 4}):
        with pytest.raises(ProtocolError, match="prompt"):
            delta_of({"text": "a", "prompt": prompt})


@pytest.mark.parametrize(
    ("piece", "starts", "ends"),
    [(None, True, True), ("first", True, False), ("middle", False, False), ("last", False, True)],
)
def test_a_piece_of_a_call_says_which_one_it_is(piece: str | None, starts: bool, ends: bool) -> None:
    entry = CALL if piece is None else {**CALL, "piece": piece}
    assert delta_of({"text": "", "tool_calls": [entry]}).tool_calls == [ToolUse("c", "f", "{}", starts, ends)]


def test_another_piece_is_the_peers_mistake() -> None:
    with pytest.raises(ProtocolError, match="tool_calls"):
        delta_of({"text": "", "tool_calls": [{**CALL, "piece": "half"}]})


def test_joined_pieces_are_one_call() -> None:
    pieces = [ToolUse("c", "f", '{"a"', ends=False), ToolUse("c", "f", ": 1", starts=False, ends=False)]
    last, other = ToolUse("c", "f", "}", starts=False), ToolUse("d", "f", "{}")

    def calls(*uses: ToolUse) -> list[ToolUse]:
        return list(joined([Delta(tool_calls=[use]) for use in uses]).tool_calls)

    assert calls(*pieces, last, other) == [ToolUse("c", "f", '{"a": 1}'), other]
    assert calls(*pieces) == [ToolUse("c", "f", '{"a": 1', ends=False)]
    assert calls(pieces[1], last) == [ToolUse("c", "f", ": 1}", starts=False)]
    assert calls(last, other, other) == [last, other, other]
