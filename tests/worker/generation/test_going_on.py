"""What a chat model says in its own form goes on in another process: reasoning, calls, and what binds them."""

from pathlib import Path
from typing import Any

import pytest

from broker.wire.failure import FailureError
from broker.wire.outputs import PARTIAL
from tests.scripted_model import make_scripted_model
from tests.worker.engine_runs import add, joined, load, run
from tests.worker.generation.constraints.test_free_calls import BARE, NOTE, SHORT, STRICT
from tests.worker.generation.scripted import CALL, TIME, USER, WEATHER, scripted
from tests.worker.generation.test_budget import THINKS, THOUGHT
from tests.worker.going_on import assert_goes_on, begun_after
from tests.worker.stepping import steps

SECOND = ("<tool_call>{", '"name": "time"', ', "arguments"', ": {}}", "</tool_call>.")
NAMES = ('{"na', 'mes": [', "1]", ", 2", "}")  # begins like a call that nothing marks, and is none
NOTED = ("<tool_call>", '{"name": "note", ', '"arguments": {"input": ', '"any text', '"}}', "</tool_call>")
PERSON = {
    "type": "object",
    "properties": {"age": {"enum": [7, 70]}},
    "required": ["age"],
    "additionalProperties": False,
}

# Pieces of the model, options of the model, fields of the request, and a field that the answer must have.
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Any], str]] = {
    "reasoning": ((*THOUGHT, "</think>", " Sunny", " day"), THINKS, {}, "reasoning"),
    "reasoning that the model opens": (("<think>", *THOUGHT, "</think>", "Sunny", " day"), {}, {}, "reasoning"),
    "budget": ((*THOUGHT, "</think>", "Sunny", " day"), THINKS, {"thinking_budget": 2}, "reasoning"),
    "budget and schema": (
        *((*THOUGHT, "</think>", "Sunny"), THINKS),
        *({"thinking_budget": 1, "json_schema": PERSON}, "reasoning"),
    ),
    "calls": (("Sure", ", ", *CALL, "\n", *SECOND, " Done"), {}, {"tools": [WEATHER, TIME]}, "tool_calls"),
    "a call at once": (CALL, {}, {"tools": [WEATHER]}, "tool_calls"),
    "half a mark": (("Sure", "<tool", "_box>", " and more"), {}, {"tools": [WEATHER]}, "text"),
    "a malformed call": (("<tool_call>", '{"name":', " 3}", "</tool_call>", "so"), {}, {"tools": [WEATHER]}, "text"),
    "strict": (("Sure", *CALL, "Done"), {}, {"tools": [STRICT, TIME]}, "tool_calls"),
    "an input": (NOTED, {}, {"tools": [TIME, NOTE], "input_grammars": {"note": SHORT}}, "tool_calls"),
    "no bare call": (NAMES, BARE, {"tools": [STRICT]}, "text"),
    "required": (CALL, {}, {"tools": [WEATHER], "required_tools": ["weather"]}, "tool_calls"),
    "one call": (("Sure", *CALL, "Done"), {}, {"tools": [WEATHER], "one_call": True}, "tool_calls"),
    "schema or calls": (CALL, {}, {"tools": [WEATHER], "json_schema": PERSON}, "tool_calls"),
    "schema, not calls": (("Well", *CALL), {}, {"tools": [WEATHER], "json_schema": PERSON}, "text"),
    "logprobs": (
        ("<think>", *THOUGHT, "</think>", "Sunny", " day", *CALL),
        {},
        {"tools": [WEATHER], "logprobs": 1},
        "logprobs",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_goes_on_after_every_output(tmp_path: Path, name: str) -> None:
    pieces, options, fields, has = CASES[name]
    engine = scripted(tmp_path, *pieces, **options)
    asked = {"messages": [USER], "temperature": 0.0, "max_tokens": 90, "stream": True, **fields}
    whole = assert_goes_on(engine, load(tmp_path, prompt_cache_tokens=0), **asked)
    assert joined(whole)[has]


def test_an_answer_that_is_not_streamed_has_everything_in_its_end(tmp_path: Path) -> None:
    pieces = ("<think>", *(f" thought{n}" for n in range(20)), "</think>", "Well", *CALL, "Done")
    engine = scripted(tmp_path, *pieces)
    asked = {"messages": [USER], "temperature": 0.0, "tools": [WEATHER], "max_tokens": 90, "tells_tokens": True}
    whole = assert_goes_on(engine, engine, **asked)
    assert [set(output.body) for output in whole[:-1]] == [{"text", "ids", "prompt"}, {"text", "ids"}]
    assert whole[-1].body["tool_calls"]


def test_calls_have_ids_of_the_request_and_of_their_number(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "Sure", *CALL, "\n", *SECOND)
    asked = {"messages": [USER], "temperature": 0.0, "tools": [WEATHER, TIME]}

    def ids(**more: Any) -> list[str]:
        return [call["id"] for outputs in run(engine, [{**asked, **more}]) for call in joined(outputs)["tool_calls"]]

    assert ids(key="a") == ids(key="a")
    assert len({*ids(key="a"), *ids(key="b"), *ids(), *ids()}) == 8


def test_a_gap_is_filled_by_two_processes(tmp_path: Path) -> None:
    marks = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>")
    pieces = ("return", " x", " +", " 1", "<|file_sep|>", "more")
    engine = load(make_scripted_model(tmp_path, pieces, tags=marks, after="<|fim_middle|>"))
    asked = {"prompt": "def f(x):\n    ", "suffix": "\n\nf(1)", "temperature": 0.0, "max_tokens": 20, "stream": True}
    for echo in (False, True):
        whole = assert_goes_on(engine, engine, **asked, echo=echo)
        assert joined(whole)["text"].endswith("return x + 1")


@pytest.mark.parametrize("asked", [{"tools": [WEATHER]}, {"tools": [STRICT]}, {}])
def test_the_first_token_is_told_whatever_it_says(tmp_path: Path, asked: dict[str, Any]) -> None:
    """A call may be said as a whole, at its end, and half a character with its other half: until then nobody would know
    that the prompt has been read, and a death would be blamed on it."""
    pieces = (*CALL, "Done") if asked else ("<th", "ink>", "hm", "</think>", "Sunny")
    engine = scripted(tmp_path, *pieces)
    add(engine, 1, messages=[USER], temperature=0.0, max_tokens=40, stream=True, tells_tokens=True, **asked)
    outputs = engine.step()
    while not engine.stats().decoding:
        outputs = engine.step()
    assert [(output.kind, output.body) for output in outputs] == [(PARTIAL, {"text": ""})]
    rest = steps(engine)
    assert rest[0].body["prompt"]["tokens"] > 0
    assert sum(output.body["text"] == "" and len(output.body) == 1 for output in rest) == 0


def test_a_call_is_checked_against_what_was_sent_of_it(tmp_path: Path) -> None:
    engine = scripted(tmp_path, *CALL)
    fields: dict[str, Any] = {"messages": [USER], "tools": [WEATHER], "required_tools": ["weather"], "stream": True}
    (whole,) = run(engine, [{**fields, "temperature": 0.0, "max_tokens": 40, "tells_tokens": True}])
    cut = next(at for at, output in enumerate(whole) if output.body.get("tool_calls", [{}])[0].get("arguments"))
    begun = begun_after(whole[: cut + 1])
    assert begun["characters"] > 0
    add(engine, 1, **fields, max_tokens=40, tells_tokens=True, begun=begun)
    steps(engine)
    with pytest.raises(FailureError, match="cannot go on"):
        add(engine, 2, **fields, max_tokens=40, tells_tokens=True, begun={**begun, "characters": 0})
