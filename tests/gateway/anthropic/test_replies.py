"""Answers as Anthropic's message and events."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from broker.wire.failure import Code, Failure
from gateway.anthropic.answers import AnthropicMessageAnswer
from gateway.anthropic.replies import MessageEvents, whole
from gateway.core.answer import Delta, End, PromptUsage, ToolUse
from gateway.http.errors import Json

CALL = ToolUse("toolu_1", "weather", '{"city":"Oslo"}')
PROMPT = PromptUsage(10, 4)
USAGE = {
    "input_tokens": 6,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 4,
    "output_tokens": 3,
    "output_tokens_details": {"thinking_tokens": 1},
}


def end(rest: Delta | None = None, reason: str = "stop", **more: Any) -> End:
    return End(rest or Delta(), reason, 10, 3, 4, **{"reasoning_tokens": 1, **more})


def events_in(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    frames = data.decode().split("\n\n")
    assert frames.pop() == ""
    events = []
    for frame in frames:
        kind, _, fields = frame.partition("\n")
        said = json.loads(fields.removeprefix("data: "))
        assert kind == f"event: {said.pop('type')}"
        events.append((kind.removeprefix("event: "), said))
    return events


def streamed(*outputs: Delta | End) -> list[tuple[str, dict[str, Any]]]:
    """Each output alone."""
    events = MessageEvents("msg_1", "m")
    data = b"".join(events.render([(0, output)]) for output in outputs)
    assert events.is_complete == isinstance(outputs[-1], End)
    return events_in(data)


def content_of(events: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """What a client puts together. Blocks must come one after the other."""
    blocks: list[dict[str, Any]] = []
    is_open = False
    for kind, said in events:
        if kind == "content_block_start":
            assert not is_open
            assert said["index"] == len(blocks)
            is_open = True
            blocks.append({**said["content_block"]} | ({"input": ""} if "input" in said["content_block"] else {}))
        elif kind == "content_block_delta":
            assert is_open
            assert said["index"] == len(blocks) - 1
            delta = said["delta"]
            name, key = {
                "text_delta": ("text", "text"),
                "thinking_delta": ("thinking", "thinking"),
                "signature_delta": ("signature", "signature"),
                "input_json_delta": ("partial_json", "input"),
            }[delta["type"]]
            blocks[-1][key] += delta[name]
        elif kind == "content_block_stop":
            assert is_open
            assert said["index"] == len(blocks) - 1
            is_open = False
    assert not is_open
    return [{**block, "input": json.loads(block["input"])} if "input" in block else block for block in blocks]


def told(answer: End) -> dict[str, Any]:
    """The whole answer as it is sent, of the form that is documented."""
    body = Json(whole("msg_1", "m", answer)).body
    TypeAdapter(AnthropicMessageAnswer).validate_json(bytes(body))
    read: dict[str, Any] = json.loads(bytes(body))
    return read


def test_the_order_of_a_stream() -> None:
    events = streamed(Delta("Hel", prompt=PROMPT), Delta("lo"), end())
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    usage = {**USAGE, "output_tokens": 0}
    del usage["output_tokens_details"]
    assert events == [
        ("message_start", {"message": {**start, "stop_reason": None, "stop_sequence": None, "usage": usage}}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "Hel"}}),
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "lo"}}),
        ("content_block_stop", {"index": 0}),
        (
            "message_delta",
            {"delta": {"stop_reason": "end_turn", "stop_sequence": None, "stop_details": None}, "usage": USAGE},
        ),
        ("message_stop", {}),
    ]


def test_thinking_then_text_then_calls() -> None:
    other = ToolUse("toolu_2", "time", "{}")
    outputs: list[Delta | End] = [
        *(Delta(reasoning="I ", prompt=PROMPT), Delta(reasoning="wonder."), Delta("\n\n"), Delta("Well.")),
        *(Delta(tool_calls=[CALL]), end(Delta(tool_calls=[other]), "tool_calls")),
    ]
    content = [
        {"type": "thinking", "thinking": "I wonder.", "signature": "unsigned"},
        {"type": "text", "text": "\n\nWell."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}},
    ]
    events = streamed(*outputs)
    assert content_of(events) == content
    assert events[-2][1]["delta"]["stop_reason"] == "tool_use"
    answer = told(end(Delta("\n\nWell.", "I wonder.", [CALL, other]), "tool_calls"))
    assert answer["content"] == content
    assert answer["usage"] == USAGE


def test_a_call_in_pieces() -> None:
    pieces = [
        ToolUse("toolu_1", "weather", '{"ci', ends=False),
        ToolUse("toolu_1", "weather", 'ty":"Os', starts=False, ends=False),
        ToolUse("toolu_1", "weather", 'lo"}', starts=False),
    ]
    events = streamed(Delta("I look."), *(Delta(tool_calls=[piece]) for piece in pieces), end(reason="tool_calls"))
    assert content_of(events)[1]["input"] == {"city": "Oslo"}
    assert [said["delta"]["partial_json"] for kind, said in events if "partial_json" in said.get("delta", {})] == [
        piece.arguments for piece in pieces
    ]
    cut = streamed(Delta(tool_calls=pieces[:1]), end(reason="length"))
    assert [kind for kind, _ in cut][-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_blanks_alone_are_no_block() -> None:
    events = streamed(Delta(reasoning="\n\n"), Delta("\n"), Delta(tool_calls=[CALL]), Delta(" "), end())
    assert [block["type"] for block in content_of(events)] == ["tool_use"]
    assert [block["type"] for block in told(end(Delta("\n", "\n\n", [CALL])))["content"]] == ["tool_use"]
    assert content_of(streamed(Delta("\n"), Delta(" a"), Delta(" "), Delta("b"), end())) == [
        {"type": "text", "text": "\n a b"}
    ]
    assert content_of(streamed(end())) == told(end())["content"] == []


def test_arguments_are_not_rounded() -> None:
    answer = End(Delta(tool_calls=[ToolUse("toolu_1", "f", '{"n": 123456789012345678901234567890}')]), "stop", 1, 1, 0)
    assert told(answer)["content"][0]["input"] == {"n": 123456789012345678901234567890}


@pytest.mark.parametrize(
    ("reason", "more", "stop_reason", "stop_sequence"),
    [
        ("stop", {}, "end_turn", None),
        ("stop", {"stop_string": "END"}, "stop_sequence", "END"),
        ("length", {}, "max_tokens", None),
        ("length", {"context_full": True}, "model_context_window_exceeded", None),
        ("tool_calls", {}, "tool_use", None),
        ("tool_calls", {"stop_string": "END"}, "tool_use", None),
    ],
)
def test_stop_reasons(reason: str, more: dict[str, Any], stop_reason: str, stop_sequence: str | None) -> None:
    answer = told(end(Delta("x"), reason, **more))
    assert (answer["stop_reason"], answer["stop_sequence"]) == (stop_reason, stop_sequence)
    [(_, said)] = [event for event in streamed(end(Delta("x"), reason, **more)) if event[0] == "message_delta"]
    assert (said["delta"]["stop_reason"], said["delta"]["stop_sequence"]) == (stop_reason, stop_sequence)


def test_an_answer_that_comes_at_once_has_its_input_tokens_first() -> None:
    [start, *_] = streamed(end(Delta("Hello")))
    assert start[1]["message"]["usage"]["input_tokens"] == 6


def test_signs_of_life_and_errors() -> None:
    events = MessageEvents("msg_1", "m")
    assert events_in(events.keepalive()) == [("ping", {})]
    failure = Failure(Code.WORKER_DIED, "the process died", retryable=True)
    [(kind, said)] = events_in(events.error(failure))
    assert kind == "error"
    assert said["error"] == {
        "type": "overloaded_error",
        "message": "the process died",
        "details": {"error_code": "worker_died"},
        "code": "worker_died",
        "param": None,
        "retryable": True,
    }


texts = st.text(st.sampled_from("ab \n"), max_size=3)
deltas = st.builds(
    Delta, texts, texts, st.lists(st.builds(ToolUse, st.just("id"), st.just("f"), st.just("{}")), max_size=1)
)


def test_blanks_of_reasoning_end_with_the_next_text() -> None:
    outputs: list[Delta | End] = [Delta("a"), Delta("", " "), Delta("b"), Delta("", "c"), end()]
    events = MessageEvents("msg_1", "m")
    sent = b"".join(events.render([(0, output)]) for output in outputs)
    assert [block.get("thinking", block.get("text")) for block in content_of(events_in(sent))] == ["ab", "c"]


@given(st.lists(deltas, min_size=1, max_size=8), st.data())
def test_what_waits_together_says_the_same_as_one_by_one(outputs: list[Delta], data: Any) -> None:
    alone = content_of(streamed(*outputs, end()))
    events = MessageEvents("msg_1", "m")
    items: list[tuple[int, Delta | End]] = [*((0, output) for output in outputs), (0, end())]
    sent = b""
    while items:
        count = data.draw(st.integers(1, len(items)))
        sent += events.render(items[:count])
        items = items[count:]
    assert content_of(events_in(sent)) == alone
    said = "".join(block.get("text", "") + block.get("thinking", "") for block in alone)
    assert sorted("".join(said.split())) == sorted("".join("".join(d.reasoning + d.text for d in outputs).split()))
