"""Answers as Ollama's clients read them: lines of a stream and whole objects, with a clock that the test moves."""

import json
from typing import Any

import orjson
import pytest

from broker.wire.failure import Code, Failure
from gateway.core.answer import Delta, End, PromptUsage, TokenLogprob, ToolUse, end_of
from gateway.ollama.replies import Lines, empty_answer, whole_answer
from gateway.ollama.text import Stamp
from tests.gateway.ollama.bodies import STAMP, PlayedClock, lines_in
from tests.gateway.played_broker import ending
from tests.timing import assert_cheap

HEAD = {"model": "Tiny:latest", "created_at": STAMP}
SECOND = 10**9


def said(text: str, **fields: Any) -> dict[str, Any]:
    return {**HEAD, "message": {"role": "assistant", "content": text, **fields}, "done": False}


def test_the_lines_of_a_chat() -> None:
    clock = PlayedClock()
    lines = Lines(clock.head())
    clock.now += 2 * SECOND
    assert lines_in(lines.render([(0, Delta("Hel", prompt=PromptUsage(5, 2)))])) == [said("Hel")]
    assert lines_in(lines.render([(0, Delta("lo\n„ü“"))])) == [said("lo\n„ü“")]
    assert not lines.is_complete
    clock.now += 3 * SECOND
    waiting: list[tuple[int, Delta | End]] = [(0, Delta(", ")), (0, Delta("wor")), (0, end_of(ending("ld", "length")))]
    assert lines_in(lines.render(waiting)) == [
        said(", world"),
        {
            **said(""),
            "done": True,
            "done_reason": "length",
            "total_duration": 5 * SECOND,
            "load_duration": 0,
            "prompt_eval_count": 5,
            "prompt_eval_duration": 2 * SECOND,
            "eval_count": 3,
            "eval_duration": 3 * SECOND,
        },
    ]
    assert lines.is_complete


def test_the_lines_of_a_completion() -> None:
    clock = PlayedClock()
    lines = Lines(clock.head(is_chat=False))
    first = lines_in(lines.render([(0, Delta("", "Hm."))])) + lines_in(lines.render([(0, Delta("Hi"))]))
    assert first == [
        {**HEAD, "response": "", "thinking": "Hm.", "done": False},
        {**HEAD, "response": "Hi", "done": False},
    ]
    [last] = lines_in(lines.render([(0, end_of(ending("")))]))
    assert (last["response"], last["done"], last["done_reason"]) == ("", True, "stop")
    assert "message" not in last


def test_an_answer_in_one_piece_has_no_time_of_its_own_for_the_prompt() -> None:
    clock = PlayedClock()
    lines, head = Lines(clock.head()), clock.head()
    clock.now += 4 * SECOND
    _text, last = lines_in(lines.render([(0, Delta("Hi")), (0, end_of(ending("")))]))
    whole = whole_answer(head, end_of(ending("Hi")))
    for answer in (last, whole):
        assert (answer["prompt_eval_duration"], answer["eval_duration"]) == (0, 4 * SECOND)
    assert whole["message"] == {"role": "assistant", "content": "Hi"}
    # Clients divide by it.
    assert whole_answer(clock.head(), end_of(ending("Hi")))["eval_duration"] == 1


def test_reasoning_is_thinking() -> None:
    lines = Lines(PlayedClock().head())
    assert lines_in(lines.render([(0, Delta("", "Let "))])) == [said("", thinking="Let ")]
    assert lines_in(lines.render([(0, Delta("", "me")), (0, Delta("Yes"))])) == [said("Yes", thinking="me")]


def test_calls_have_objects_and_numbers() -> None:
    lines = Lines(PlayedClock().head())
    call = ToolUse("c1", "get_weather", '{"city":"Rome",\n"big":12345678901234567890123}')
    other = ToolUse("c2", "now", "")
    data = lines.render([(0, Delta(tool_calls=[call]))]) + lines.render([(0, Delta(tool_calls=[other]))])
    assert lines_in(data) == [
        said(
            "",
            tool_calls=[
                {
                    "id": "c1",
                    "function": {
                        "index": 0,
                        "name": "get_weather",
                        "arguments": {"city": "Rome", "big": 12345678901234567890123},
                    },
                }
            ],
        ),
        said("", tool_calls=[{"id": "c2", "function": {"index": 1, "name": "now", "arguments": {}}}]),
    ]


def test_a_call_in_pieces_is_written_when_it_is_complete() -> None:
    lines = Lines(PlayedClock().head())
    pieces = [
        ToolUse("c1", "f", '{"a', starts=True, ends=False),
        ToolUse("c1", "f", '": ', starts=False, ends=False),
        ToolUse("c1", "f", "1}", starts=False, ends=True),
        ToolUse("c2", "g", '{"b": 2}'),
    ]
    assert lines.render([(0, Delta(tool_calls=pieces[:1]))]) == b""
    assert lines.render([(0, Delta(tool_calls=pieces[1:2]))]) == b""
    [line] = lines_in(lines.render([(0, Delta(tool_calls=pieces[2:]))]))
    calls = [call["function"] for call in line["message"]["tool_calls"]]
    assert calls == [{"index": 0, "name": "f", "arguments": {"a": 1}}, {"index": 1, "name": "g", "arguments": {"b": 2}}]


def test_a_call_is_the_end_of_an_answer_as_any_other() -> None:
    body = {**ending("", "tool_calls"), "tool_calls": [{"id": "c", "name": "f", "arguments": "{}"}]}
    # Fragments of JSON are written as they are.
    whole = orjson.loads(orjson.dumps(whole_answer(PlayedClock().head(), end_of(body))))
    assert whole["done_reason"] == "stop"
    assert whole["message"]["tool_calls"] == [{"id": "c", "function": {"index": 0, "name": "f", "arguments": {}}}]


@pytest.mark.parametrize("arguments", ["[1]", "7", "{", "NaN"])
def test_what_is_no_object_is_an_empty_one(arguments: str) -> None:
    [line] = lines_in(Lines(PlayedClock().head()).render([(0, Delta(tool_calls=[ToolUse("c", "f", arguments)]))]))
    assert line["message"]["tool_calls"][0]["function"]["arguments"] == {}


def test_logprobs_stand_beside_the_message() -> None:
    likely = TokenLogprob("A", b"A", -0.5)
    drawn = TokenLogprob("A", b"A", -0.5, [likely, TokenLogprob("ü", "ü".encode(), -1.5)])
    [line] = lines_in(Lines(PlayedClock().head()).render([(0, Delta("A", logprobs=[drawn]))]))
    assert line == {
        **said("A"),
        "logprobs": [
            {
                "token": "A",
                "logprob": -0.5,
                "bytes": [65],
                "top_logprobs": [
                    {"token": "A", "logprob": -0.5, "bytes": [65]},
                    {"token": "ü", "logprob": -1.5, "bytes": [195, 188]},
                ],
            }
        ],
    }
    [alone] = lines_in(Lines(PlayedClock().head()).render([(0, Delta("A", logprobs=[likely]))]))
    assert alone["logprobs"] == [{"token": "A", "logprob": -0.5, "bytes": [65]}]


def test_silence_is_a_line_that_says_nothing_and_a_failure_the_last_one() -> None:
    lines = Lines(PlayedClock().head())
    assert lines_in(lines.keepalive()) == [said("")]
    assert lines_in(lines.error(Failure(Code.WORKER_DIED, "the process died", retryable=True))) == [
        {"error": "the process died"}
    ]
    [quiet] = lines_in(Lines(PlayedClock().head(is_chat=False)).keepalive())
    assert quiet == {**HEAD, "response": "", "done": False}


@pytest.mark.parametrize("reason", ["load", "unload"])
def test_an_answer_without_text(reason: str) -> None:
    clock = PlayedClock()
    head = clock.head()
    clock.now += SECOND
    assert empty_answer(head, reason) == {
        **HEAD,
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": reason,
        "total_duration": SECOND,
        "load_duration": SECOND,
    }


def test_a_model_with_odd_letters_in_its_name() -> None:
    [line] = lines_in(Lines(PlayedClock().head(model='a"\\ü')).render([(0, Delta("x"))]))
    assert line["model"] == 'a"\\ü'


def test_the_stamp_is_the_time_of_day() -> None:
    moments = iter(
        [1_795_867_200_000_000_000, 1_795_867_200_123_456_789, 1_795_867_200_123_999_999, 1_795_867_201_000_001_000]
    )
    stamp = Stamp(lambda: next(moments))
    assert [stamp().decode() for _ in range(4)] == [
        "2026-11-28T12:00:00.000Z",
        "2026-11-28T12:00:00.123Z",
        "2026-11-28T12:00:00.123Z",
        "2026-11-28T12:00:01.000Z",
    ]


def test_an_answer_is_one_line_to_every_client() -> None:
    """Python's clients end lines where Unicode does."""
    ends = "a\n\r\x0b\x0c\x1c\x85\u2028\u2029b"
    lines = Lines(PlayedClock().head(model=ends))
    call = ToolUse("c", "f", '{"a":"\x85\u2028\u2029"}')
    written = lines.render([(0, Delta(ends))]) + lines.render([(0, Delta(ends))])
    written += lines.render([(0, Delta(reasoning=ends, tool_calls=[call]))]) + lines.render([(0, end_of(ending()))])
    read = [json.loads(line) for line in written.decode().splitlines()]
    assert [one["model"] for one in read] == [ends] * 4
    assert [one["message"]["content"] for one in read] == [ends, ends, "", ""]
    assert read[2]["message"]["thinking"] == ends
    assert read[2]["message"]["tool_calls"][0]["function"]["arguments"] == {"a": "\x85\u2028\u2029"}


def test_a_long_call_in_many_pieces_is_written_quickly() -> None:
    pieces = ['{"a":"', *["x"] * 60_000, '"}']
    calls = [ToolUse("c", "f", piece, n == 0, n == len(pieces) - 1) for n, piece in enumerate(pieces)]

    def write() -> None:
        lines = Lines(PlayedClock().head())
        [line] = lines_in(b"".join(lines.render([(0, Delta(tool_calls=[call]))]) for call in calls))
        assert line["message"]["tool_calls"][0]["function"]["arguments"] == {"a": "x" * 60_000}

    assert_cheap(2, write)
