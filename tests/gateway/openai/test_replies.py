import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.wire.body import ProtocolError
from broker.wire.failure import Code, Failure
from gateway.core.answer import Delta, End, ToolUse, delta_of, end_of
from gateway.openai import fingerprint
from gateway.openai.dialect import framed_error
from gateway.openai.fingerprint import SYSTEM_FINGERPRINT, _fingerprint
from gateway.openai.replies import Chunks, Head, whole
from tests.gateway.played_broker import ending

CHAT = Head(id="chatcmpl-1", model="org/tiny", created=12, is_chat=True)
TEXT = Head(id="cmpl-1", model="org/tiny", created=12, is_chat=False)


def events(data: bytes) -> list[Any]:
    """What a client of server-sent events reads."""
    lines = data.decode().split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    return [line if line == "data: [DONE]" else json.loads(line.removeprefix("data: ")) for line in lines]


def as_json(answer: object) -> Any:
    return json.loads(json.dumps(answer))


def test_the_fingerprint_follows_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _fingerprint() == SYSTEM_FINGERPRINT
    assert re.fullmatch("fp_[0-9a-f]{10}", SYSTEM_FINGERPRINT)
    monkeypatch.setattr(fingerprint, "version", lambda _name: "0.0.0")
    assert _fingerprint() != SYSTEM_FINGERPRINT


def test_the_chunks_of_a_chat() -> None:
    chunks = Chunks(CHAT, 1, include_usage=False)
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 12, "model": "org/tiny"}
    head["system_fingerprint"] = SYSTEM_FINGERPRINT

    def chunk(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}

    assert events(chunks.render([(0, Delta("Hel"))])) == [chunk({"role": "assistant", "content": "Hel"})]
    assert events(chunks.render([(0, Delta("lo"))])) == [chunk({"content": "lo"})]
    waiting: list[tuple[int, Delta | End]] = [(0, Delta(", ")), (0, Delta("wor")), (0, end_of(ending("ld", "length")))]
    assert not chunks.is_complete
    assert events(chunks.render(waiting)) == [chunk({"content": ", world"}), chunk({}, "length"), "data: [DONE]"]
    assert chunks.is_complete


def test_an_empty_answer_still_names_the_role() -> None:
    first, last, done = events(Chunks(CHAT, 1, include_usage=False).render([(0, end_of(ending("")))]))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"][0]["finish_reason"] == "stop"
    assert done == "data: [DONE]"


def test_usage_comes_last_and_is_null_before() -> None:
    chunks = Chunks(CHAT, 1, include_usage=True)
    [first] = events(chunks.render([(0, Delta("a"))]))
    finish, usage, done = events(chunks.render([(0, end_of(ending(tokens=4)))]))
    assert first["usage"] is None
    assert finish["usage"] is None
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 4,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert done == "data: [DONE]"


def test_several_choices_end_one_by_one() -> None:
    chunks = Chunks(CHAT, 2, include_usage=False)
    items = [(1, Delta("b")), (0, Delta("a")), (1, Delta("B"))]
    got = [(e["choices"][0]["index"], e["choices"][0]["delta"]) for e in events(chunks.render(items))]
    assert got == [(1, {"role": "assistant", "content": "bB"}), (0, {"role": "assistant", "content": "a"})]
    [finish] = events(chunks.render([(1, end_of(ending()))]))
    assert finish["choices"][0]["index"] == 1
    assert not chunks.is_complete
    finish, done = events(chunks.render([(0, end_of(ending()))]))
    assert finish["choices"][0]["index"] == 0
    assert done == "data: [DONE]"


def test_the_chunks_of_a_text_completion() -> None:
    chunks = Chunks(TEXT, 1, include_usage=False)
    text, finish, _done = events(chunks.render([(0, Delta("a")), (0, end_of(ending()))]))
    assert text["object"] == finish["object"] == "text_completion"
    assert text["choices"] == [{"index": 0, "text": "a", "logprobs": None, "finish_reason": None}]
    assert finish["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]


@settings(deadline=None)  # a machine can stall
@given(st.lists(st.tuples(st.integers(0, 2), st.text()), max_size=20), st.data())
def test_joined_chunks_are_the_text_however_outputs_are_batched(
    texts: list[tuple[int, str]], data: st.DataObject
) -> None:
    chunks = Chunks(CHAT, 3, include_usage=True)
    items: list[tuple[int, Delta | End]] = [(index, Delta(text)) for index, text in texts]
    items += [(index, end_of(ending("end"))) for index in range(3)]
    read = [""] * 3
    roles = [0] * 3
    while items:
        count = data.draw(st.integers(1, len(items)))
        for event in events(chunks.render(items[:count])):
            for choice in [] if event == "data: [DONE]" else event["choices"]:
                read[choice["index"]] += choice["delta"].get("content", "")
                roles[choice["index"]] += "role" in choice["delta"]
        items = items[count:]
    assert read == ["".join(text for index, text in texts if index == i) + "end" for i in range(3)]
    assert roles == [1, 1, 1]


def test_a_whole_chat() -> None:
    assert as_json(whole(CHAT, [end_of(ending("Paris.", tokens=2))])) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 12,
        "model": "org/tiny",
        "system_fingerprint": SYSTEM_FINGERPRINT,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Paris."},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_the_prompt_of_several_choices_counts_once() -> None:
    head = Head(id="cmpl-1", model="m", created=1, is_chat=False, choices_per_prompt=2)
    endings = [end_of(ending(prompt=p, tokens=t, cached=c)) for p, t, c in ((5, 1, 0), (5, 2, 5), (7, 3, 1), (7, 4, 7))]
    usage = as_json(whole(head, endings))["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (12, 10, 22)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 1}


def test_reasoning_tokens_of_all_choices_count() -> None:
    endings = [end_of({**ending(tokens=9), **more}) for more in ({"reasoning_tokens": 5}, {}, {"reasoning_tokens": 2})]
    usage = as_json(whole(replace(CHAT, choices_per_prompt=3), endings))["usage"]
    assert (usage["completion_tokens"], usage["completion_tokens_details"]) == (27, {"reasoning_tokens": 7})


@pytest.mark.parametrize("field", ["text", "finish_reason", "prompt_tokens", "completion_tokens", "cached_tokens"])
def test_an_ending_that_cannot_be_read_is_the_peers_mistake(field: str) -> None:
    with pytest.raises(ProtocolError, match=field):
        end_of({**ending(), field: None})
    with pytest.raises(ProtocolError, match=field):
        end_of({name: value for name, value in ending().items() if name != field})


def test_a_partial_without_text_is_the_peers_mistake() -> None:
    with pytest.raises(ProtocolError):
        delta_of({"text": 1})


CALL: dict[str, Any] = {"id": "call_1", "name": "weather", "arguments": '{"city": "Paris"}'}
OPENAI_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
LIKELY = {"token": "€", "bytes": "€".encode(), "logprob": -0.5}
ENTRY = {**LIKELY, "top": [LIKELY, {"token": "$", "bytes": b"$", "logprob": -1.5}]}


def test_a_chat_with_reasoning_and_calls() -> None:
    parts = {"reasoning": "hm", "tool_calls": [CALL, {**CALL, "id": "call_2"}]}
    choice = as_json(whole(CHAT, [end_of({**ending("", "tool_calls"), **parts})]))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "reasoning": "hm",
        "reasoning_content": "hm",
        "tool_calls": [OPENAI_CALL, {**OPENAI_CALL, "id": "call_2"}],
    }


def test_the_chunks_of_a_chat_with_reasoning_and_calls() -> None:
    chunks = Chunks(CHAT, 1, include_usage=False)

    def deltas(*outputs: Delta | End) -> list[Any]:
        read = events(chunks.render([(0, output) for output in outputs]))
        return [event["choices"][0]["delta"] for event in read if event != "data: [DONE]"]

    def reasoning(text: str) -> dict[str, Any]:
        return {"reasoning": text, "reasoning_content": text}

    assert deltas(Delta("", "h")) == [{"role": "assistant", **reasoning("h")}]
    assert deltas(Delta("", "m")) == [reasoning("m")]
    assert deltas(Delta("", "!"), Delta("I ")) == [{**reasoning("!"), "content": "I "}]
    assert deltas(Delta("call")) == [{"content": "call"}]
    use = ToolUse(CALL["id"], CALL["name"], CALL["arguments"])
    assert deltas(Delta(tool_calls=[use])) == [{"tool_calls": [{"index": 0, **OPENAI_CALL}]}]
    assert deltas(End(Delta(tool_calls=[use]), "tool_calls", 5, 3, 2)) == [
        {"tool_calls": [{"index": 1, **OPENAI_CALL}]},
        {},
    ]


def test_a_call_in_pieces_is_joined_by_its_index() -> None:
    """Id and name come first, as OpenAI writes it; then arguments alone."""
    chunks = Chunks(CHAT, 1, include_usage=False)

    def pieces(id_: str, *texts: str) -> list[Delta]:
        places = ["first", *["middle"] * (len(texts) - 2), "last"]
        call = {**CALL, "id": id_}
        return [
            delta_of({"text": "", "tool_calls": [{**call, "arguments": text, "piece": place}]})
            for text, place in zip(texts, places, strict=True)
        ]

    def calls(*outputs: Delta | End) -> list[Any]:
        read = events(chunks.render([(0, output) for output in outputs]))
        return [event["choices"][0]["delta"].get("tool_calls") for event in read if event != "data: [DONE]"]

    def more(index: int, text: str) -> list[Any]:
        return [[{"index": index, "function": {"arguments": text}}]]

    begin, city, name, end = pieces("call_1", "", '{"city"', ': "Par', 'is"}')
    head = {**OPENAI_CALL, "function": {"name": "weather", "arguments": ""}}
    assert calls(begin) == [[{"index": 0, **head}]]
    assert calls(city) == more(0, '{"city"')
    assert calls(name, end) == more(0, ': "Paris"}')
    # Pieces of several calls that came together, the last of which is cut off.
    second, third = pieces("call_2", "", "{", "}"), pieces("call_3", "", '{"city": ', '"')[:2]
    assert calls(*second, *third) == [
        [
            {"index": 1, **OPENAI_CALL, "id": "call_2", "function": {"name": "weather", "arguments": "{}"}},
            {"index": 2, **OPENAI_CALL, "id": "call_3", "function": {"name": "weather", "arguments": '{"city": '}},
        ]
    ]
    assert calls(end_of(ending("", "length"))) == [None]


@given(st.lists(st.lists(st.text(), min_size=1), max_size=5), st.data())
def test_pieces_say_the_same_however_they_are_batched(calls: list[list[str]], data: st.DataObject) -> None:
    deltas = [
        Delta(tool_calls=[ToolUse(str(number), "f", text, place == 0, place == len(texts) - 1)])
        for number, texts in enumerate(calls)
        for place, text in enumerate(texts)
    ]
    chunks = Chunks(CHAT, 1, include_usage=False)
    read: dict[int, list[str]] = {}
    while deltas:
        count = data.draw(st.integers(1, len(deltas)))
        for event in events(chunks.render([(0, delta) for delta in deltas[:count]])):
            for call in event["choices"][0]["delta"]["tool_calls"]:
                assert ("id" in call) == (call["index"] not in read)
                read.setdefault(call["index"], []).append(call["function"]["arguments"])
        deltas = deltas[count:]
    assert {index: "".join(texts) for index, texts in read.items()} == dict(enumerate(map("".join, calls)))


def test_logprobs_of_a_chat() -> None:
    openai = {"token": "€", "logprob": -0.5, "bytes": [226, 130, 172]}
    content = [{**openai, "top_logprobs": [openai, {"token": "$", "logprob": -1.5, "bytes": [36]}]}]
    choice = as_json(whole(CHAT, [end_of({**ending("€"), "logprobs": [ENTRY]})]))["choices"][0]
    assert choice["logprobs"] == {"content": content, "refusal": None}
    chunks = Chunks(CHAT, 1, include_usage=False)
    first, *_ = events(chunks.render([(0, delta_of({"text": "€", "logprobs": [ENTRY]}))]))
    assert first["choices"][0]["logprobs"]["content"] == content
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "€"}


def test_logprobs_of_a_text_completion() -> None:
    plain = {"token": "ab", "bytes": b"ab", "logprob": -0.25, "top": []}
    expected = {
        "tokens": ["€", "ab"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"€": -0.5, "$": -1.5}, {}],
        "text_offset": [0, 1],
    }
    choice = as_json(whole(TEXT, [end_of({**ending("€ab"), "logprobs": [ENTRY, plain]})]))["choices"][0]
    assert choice["logprobs"] == expected
    chunks = Chunks(TEXT, 1, include_usage=False)
    read = [events(chunks.render([(0, delta_of({"text": "x", "logprobs": [plain]}))]))[0] for _ in range(2)]
    assert [event["choices"][0]["logprobs"]["text_offset"] for event in read] == [[0], [2]]
    assert read[0]["choices"][0]["logprobs"]["top_logprobs"] is None


@pytest.mark.parametrize(
    "part",
    [
        {"reasoning": 1},
        {"tool_calls": {}},
        {"tool_calls": ["x"]},
        {"tool_calls": [{**CALL, "name": None}]},
        {"logprobs": None},
        {"logprobs": ["x"]},
        {"logprobs": [LIKELY]},
        {"logprobs": [{**ENTRY, "bytes": "text"}]},
        {"logprobs": [{**ENTRY, "top": [{**LIKELY, "logprob": None}]}]},
    ],
)
def test_parts_that_cannot_be_read_are_the_peers_mistake(part: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=next(iter(part))):
        delta_of({"text": "", **part})
    with pytest.raises(ProtocolError, match=next(iter(part))):
        end_of({**ending(), **part})


def test_an_error_within_a_stream_ends_it() -> None:
    error, done = events(framed_error(Failure(Code.WORKER_DIED, "gone", retryable=True)))
    assert error == {
        "error": {"message": "gone", "type": "server_error", "param": None, "code": "worker_died", "retryable": True}
    }
    assert done == "data: [DONE]"
