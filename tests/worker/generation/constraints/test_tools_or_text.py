"""Tools together with a schema or a grammar: the model calls, or its text follows. By models with scripted answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from broker.wire.work import Generate
from tests.worker.generation.scripted import THINK_TEMPLATE, TIME, TOOL_TEMPLATE, WEATHER, parts, scripted
from worker.generation.answer import Parts

CALL = ("<tool_call>", '{"name": "weather", ', '"arguments": {"city": "Paris"}}', "</tool_call>")
SCHEMA = {"enum": ["sunny", "other"]}
BOUND: dict[str, Any] = {"tools": [WEATHER, TIME], "json_schema": SCHEMA}


def test_a_model_that_wants_to_call_calls(tmp_path: Path) -> None:
    got = parts(scripted(tmp_path, *CALL), **BOUND)
    assert (got["tool_calls"], got["text"], got["finish_reason"]) == (
        [("weather", {"city": "Paris"})],
        "",
        "tool_calls",
    )


def test_a_model_that_wants_to_talk_follows_the_schema(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "Well", *CALL)
    got = parts(engine, **BOUND)
    assert json.loads(got["text"]) in SCHEMA["enum"]
    assert (got["tool_calls"], got["finish_reason"]) == ([], "stop")
    got = parts(engine, tools=[WEATHER], grammar='start: "yes"')
    assert (got["text"], got["tool_calls"]) == ("yes", [])


@pytest.mark.parametrize("thought", ["", "<think>I wonder</think>"])
def test_marks_inside_a_text_are_text(tmp_path: Path, thought: str) -> None:
    generation = scripted(tmp_path, "x").generation
    for text, calls in (('"<tool_call>{}</tool_call> <think>"', 0), ('<tool_call>{"name": "time"}</tool_call>', 1)):
        for size in (1, 7, 100):
            request = Generate(messages=[], **BOUND)
            tagged, _ = generation.answer(request, generation._tokenizer.encode("[assistant] "))
            assert tagged is not None
            got = Parts()
            for begin in range(0, len(thought + text), size):
                tagged.push((thought + text)[begin : begin + size], got)
            tagged.finish(got)
            assert ("".join(got.text), len(got.tool_calls)) == ("" if calls else text, calls)
            assert "".join(got.reasoning) == ("I wonder" if thought else "")
            assert (tagged.has_called, tagged.is_over) == (bool(calls), False)


@pytest.mark.parametrize("is_open", [False, True])
def test_reasoning_comes_first(tmp_path: Path, is_open: bool) -> None:
    options: dict[str, Any] = {"chat_template": THINK_TEMPLATE, "after": "<think>"} if is_open else {}
    begin = () if is_open else ("<think>",)
    thinks = (*begin, "I", " wonder", "</think>")
    got = parts(scripted(tmp_path / "calls", *thinks, *CALL, **options), **BOUND)
    assert (got["reasoning"], got["tool_calls"]) == ("I wonder", [("weather", {"city": "Paris"})])
    got = parts(scripted(tmp_path / "talks", *thinks, "Well", **options), **BOUND)
    assert (got["reasoning"], got["tool_calls"]) == ("I wonder", [])
    assert json.loads(got["text"]) in SCHEMA["enum"]


def test_several_calls_or_one(tmp_path: Path) -> None:
    second = ("<tool_", "call>", '{"name": "time"}', "</tool", "_call>")
    engine = scripted(tmp_path, *CALL, *second)
    calls = [("weather", {"city": "Paris"}), ("time", {})]
    assert parts(engine, **BOUND)["tool_calls"] == calls
    assert parts(engine, **BOUND, one_call=True)["tool_calls"] == calls[:1]


def test_required_is_a_call(tmp_path: Path) -> None:
    got = parts(scripted(tmp_path, "Well"), **BOUND, required_tools=["weather"], one_call=True)
    assert got["tool_calls"] == [("weather", {"city": "Paris"})]


def test_what_is_not_enforced_of_a_text_is_not_asked_of_calls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    schema = {"type": "array", "uniqueItems": True}
    got = parts(scripted(tmp_path, *CALL), tools=[WEATHER], json_schema=schema)
    assert (got["ignored"], len(got["tool_calls"])) == (["json_schema.uniqueItems"], 1)
    assert not caplog.records or "does not follow" not in caplog.text


def test_a_model_without_a_mark_for_calls_says_so(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "Well", tags=("<think>", "</think>"), tool_parser=None)
    for bound in ({"json_schema": SCHEMA}, {"grammar": 'start: "yes"'}):
        got = parts(engine, tools=[WEATHER], **bound)
        assert (got["ignored"], got["tool_calls"]) == (["tools"], [])
    assert "ignored" not in parts(engine, json_schema=SCHEMA)
    assert "ignored" not in parts(engine, json_schema=SCHEMA, tools=[WEATHER], required_tools=["weather"])


LLAMA = 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
BARE: dict[str, Any] = {
    "tags": (),
    "tool_parser": None,
    "chat_template": TOOL_TEMPLATE.replace("[tools]", "[tools] " + LLAMA),
}
PERSON = {
    "$ref": "#/$defs/person",
    "$defs": {"person": {"type": "object", "properties": {"name": {"type": "string"}}, "additionalProperties": False}},
}


def test_calls_that_nothing_marks(tmp_path: Path) -> None:
    # No piece begins inside what the grammar leaves no choice about: there llguidance takes the tokenizer's own pieces.
    pieces = ('{"name": "weather", "parameters": ', '{"city": ', '"Oslo"}}')
    engine = scripted(tmp_path, *pieces, **BARE)
    for schema in (SCHEMA, PERSON, {"type": "object"}):
        got = parts(engine, tools=[WEATHER, TIME], json_schema=schema)
        assert (got["tool_calls"], got["text"]) == ([("weather", {"city": "Oslo"})], "")
        assert (got["finish_reason"], "ignored" in got) == ("tool_calls", False)
    got = parts(engine, tools=[WEATHER], json_schema=SCHEMA, required_tools=["weather"], one_call=True)
    assert got["tool_calls"] in ([("weather", {"city": city})] for city in ("Paris", "Rome"))


@pytest.mark.parametrize("name", ["Anna", "weather"])
def test_a_text_that_begins_like_a_call_is_a_text(tmp_path: Path, name: str) -> None:
    pieces = (f'{{"name": "{name}', '"}')
    got = parts(scripted(tmp_path, *pieces, **BARE), tools=[WEATHER, TIME], json_schema=PERSON)
    assert (got["text"], got["tool_calls"], got["finish_reason"]) == ("".join(pieces), [], "stop")


def test_other_words_follow_the_schema_or_the_grammar(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "Well", **BARE)
    got = parts(engine, tools=[WEATHER], json_schema=SCHEMA)
    assert (json.loads(got["text"]) in SCHEMA["enum"], got["tool_calls"]) == (True, [])
    odd = {"type": "array", "uniqueItems": True, "maxItems": 1}
    assert parts(engine, tools=[WEATHER], json_schema=odd)["ignored"] == ["json_schema.uniqueItems"]
    got = parts(engine, tools=[WEATHER], grammar='start: "yes"')
    assert (got["text"], got["ignored"]) == ("yes", ["tools"])
