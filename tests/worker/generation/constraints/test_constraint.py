"""Answers that must follow a schema or a grammar, by a model whose own words are noise."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from broker.wire.failure import FailureError
from broker.wire.outputs import ERROR
from tests.scripted_model import make_scripted_model
from tests.timing import assert_below
from tests.worker.engine_runs import add, answer, assert_empty, joined, load, run, without_count
from tests.worker.generation.constraints.test_bounds import chain, in_much, in_object, rules
from tests.worker.generation.scripted import THINK_TEMPLATE, TIME, USER, WEATHER, parts, scripted
from worker.generation.answer import AnswerFormat, Parts
from worker.generation.constraints.native import check_readable
from worker.generation.reasoning import NO_REASONING
from worker.text.engine import TextEngine

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "degrees": {"type": "integer", "minimum": -9, "maximum": 99}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
GRAMMAR = 'start: ("yes" | "no") " " /[a-c]{3}/'


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TextEngine:
    return load(tiny_model)


@pytest.fixture(scope="module")
def roomy(tiny_model: Path) -> TextEngine:
    """For large tools, which are in the prompt."""
    return load(tiny_model, context_length=300_000)


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"seed": 1}, {"seed": 2, "top_k": 40}])
def test_a_schema_and_a_grammar_are_kept(engine: TextEngine, sampling: dict[str, Any]) -> None:
    got = answer(engine, messages=[USER], json_schema=SCHEMA, max_tokens=400, **sampling)
    value = json.loads(got["text"])
    assert set(value) == {"city", "degrees"}
    assert value["city"] in {"Paris", "Rome"}
    assert -9 <= value["degrees"] <= 99
    assert got["finish_reason"] == "stop"
    text = answer(engine, prompt="say", grammar=GRAMMAR, max_tokens=50, **sampling)["text"]
    word, rest = text.split(" ")
    assert word in {"yes", "no"}
    assert len(rest) == 3
    assert set(rest) <= set("abc")


def test_constraints_hold_inside_the_batch(engine: TextEngine) -> None:
    """Each says alone what it says among others, constrained or not, and all in one batch."""
    requests: list[dict[str, Any]] = [
        {"messages": [USER], "json_schema": SCHEMA, "seed": 5, "max_tokens": 300},
        {"prompt": "x", "grammar": GRAMMAR, "temperature": 0.0, "max_tokens": 50},
        {"prompt": "free", "temperature": 0.0, "max_tokens": 60},
        {"prompt": "free", "seed": 8, "max_tokens": 40, "repetition_penalty": 1.2},
        {"messages": [USER], "json_schema": {"enum": [1, None, "é€"]}, "seed": 6, "max_tokens": 30},
    ]
    alone = [without_count(run(engine, [fields])[0][-1].body) for fields in requests]
    assert [without_count(outputs[-1].body) for outputs in run(engine, requests)] == alone
    assert json.loads(alone[4]["text"]) in (1, None, "é€")


def test_a_call_can_be_required(engine: TextEngine) -> None:
    for names in (["weather"], ["weather", "time"]):
        got = answer(
            engine,
            messages=[USER],
            tools=[WEATHER, TIME],
            required_tools=names,
            one_call=True,
            temperature=0.0,
            max_tokens=400,
            logit_bias={str(t): 20.0 for t in engine.loaded.tokenizer.encode("}")},
        )
        (call,) = got["tool_calls"]
        assert call["name"] in names
        assert isinstance(json.loads(call["arguments"]), dict)
        assert (got["text"], got["finish_reason"]) == ("", "tool_calls")
        if names == ["weather"]:
            assert json.loads(call["arguments"])["city"] in {"Paris", "Rome"}


@pytest.mark.parametrize("is_reference", [False, True])
def test_a_required_call_has_an_object_of_arguments(engine: TextEngine, is_reference: bool) -> None:
    """By a model that prefers a number, and with parameters without a type."""
    place = {"properties": {"at": {"enum": ["x"]}}, "required": ["at"], "additionalProperties": False}
    parameters = {"$ref": "#/$defs/p", "$defs": {"p": place}} if is_reference else place
    got = answer(
        engine,
        messages=[USER],
        tools=[{"type": "function", "function": {"name": "go", "parameters": parameters}}],
        required_tools=["go"],
        one_call=True,
        temperature=0.0,
        max_tokens=200,
        logit_bias={str(engine.loaded.tokenizer.encode("7")[-1]): 90.0},
    )
    assert [(call["name"], call["arguments"]) for call in got["tool_calls"]] == [("go", '{"at": "x"}')]


def test_several_calls_can_be_made_where_one_is_required(engine: TextEngine) -> None:
    """By a model that would rather go on than end: those that were whole when its tokens ended are calls."""
    tokens = engine.loaded.tokenizer.encode
    fields: dict[str, Any] = {"messages": [USER], "tools": [WEATHER], "required_tools": ["weather"], "temperature": 0.0}
    more = {str(tokens(",")[-1]): 90.0}
    got = answer(engine, **fields, logit_bias=more, max_tokens=1000)
    calls = [(call["name"], set(json.loads(call["arguments"]))) for call in got["tool_calls"]]
    assert len(calls) > 1
    assert set(map(repr, calls)) == {repr(("weather", {"city"}))}
    assert len({call["id"] for call in got["tool_calls"]}) == len(calls)
    assert (got["text"], got["finish_reason"]) == ("", "length")
    fewer = {str(tokens("]")[-1]): 90.0}
    got = answer(engine, **fields, logit_bias=fewer, max_tokens=400)
    assert (len(got["tool_calls"]), got["finish_reason"]) == (1, "tool_calls")


@pytest.mark.parametrize("one_call", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_required_call_cut_short_is_dropped(engine: TextEngine, one_call: bool, stream: bool) -> None:
    fields = {"messages": [USER], "tools": [WEATHER], "required_tools": ["weather"], "temperature": 0.0}
    got = answer(engine, **fields, max_tokens=10, one_call=one_call, stream=stream)
    assert (got["text"], "tool_calls" in got, got["finish_reason"]) == ("", False, "length")


def test_reasoning_is_not_constrained_and_the_answer_is(tmp_path: Path) -> None:
    pieces = ("any", " thing", "</think>", "not JSON")
    options: dict[str, Any] = {"tags": ("<think>", "</think>"), "chat_template": THINK_TEMPLATE, "after": "<think>"}
    engine = load(make_scripted_model(tmp_path, pieces, **options))
    got = answer(engine, messages=[USER], json_schema={"enum": ["a tag"]}, temperature=0.0, max_tokens=60)
    assert (got["reasoning"], got["text"]) == ("any thing", '"a tag"')
    got = answer(engine, messages=[USER], tools=[WEATHER], required_tools=["weather"], temperature=0.0, max_tokens=100)
    assert (got["reasoning"], got["tool_calls"][0]["name"]) == ("any thing", "weather")


def test_a_text_does_not_end_inside_its_reasoning(tmp_path: Path) -> None:
    """Where an answer has to follow them, by a model that would rather end."""
    pieces = ("any", " thing", "</think>", "not JSON")
    options: dict[str, Any] = {"tags": ("<think>", "</think>"), "chat_template": THINK_TEMPLATE, "after": "<think>"}
    engine = load(make_scripted_model(tmp_path, pieces, **options))
    (eos,) = engine.loaded.tokenizer.eos_token_ids
    fields: dict[str, Any] = {"messages": [USER], "temperature": 0.0, "max_tokens": 100, "logit_bias": {str(eos): 50.0}}
    got = answer(engine, json_schema={"enum": ["a tag"]}, **fields)
    assert (got["reasoning"], got["text"], got["finish_reason"]) == ("any thing", '"a tag"', "stop")
    got = answer(engine, tools=[WEATHER], required_tools=["weather"], **fields)
    assert (got["reasoning"], got["tool_calls"][0]["name"]) == ("any thing", "weather")
    assert answer(engine, **fields)["completion_tokens"] == 1  # where nothing is asked for


@pytest.mark.parametrize("before", [(), ("\n",), (" ",)])
def test_reasoning_that_the_model_opens_is_not_constrained_either(tmp_path: Path, before: tuple[str, ...]) -> None:
    engine = scripted(tmp_path, *before, "<think>", "any", " thing", "</think>", "not JSON")
    got = parts(engine, json_schema={"enum": ["a tag"]})
    assert (got["reasoning"], got["text"], got["finish_reason"]) == ("any thing", '"a tag"', "stop")
    got = parts(engine, tools=[WEATHER], required_tools=["weather"], one_call=True)
    assert (got["reasoning"], got["text"]) == ("any thing", "")
    assert got["tool_calls"] == [("weather", {"city": "Paris"})]
    got = parts(engine, json_schema={"enum": ["a tag"]}, max_tokens=2 + len(before))
    assert (got["reasoning"], got["text"], got["finish_reason"]) == ("any", "", "length")


def test_a_tag_of_several_tokens_that_opens_reasoning(tmp_path: Path) -> None:
    pieces = ("<|channel>", "t", " any", "<channel|>", "not JSON")
    engine = scripted(tmp_path, *pieces, tags=("<|channel>", "<channel|>"))
    assert len(engine.loaded.tokenizer.think_start_tokens) == len("<|channel>") - 2  # the tag and each letter
    got = parts(engine, json_schema={"enum": ["a tag"]})
    assert (got["reasoning"], got["text"]) == (" any", '"a tag"')


def test_blanks_belong_to_the_reasoning_or_to_the_answer(tmp_path: Path) -> None:
    grammar = r"start: /\s?yes/"
    got = parts(scripted(tmp_path / "a", "\n", "<think>", "any", "</think>", "\nyes"), grammar=grammar)
    assert (got["reasoning"], got["text"]) == ("any", "\nyes")
    got = parts(scripted(tmp_path / "b", "\n", "yes"), grammar=grammar)
    assert (got["text"], "reasoning" in got) == ("\nyes", False)
    # If the grammar allows no blanks, only reasoning may follow them.
    got = parts(scripted(tmp_path / "c", "\n", "yes"), grammar='start: "yes"', max_tokens=3)
    assert (got["text"], "reasoning" in got) == ("", False)


def test_reasoning_that_the_prompt_has_closed_does_not_open_again(tmp_path: Path) -> None:
    template = THINK_TEMPLATE.replace("<think>", "<think>\n\n</think>\n\n")
    engine = scripted(tmp_path, "<think>", "any", "</think>", chat_template=template, after="\n")
    got = parts(engine, json_schema={"enum": ["a tag"]})
    assert (got["text"], "reasoning" in got) == ('"a tag"', False)


def test_tags_in_what_is_constrained_are_text(tmp_path: Path) -> None:
    tags = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    engine = load(make_scripted_model(tmp_path, ("x",), tags=tags, tool_parser="json_tools"))
    text, got = '"<think>a</think> <tool_call>b</tool_call>"', Parts()
    tagged = AnswerFormat(engine.loaded.tokenizer).constrained(NO_REASONING, is_call=False)
    for char in text:
        tagged.push(char, got)
    tagged.finish(got)
    assert got.body() == {"text": text}


def test_what_grows_over_the_limits_is_an_error_of_its_own(roomy: TextEngine) -> None:
    """Which shows only while the answer is made."""
    engine = roomy
    wide = {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(700)}}
    tool = {"type": "function", "function": {"name": "wide", "parameters": wide}}
    bound = {"messages": [USER], "temperature": 0.0, "max_tokens": 200}
    free = {"prompt": "free", "temperature": 0.0, "max_tokens": 40}
    alone = answer(engine, **free)
    requests: list[dict[str, Any]] = [
        {**bound, "json_schema": wide, "stream": True},
        {**bound, "tools": [tool], "required_tools": ["wide"]},
        free,
    ]
    *failed, last = run(engine, requests)
    assert without_count(last[-1].body) == alone
    for outputs, param in zip(failed, ("json_schema", "tools"), strict=True):
        assert outputs[-1].kind == ERROR
        assert (outputs[-1].body["code"], outputs[-1].body["param"]) == ("invalid_request", param)
        assert "cannot follow it any further: Parser Error: Current row has" in outputs[-1].body["message"]
        assert "\n" not in outputs[-1].body["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"json_schema": {"type": "nothing"}, "strict": True}, "json_schema"),
        ({"json_schema": {"minLength": -1}}, "json_schema"),
        ({"grammar": "start: missing"}, "grammar"),
        ({"grammar": "("}, "grammar"),
        ({"required_tools": ["weather"]}, "required_tools"),
    ],
)
def test_what_cannot_be_followed_is_refused(engine: TextEngine, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(FailureError) as raised:
        add(engine, 1, messages=[USER], **fields)
    assert raised.value.failure.param == param
    assert_empty(engine)


POISON = chain(1000, in_object)
LARK = "start: r0\n" + rules(6500)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"json_schema": POISON}, "json_schema"),
        ({"tools": [TIME, tool("f", POISON)], "required_tools": ["f"]}, "tools[1]"),
        ({"grammar": LARK}, "grammar"),
        ({"grammar": f"start: %json {json.dumps(POISON)}"}, "grammar"),
        ({"grammar": 'start: %json {"type": "integer", "multipleOf": 1000003}'}, "grammar"),
        ({"json_schema": {"type": "integer", "multipleOf": 1_000_003}, "strict": True}, "json_schema"),
    ],
)
def test_what_would_end_or_stall_the_process_is_refused(roomy: TextEngine, fields: dict[str, Any], param: str) -> None:
    def refuse() -> float:
        began = time.monotonic()
        with pytest.raises(FailureError) as raised:
            add(roomy, 1, messages=[USER], **fields)
        took = time.monotonic() - began
        assert (raised.value.failure.code, raised.value.failure.param) == ("invalid_request", param)
        assert raised.value.failure.message.startswith(param)
        assert_empty(roomy)
        return took

    assert_below(5, refuse)


@pytest.mark.parametrize("pattern", ["((a{1000}){1000}){1000}", "((a{100}){100}){100}", "a{100000}"])
def test_nested_repetitions_do_not_stall_the_batch(engine: TextEngine, pattern: str) -> None:
    schema = {"type": "string", "pattern": f"^{pattern}$"}

    def seconds() -> float:
        began = time.monotonic()
        answer(engine, messages=[USER], json_schema=schema, max_tokens=3)
        return time.monotonic() - began

    assert_below(2, seconds)


def test_a_matcher_needs_no_stack_of_the_main_thread() -> None:
    """Far more than the bounds let through."""
    for link in (in_object, in_much):
        check_readable(chain(900, link))


def test_a_schema_cannot_switch_off_the_naming(engine: TextEngine) -> None:
    options = {"x-guidance": {"lenient": True, "coerce_one_of": True}}
    schema = {"oneOf": [{"const": "a"}, {"enum": ["a", "b"]}], **options}
    assert answer(engine, messages=[USER], json_schema=schema, max_tokens=9)["ignored"] == ["json_schema.oneOf"]
    with pytest.raises(FailureError):
        add(engine, 1, messages=[USER], json_schema=schema, strict=True)


SET = {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "minItems": 3, "maxItems": 3}


@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_enforced_is_named_and_a_miss_is_logged(
    engine: TextEngine, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    schema = {**SET, "description": "d", "not": {"const": []}}
    (outputs,) = run(engine, [{"messages": [USER], "json_schema": schema, "stream": stream, "max_tokens": 200}])
    assert outputs[0].body["ignored"] == ["json_schema.uniqueItems", "json_schema.not"]
    assert not any("ignored" in output.body for output in outputs[1:])
    assert len(json.loads(joined(outputs)["text"])) == 3
    assert "an answer does not follow json_schema.uniqueItems, json_schema.not" in caplog.text


def test_an_answer_that_follows_is_not_logged(engine: TextEngine, caplog: pytest.LogCaptureFixture) -> None:
    schema = {**SET, "minItems": 1, "maxItems": 1}
    assert answer(engine, messages=[USER], json_schema=schema, max_tokens=99)["ignored"] == ["json_schema.uniqueItems"]
    assert "does not follow" not in caplog.text


@pytest.mark.parametrize(
    ("odd", "keyword"),
    [
        ({"type": "string", "format": "regex", "maxLength": 5}, "format"),
        ({"type": "string", "pattern": "^(?!b)a{3}$", "maxLength": 5}, "pattern"),
        ({"oneOf": [{"const": "a"}, {"enum": ["a", "b"]}]}, "oneOf"),
        ({"type": "integer", "minimum": 1, "maximum": 2**63}, "maximum"),
        ({"enum": ["a"], "not": {"const": "b"}}, "not"),
        ({"type": "string", "maxLength": 2**32}, "maxLength"),
        ({"type": "text", "maxLength": 5}, "type"),
        ({"$ref": "#/$defs/missing", "type": "string"}, "$ref"),
        ({"$ref": "https://example.org/x", "type": "string"}, "$ref"),
        (
            {"type": "object", "patternProperties": {"^a": {"const": 1}, "a$": {"const": 2}}, "maxProperties": 1},
            "patternProperties",
        ),
    ],
)
def test_strict_is_all_or_nothing(engine: TextEngine, odd: dict[str, Any], keyword: str) -> None:
    schema = {"type": "object", "properties": {"x": odd}, "required": ["x"], "additionalProperties": False}
    with pytest.raises(FailureError) as raised:
        add(engine, 1, messages=[USER], json_schema=schema, strict=True)
    assert raised.value.failure.param == "json_schema"
    assert repr(keyword) in raised.value.failure.message
    assert "coerce" not in raised.value.failure.message
    got = answer(engine, messages=[USER], json_schema=schema, max_tokens=5)
    assert got["ignored"] == [f"json_schema.{keyword}"]
    # One odd tool does not refuse a request, and it alone is named.
    tools = [WEATHER, tool("odd", schema)]
    got = answer(engine, messages=[USER], tools=tools, required_tools=["weather", "odd"], max_tokens=5)
    assert got["ignored"] == [f"tools[1].{keyword}"]
    tools[1]["function"]["strict"] = True
    with pytest.raises(FailureError) as raised:
        add(engine, 1, messages=[USER], tools=tools, required_tools=["weather", "odd"])
    assert raised.value.failure.param == "tools[1]"
    assert_empty(engine)


def test_two_tools_with_a_definition_of_the_same_name(engine: TextEngine) -> None:
    def of(name: str, value: str) -> dict[str, Any]:
        at = {"type": "object", "properties": {"at": {"$ref": "#/$defs/x"}}, "required": ["at"]}
        return tool(name, {**at, "additionalProperties": False, "$defs": {"x": {"const": value}}})

    tools = [of("one", "first"), of("two", "second")]
    for name, value in (("one", "first"), ("two", "second")):
        fields: dict[str, Any] = {"tools": tools, "required_tools": [name], "one_call": True, "max_tokens": 200}
        (call,) = answer(engine, messages=[USER], temperature=0.0, **fields)["tool_calls"]
        assert (call["name"], json.loads(call["arguments"])) == (name, {"at": value})
    got = answer(engine, messages=[USER], tools=tools, required_tools=["one", "two"], one_call=True, max_tokens=200)
    assert json.loads(got["tool_calls"][0]["arguments"])["at"] in ("first", "second")
