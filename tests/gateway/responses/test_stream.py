"""Streamed answers as events, and whole ones as responses: each checked by OpenAI's own types."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.wire.failure import Code, Failure
from gateway.core.answer import Delta, End, TokenLogprob, ToolUse
from gateway.responses.sealed import sealed, unsealed
from gateway.responses.stream import ResponseEvents
from tests.gateway.responses.bodies import DEFAULTS, PATCH, SERVER, WEATHER, checked_response, events_in, text_of

DIED = Failure(Code.WORKER_DIED, "the process was ended by SIGKILL", retryable=True)
READ = ToolUse("c1", "mcp__files__read", '{"path": "a"}')
EDIT = ToolUse("c2", "apply_patch", json.dumps({"input": '*** "Begin" é\n'}))


def end(text: str = "", reason: str = "stop", **rest: Any) -> End:
    return End(Delta(text, **rest), reason, 5, 3, 2, reasoning_tokens=1)


def logprob(token: str) -> TokenLogprob:
    other = TokenLogprob("?", b"?", -2.0)
    return TokenLogprob(token, token.encode(), -0.5, (other,))


def renderer(**fields: Any) -> ResponseEvents:
    text = text_of(stream=True, tools=[WEATHER, PATCH, SERVER], **fields)
    text.units([], DEFAULTS)
    return text.renderer("org/tiny", 1)


def streamed(*outputs: Delta | End, **fields: Any) -> list[dict[str, Any]]:
    stream = renderer(**fields)
    sent = b"".join(stream.render([(0, output)]) for output in outputs)
    assert stream.is_complete == isinstance(outputs[-1], End)
    return events_in(sent)


def whole(answer: End, **fields: Any) -> dict[str, Any]:
    text = text_of(tools=[WEATHER, PATCH, SERVER], **fields)
    text.units([], DEFAULTS)
    return checked_response(dict(text.whole("org/tiny", [answer])))


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def nameless(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the ids, which two answers never share."""
    return [{name: value for name, value in item.items() if name != "id"} for item in items]


def test_a_text() -> None:
    events = streamed(Delta("Hel"), Delta("lo"), Delta(""), end("!"))
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 3,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["delta"] for event in events if "delta" in event] == ["Hel", "lo", "!"]
    assert {(event["output_index"], event["content_index"]) for event in events[3:9]} == {(0, 0)}
    assert len({event["item_id"] for event in events if "item_id" in event} | {events[2]["item"]["id"]}) == 1
    created, completed = events[0]["response"], events[-1]["response"]
    assert (created["status"], created["output"], created["usage"]) == ("in_progress", [], None)
    assert completed["output"] == [events[-2]["item"]]
    assert completed["output"][0]["content"][0]["text"] == "Hello!"
    assert completed["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 8,
    }
    assert (completed["status"], completed["error"], completed["incomplete_details"]) == ("completed", None, None)
    assert completed["completed_at"] >= completed["created_at"]


def test_reasoning_a_text_and_calls_are_items_in_their_order() -> None:
    outputs = (
        Delta(reasoning="Hm"),
        Delta(reasoning="."),
        Delta("I look."),
        Delta(tool_calls=[READ]),
        Delta(tool_calls=[EDIT]),
    )
    events = streamed(*outputs, end(reason="tool_calls"))
    assert kinds(events)[2:] == [
        "output_item.added",
        "content_part.added",
        *["reasoning_text.delta"] * 2,
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
        "completed",
    ]
    output = events[-1]["response"]["output"]
    assert [event["output_index"] for event in events if "item" in event] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [event["item"] for event in events if event["type"].endswith("item.done")] == output
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert nameless(output)[2:] == [
        {
            "type": "function_call",
            "status": "completed",
            "call_id": "c1",
            "name": "read",
            "namespace": "mcp__files__",
            "arguments": '{"path": "a"}',
        },
        {
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": "c2",
            "name": "apply_patch",
            "input": '*** "Begin" é\n',
        },
    ]
    assert len({item["id"] for item in output}) == 4


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("call", [READ, EDIT])
def test_a_call_in_pieces_is_the_whole_call(call: ToolUse, size: int) -> None:
    texts = [call.arguments[start : start + size] for start in range(0, len(call.arguments), size)]
    pieces = [
        Delta(tool_calls=[ToolUse(call.id, call.name, text, starts=n == 0, ends=n == len(texts) - 1)])
        for n, text in enumerate(texts)
    ]
    events = streamed(*pieces, end(reason="tool_calls"))
    [item] = events[-1]["response"]["output"]
    assert nameless([item]) == nameless(whole(end(tool_calls=[call], reason="tool_calls"))["output"])
    told = "".join(event["delta"] for event in events if event["type"].endswith(".delta"))
    assert told == item.get("input", item.get("arguments"))
    assert size > 3 or sum(event["type"].endswith(".delta") for event in events) > 3


def test_an_unknown_function_and_wrong_arguments_go_through_as_they_are() -> None:
    calls = [ToolUse("c1", "invented", "{}"), ToolUse("c2", "apply_patch", '{"patch": "a"}')]
    output = whole(end(tool_calls=calls, reason="tool_calls"))["output"]
    assert (output[0]["type"], output[0]["name"]) == ("function_call", "invented")
    assert "namespace" not in output[0]
    assert output[1]["input"] == '{"patch": "a"}'
    streamed_output = streamed(Delta(tool_calls=calls), end(reason="tool_calls"))[-1]["response"]["output"]
    assert nameless(streamed_output) == nameless(output)


def test_an_answer_that_is_cut_short_is_incomplete() -> None:
    events = streamed(Delta("Hel"), end("lo", "length"))
    assert kinds(events)[-1] == "incomplete"
    response = events[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (response["output"][0]["status"], response["completed_at"]) == ("incomplete", None)
    assert whole(end("Hello", "length"))["output"][0]["status"] == "incomplete"
    thought = whole(end(reason="length", reasoning="Hm"))["output"]
    assert [(item["type"], item["status"]) for item in thought] == [("reasoning", "incomplete")]
    assert streamed(end(reason="length"))[-1]["response"]["output"] == []


def test_a_call_that_is_cut_short_is_never_done() -> None:
    for call in (READ, EDIT):
        first = ToolUse(call.id, call.name, call.arguments[:15], ends=False)
        cut = Delta("I look.", tool_calls=[first])
        for events in (
            streamed(cut, end(reason="length")),
            events_in((stream := renderer()).render([(0, cut)]) + stream.error(DIED)),
        ):
            assert [event["item"]["type"] for event in events if event["type"].endswith("item.done")] == ["message"]
            assert [item["type"] for item in events[-1]["response"]["output"]] == ["message"]
            assert not [event for event in events if event["type"].endswith(("arguments.done", "input.done"))]


def test_an_answer_that_says_nothing_is_an_empty_text() -> None:
    for answer in (end(), end(reasoning="Hm")):
        items = whole(answer)["output"]
        assert items[-1]["content"][0]["text"] == ""
        assert nameless(streamed(answer)[-1]["response"]["output"]) == nameless(items)
    assert [item["type"] for item in whole(end(tool_calls=[READ], reason="tool_calls"))["output"]] == ["function_call"]


def test_logprobs_are_those_of_the_text() -> None:
    entries = [logprob(token) for token in ("<think>", "Hm", "</think>", "\n", "A", "é", "<call>")]
    answer = end("Aé", "tool_calls", reasoning="Hm", tool_calls=[READ], logprobs=entries)
    message = whole(answer, top_logprobs=1)["output"][1]
    told = message["content"][0]["logprobs"]
    assert [entry["token"] for entry in told] == ["A", "é"]
    assert told[1] == {
        "token": "é",
        "logprob": -0.5,
        "bytes": list("é".encode()),
        "top_logprobs": [{"token": "?", "logprob": -2.0, "bytes": [63]}],
    }
    events = streamed(Delta("A", logprobs=entries[4:5]), Delta("é", logprobs=entries[5:6]), end(), top_logprobs=1)
    deltas = [event["logprobs"] for event in events if event["type"].endswith("text.delta")]
    assert [[entry["token"] for entry in told] for told in deltas] == [["A"], ["é"]]
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == told
    [done] = [event for event in events if event["type"].endswith("text.done")]
    assert done["logprobs"] == deltas[0] + deltas[1]


def test_reasoning_goes_out_sealed_to_clients_that_ask() -> None:
    events = streamed(Delta(reasoning="Hm"), end("A"), include=["reasoning.encrypted_content"])
    item = events[-1]["response"]["output"][0]
    assert unsealed(item["encrypted_content"]) == "Hm"
    assert "encrypted_content" not in events[2]["item"]
    assert "encrypted_content" not in whole(end("A", reasoning="Hm"))["output"][0]
    assert [unsealed(other) for other in (None, "gAAA", sealed("a") + "!", 3)] == [None] * 4


def test_the_request_is_repeated() -> None:
    schema = {"type": "json_schema", "name": "n", "strict": True, "schema": {"type": "object"}}
    response = whole(
        end("{}"),
        instructions="A",
        text={"format": schema},
        reasoning={"effort": "low"},
        metadata={"a": "b"},
        max_output_tokens=9,
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        temperature=0.5,
        user="u",
        store=True,
    )
    assert (response["model"], response["instructions"], response["text"]) == ("org/tiny", "A", {"format": schema})
    assert response["tools"] == [WEATHER, PATCH, SERVER]
    assert response["tool_choice"] == {"type": "function", "name": "weather"}
    assert (response["reasoning"]["effort"], response["metadata"], response["user"]) == ("low", {"a": "b"}, "u")
    assert (response["max_output_tokens"], response["temperature"], response["top_p"]) == (9, 0.5, 1.0)
    assert (response["parallel_tool_calls"], response["store"]) == (False, False)


def test_a_death_is_a_failed_response_with_what_there_was() -> None:
    stream = renderer()
    sent = stream.render([(0, Delta(reasoning="Hm")), (0, Delta("Hello"))]) + stream.error(DIED)
    events = events_in(sent)
    assert kinds(events)[-1] == "failed"
    response = events[-1]["response"]
    assert response["error"] == {
        "code": "server_error",
        "message": DIED.message,
        "param": None,
        "type": "worker_died",
    }
    assert [(item["type"], item["status"]) for item in response["output"]] == [
        ("reasoning", "completed"),
        ("message", "incomplete"),
    ]
    assert (response["status"], response["usage"]) == ("failed", None)


def test_an_error_before_the_first_output_still_begins_a_response() -> None:
    assert kinds(events_in(renderer().error(DIED))) == ["created", "in_progress", "failed"]


@pytest.mark.parametrize(
    ("code", "told"),
    [(Code.RATE_LIMIT_EXCEEDED, "rate_limit_exceeded"), (Code.INVALID_REQUEST, "invalid_prompt")],
)
def test_codes_that_clients_know(code: Code, told: str) -> None:
    events = events_in(renderer().error(Failure(code, "no", "input")))
    assert events[-1]["response"]["error"] == {"code": told, "message": "no", "param": "input", "type": code}


def test_a_full_context_has_the_code_by_which_clients_compact() -> None:
    sent = renderer().error(Failure(Code.CONTEXT_LENGTH_EXCEEDED, "too long"))
    assert b'"code":"context_length_exceeded"' in sent


def test_a_silent_stream_repeats_its_state() -> None:
    stream = renderer()
    sent = stream.keepalive() + stream.keepalive() + stream.render([(0, Delta("A"))]) + stream.keepalive()
    events = events_in(sent + stream.render([(0, end())]))
    assert kinds(events) == [
        *("created", "in_progress", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("in_progress", "output_text.done", "content_part.done", "output_item.done", "completed"),
    ]


def in_two(call: ToolUse, cut: int) -> list[Delta]:
    first = ToolUse(call.id, call.name, call.arguments[:cut], ends=False)
    return [
        Delta(tool_calls=[first]),
        Delta(tool_calls=[ToolUse(call.id, call.name, call.arguments[cut:], starts=False)]),
    ]


_calls = st.sampled_from([READ, EDIT])
# What comes in a row: a piece of text or of reasoning, both, with a whole call, or a call in two pieces.
_rows = st.one_of(
    st.builds(lambda text, reasoning: [Delta(text, reasoning)], st.text(max_size=3), st.sampled_from(["", "Hm"])),
    st.builds(lambda text, call: [Delta(text, tool_calls=[call])], st.text(max_size=3), _calls),
    st.builds(in_two, _calls, st.integers(0, 30)),
)


def said_in(output: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The kind and the text of each item."""
    said: list[tuple[str, str]] = []
    for item in output:
        text: Any = item["content"][0]["text"] if "content" in item else item.get("input", item.get("arguments"))
        said.append((item["type"], text))
    return said


def expected(deltas: list[Delta]) -> list[tuple[str, str]]:
    said: list[tuple[str, str]] = []
    for delta in deltas:
        pieces = [("reasoning", delta.reasoning), ("message", delta.text)]
        for call in delta.tool_calls:
            kind = "custom_tool_call" if call.name == "apply_patch" else "function_call"
            pieces.append((kind if call.starts else "more", call.arguments))
        for kind, text in pieces:
            if kind == "more" or (said and said[-1][0] == kind and "call" not in kind):
                said[-1] = (said[-1][0], said[-1][1] + text)
            elif text or "call" in kind:
                said.append((kind, text))
    return [(kind, json.loads(text)["input"] if kind == "custom_tool_call" else text) for kind, text in said]


@given(st.lists(_rows, max_size=8), st.data())
def test_however_outputs_are_bundled_the_events_say_the_same_in_the_same_order(
    rows: list[list[Delta]], data: st.DataObject
) -> None:
    deltas = [delta for row in rows for delta in row]
    left: list[tuple[int, Delta | End]] = [*((0, delta) for delta in deltas), (0, end("", "length"))]
    stream, sent = renderer(), b""
    while left:
        count = data.draw(st.integers(1, len(left)))
        sent += stream.render(left[:count])
        left = left[count:]
    events = events_in(sent)
    output = events[-1]["response"]["output"]
    assert said_in(output) == expected(deltas)
    assert [event["item"] for event in events if event["type"].endswith("item.done")] == output
    added = [event["output_index"] for event in events if event["type"].endswith("item.added")]
    assert added == list(range(len(output)))
    for place, (_kind, text) in enumerate(said_in(output)):
        assert "".join(e["delta"] for e in events if e.get("output_index") == place and "delta" in e) == text
