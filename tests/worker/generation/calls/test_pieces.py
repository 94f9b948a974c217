"""Forced calls are sent as they are written."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.wire.outputs import FINAL
from tests.worker.engine_runs import joined, load, run
from tests.worker.generation.scripted import TIME, USER, WEATHER, parts, scripted
from worker.generation.calls.pieces import CallPieces, add_piece, joined_calls
from worker.generation.tools import whole_calls
from worker.text.engine import TextEngine

VALUES = st.recursive(
    st.text() | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = st.dictionaries(st.text(max_size=5), VALUES, max_size=4)
CALLS = st.lists(
    st.builds(lambda name, arguments: {"name": name, "arguments": arguments}, st.text(min_size=1), ARGUMENTS),
    min_size=1,
    max_size=3,
)

# Arguments of some length, so that they come in several pieces.
WORDS = {
    "type": "function",
    "function": {
        "name": "say",
        "parameters": {
            "type": "object",
            "properties": {"words": {"type": "string", "maxLength": 30}, "loud": {"type": "boolean"}},
            "required": ["words", "loud"],
            "additionalProperties": False,
        },
    },
}


def entries_of(texts: list[str]) -> list[dict[str, Any]]:
    """The entries of the wire for these pieces of text, each of which is one output."""
    pieces = CallPieces()
    entries: list[dict[str, Any]] = []
    for text in texts:
        output: list[Any] = []
        for piece in pieces.push(text):
            add_piece(output, piece)
        entries += [piece.body() for piece in output]
    return entries


@given(CALLS, st.booleans(), st.sampled_from([None, 1]), st.booleans(), st.data())
def test_pieces_are_the_calls_however_the_text_is_cut(
    calls: list[dict[str, Any]], is_list: bool, indent: int | None, ascii_: bool, data: st.DataObject
) -> None:
    calls = calls if is_list else calls[:1]
    text = json.dumps(calls if is_list else calls[0], indent=indent, ensure_ascii=ascii_)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)) | {0, len(text)})
    texts = [text[begin:end] for begin, end in pairwise(cuts)]
    found = joined_calls(entries_of(texts))
    assert [{"name": call["name"], "arguments": json.loads(call["arguments"])} for call in found] == calls
    assert len({call["id"] for call in found}) == len(calls)
    # A text that ends early has the calls that are complete.
    begun = entries_of(texts[:-1])
    assert len(joined_calls(begun)) == len(whole_calls("".join(texts[:-1])))
    for entry in begun:
        assert entry["arguments"] or entry.get("piece") == "first"


def test_name_and_arguments_come_as_soon_as_they_are_certain() -> None:
    texts = [
        '[{"na',
        'me": "f',
        '"',
        ', "arguments"',
        ": ",
        '{"a',
        '": "}\\',
        '""',
        "}",
        "}",
        ', {"name": "g", "arguments": {}}]',
    ]
    entries = [{name: entry.get(name) for name in ("name", "arguments", "piece")} for entry in entries_of(texts)]
    f: dict[str, Any] = {"name": "f", "arguments": "", "piece": "middle"}
    assert entries == [
        {**f, "piece": "first"},
        {**f, "arguments": '{"a'},
        {**f, "arguments": '": "}'},
        {**f, "arguments": '\\""'},
        {**f, "arguments": "}", "piece": "last"},
        {"name": "g", "arguments": "{}", "piece": None},
    ]


# ---- with a model -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TextEngine:
    return load(tiny_model)


def streamed(engine: TextEngine, **fields: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The entries of the calls of all outputs, and the end."""
    asked = {"messages": [USER], "temperature": 0.0, "max_tokens": 300, "stream": True, **fields}
    [outputs] = run(engine, [asked])
    assert outputs[-1].kind == FINAL
    return [entry for output in outputs for entry in output.body.get("tool_calls", [])], outputs[-1].body


FORCED: dict[str, Any] = {"tools": [WORDS, TIME], "required_tools": ["say"], "one_call": True}


@pytest.mark.parametrize(("temperature", "one_call"), [(0.0, True), (1.0, False)])
def test_a_forced_call_arrives_as_it_is_written(engine: TextEngine, temperature: float, one_call: bool) -> None:
    fields = {**FORCED, "one_call": one_call, "seed": 4, "temperature": temperature, "max_tokens": 1000}
    entries, end = streamed(engine, **fields)
    assert end["finish_reason"] == "tool_calls"
    assert entries[0] == {**entries[0], "name": "say", "arguments": "", "piece": "first"}
    assert len(entries) > 20  # a byte is a token of this model
    [whole] = run(engine, [{"messages": [USER], **fields}])
    found, expected = joined_calls(entries), whole[0].body["tool_calls"]
    assert [(call["name"], json.loads(call["arguments"])) for call in found] == [
        (call["name"], json.loads(call["arguments"])) for call in expected
    ]


def test_a_call_that_max_tokens_cuts_has_no_last_piece(engine: TextEngine) -> None:
    _, whole = streamed(engine, **FORCED)
    most = whole["completion_tokens"] - 6
    entries, end = streamed(engine, **FORCED, max_tokens=most)
    assert (end["finish_reason"], {entry["piece"] for entry in entries}) == ("length", {"first", "middle"})
    assert json.loads("".join(entry["arguments"] for entry in entries) + "}").keys() == {"words", "loud"}
    [[alone]] = run(engine, [{"messages": [USER], "temperature": 0.0, "max_tokens": most, **FORCED}])
    assert (alone.body["finish_reason"], alone.body.get("tool_calls")) == ("length", None)


def test_a_call_that_a_stop_string_cuts_has_no_last_piece(engine: TextEngine) -> None:
    entries, end = streamed(engine, **FORCED, stop=['"loud"'])
    assert (end["finish_reason"], end["stop_string"]) == ("stop", '"loud"')
    assert {entry["piece"] for entry in entries} == {"first", "middle"}


CALL = ("<tool_call>", '{"name": "weather", ', '"arguments":', ' {"city": ', '"Paris"}}', "</tool_call>")
_FUNCTION: Any = WEATHER["function"]
STRICT = {**WEATHER, "function": {**_FUNCTION, "strict": True}}


def test_a_call_that_is_bound_in_the_models_own_form_comes_in_pieces(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "Well", *CALL, "Done")
    entries, end = streamed(engine, tools=[STRICT, TIME])
    assert [(entry["name"], entry["piece"], entry["arguments"]) for entry in entries] == [
        ("weather", "first", ""),
        ("weather", "middle", '{"city": '),
        ("weather", "last", '"Paris"}'),
    ]
    assert end["finish_reason"] == "tool_calls"
    got = parts(engine, tools=[STRICT, TIME])  # the same as in one piece
    assert (got["text"], got["tool_calls"]) == ("WellDone", [("weather", {"city": "Paris"})])
    entries, end = streamed(engine, tools=[STRICT, TIME], max_tokens=5)
    assert ([entry["piece"] for entry in entries], end["finish_reason"]) == (["first", "middle"], "length")


def test_so_do_several_in_a_list(tmp_path: Path) -> None:
    call = (
        '[{"name": "weather", ',
        '"arguments":',
        ' {"city": ',
        '"Paris"}}',
        ', {"name": "time",',
        ' "arguments": {}',
    )
    tags = ("<TOOLCALL>", "</TOOLCALL>")
    engine = scripted(tmp_path, tags[0], *call, "}]", tags[1], "Done", tags=tags, tool_parser=None)
    fields: dict[str, Any] = {"tools": [STRICT, TIME]}
    entries, _ = streamed(engine, **fields)
    assert [(entry["name"], entry["piece"], entry["arguments"]) for entry in entries[3:]] == [
        ("time", "first", ""),
        ("time", "middle", "{"),
        ("time", "last", "}"),
    ]
    got = parts(engine, **fields)
    assert (got["text"], got["tool_calls"]) == ("Done", [("weather", {"city": "Paris"}), ("time", {})])
    entries, end = streamed(engine, **fields, one_call=True)  # ends where the first one ends
    assert [call["name"] for call in joined_calls(entries)] == ["weather"]
    assert (end["finish_reason"], end["completion_tokens"]) == ("tool_calls", 5)


def test_a_call_that_nothing_binds_comes_in_one_piece(tmp_path: Path) -> None:
    entries, end = streamed(scripted(tmp_path, *CALL), tools=[WEATHER])
    assert [(entry.get("piece"), entry["arguments"]) for entry in entries] == [(None, '{"city": "Paris"}')]
    assert end["finish_reason"] == "tool_calls"


def test_pieces_have_their_logprobs(engine: TextEngine) -> None:
    fields = {"messages": [USER], "temperature": 0.0, "max_tokens": 300, "logprobs": 0, **FORCED}
    whole, pieces = (joined(outputs) for outputs in run(engine, [fields, {**fields, "stream": True}]))
    assert [entry["bytes"] for entry in whole["logprobs"]] == [entry["bytes"] for entry in pieces["logprobs"]]
