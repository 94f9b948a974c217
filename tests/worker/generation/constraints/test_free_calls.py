"""Models that are free to call: text as they like, and calls that follow a schema or a grammar."""

import json
from pathlib import Path
from typing import Any

import pytest

from broker.wire.failure import FailureError
from broker.wire.work import Generate
from tests.worker.engine_runs import answer, run, without_count
from tests.worker.generation.constraints.guides import END, Guide, quoted
from tests.worker.generation.constraints.patches import GRAMMAR, NO_PATCHES, PATCH
from tests.worker.generation.scripted import THINK_TEMPLATE, TIME, TOOL_TEMPLATE, USER, WEATHER, parts, scripted
from worker.generation.calls.formats import _KNOWN, GENERIC, HARMONY
from worker.generation.calls.shapes import SHAPES
from worker.generation.constraints.bare_calls import BareCalls, bare_grammar
from worker.generation.constraints.call_grammars import BoundTool, calls_grammar
from worker.generation.constraints.free_calls import FreeCalls
from worker.generation.constraints.inputs import Input
from worker.generation.constraints.lark_pattern import expression_of

_FUNCTION: Any = WEATHER["function"]
STRICT: dict[str, Any] = {**WEATHER, "function": {**_FUNCTION, "strict": True}}
INPUT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
NOTE: dict[str, Any] = {"type": "function", "function": {"name": "note", "parameters": INPUT}}
SHORT = 'start: "say \\"" /[a-c]{2}/ LF\n%import common.LF'
UNWRITTEN = "start: A\nA: /[a-z ]+/ & ~/a+/"

RIGHT = ("<tool_call>", '{"name": "weather", ', '"arguments":', ' {"city": "Paris"}}', "</tool_call>")
WRONG = ("<tool_call>", '{"name": "weather", ', '"arguments":', ' {"city": "Oslo"}}', "</tool_call>")
NOTED = ("<tool_call>", '{"name": "note", ', '"arguments": {"input": ', '"any text', '"}}', "</tool_call>")


def test_a_call_that_follows_its_schema_is_what_the_model_says(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "Sure", *RIGHT)
    bound, free = parts(engine, tools=[STRICT, TIME]), parts(engine, tools=[WEATHER, TIME])
    assert {**bound, "prompt_tokens": 0} == {**free, "prompt_tokens": 0}
    assert (bound["text"], bound["tool_calls"]) == ("Sure", [("weather", {"city": "Paris"})])
    assert "ignored" not in bound


def test_a_call_that_does_not_is_led_back(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "Sure", *WRONG)
    assert parts(engine, tools=[WEATHER])["tool_calls"] == [("weather", {"city": "Oslo"})]
    for tools in ([STRICT], [TIME, STRICT]):
        got = parts(engine, tools=tools)
        [(name, arguments)] = got["tool_calls"]
        assert (name, arguments["city"] in {"Paris", "Rome"}) == ("weather", True)
        assert (got["text"], got["finish_reason"]) == ("Sure", "tool_calls")
    for stream in (False, True):
        got = answer(engine, messages=[USER], tools=[STRICT], one_call=True, stream=stream, temperature=0.0)
        [call] = got["tool_calls"]
        assert json.loads(call["arguments"])["city"] in {"Paris", "Rome"}


def test_an_input_follows_its_grammar(tmp_path: Path) -> None:
    engine = scripted(tmp_path, *NOTED)
    for more in ({}, {"required_tools": ["note"]}, {"required_tools": ["note"], "one_call": True}):
        got = parts(engine, tools=[TIME, NOTE], input_grammars={"note": SHORT}, **more)
        assert got["tool_calls"], more
        for name, arguments in got["tool_calls"]:
            assert name == "note"
            assert arguments.keys() == {"input"}
            text = arguments["input"]
            assert (text[:5], text[-1:], len(text)) == ('say "', "\n", 8)
            assert set(text[5:7]) <= set("abc")
        assert "ignored" not in got


def test_between_tags_too(tmp_path: Path) -> None:
    pieces = (
        "<tool_call>",
        "<function=note>",
        "<parameter=input>\n",
        "any text",
        "\n</parameter>",
        "</function>",
        "</tool_call>",
    )
    engine = scripted(tmp_path, *pieces, tool_parser="qwen3_coder", tags=("<tool_call>", "</tool_call>"))
    free = parts(engine, tools=[NOTE])
    assert free["tool_calls"] == [("note", {"input": "any text"})]
    got = parts(engine, tools=[NOTE], input_grammars={"note": SHORT})
    [(name, arguments)] = got["tool_calls"]
    assert (name, arguments["input"][:5], len(arguments["input"])) == ("note", 'say "', 8)
    # its terminal fits the closing tag too
    got = parts(engine, tools=[NOTE], input_grammars={"note": 'start: "(" start ")" | TEXT\nTEXT: /[^()]+/'})
    assert (got["tool_calls"], "ignored" in got) == ([("note", {"input": "any text"})], False)


def test_reasoning_and_text_stay_free(tmp_path: Path) -> None:
    thinks = ("I", " wonder: <tool", "</think>", "well", "<", "tool")
    engine = scripted(tmp_path, *thinks, *RIGHT, chat_template=THINK_TEMPLATE, after="<think>")
    got = parts(engine, tools=[STRICT])
    assert (got["reasoning"], got["text"]) == ("I wonder: <tool", "well<tool")
    assert got["tool_calls"] == [("weather", {"city": "Paris"})]


def test_beside_a_schema_for_the_text(tmp_path: Path) -> None:
    for folder, pieces in (("calls", WRONG), ("talks", ("Well",))):
        engine = scripted(tmp_path / folder, *pieces)
        got = parts(engine, tools=[STRICT], json_schema={"enum": ["sunny", "other"]})
        if folder == "calls":
            [(_, arguments)] = got["tool_calls"]
            assert arguments["city"] in {"Paris", "Rome"}
        else:
            assert json.loads(got["text"]) in ("sunny", "other")


def test_who_has_no_such_tool_pays_nothing(tmp_path: Path) -> None:
    generation = scripted(tmp_path, "x").generation
    prompt = generation._tokenizer.encode("[assistant] ")
    for tools in ([], [WEATHER], [NOTE]):
        answer, constraint = generation.answer(Generate(messages=[USER], tools=tools), prompt)
        assert generation.followers(Generate(messages=[USER], tools=tools), answer, constraint) == []
    assert generation._constraints._guide is None
    assert generation.answer(Generate(messages=[USER], tools=[STRICT]), prompt)[1] is not None


def test_what_cannot_be_bound_is_named(tmp_path: Path) -> None:
    unknown = scripted(tmp_path / "unknown", "Well", tags=(), tool_parser=None)
    got = parts(unknown, tools=[TIME, STRICT, NOTE], input_grammars={"note": SHORT})
    assert got["ignored"] == ["tools[1].function.strict", "tools[2].format"]
    json_form = scripted(tmp_path / "json", *NOTED)
    got = parts(json_form, tools=[TIME, NOTE], input_grammars={"note": UNWRITTEN})
    assert (got["ignored"], got["tool_calls"]) == (["tools[1].format"], [("note", {"input": "any text"})])
    got = parts(json_form, tools=[NOTE], input_grammars={"note": UNWRITTEN}, required_tools=["note"], one_call=True)
    assert got["ignored"] == ["tools[0].format"]
    part = {"type": "object", "properties": {}, "propertyNames": {"maxLength": 3}}
    loose = {"type": "function", "function": {"name": "note", "parameters": part, "strict": True}}
    assert parts(json_form, tools=[loose])["ignored"] == ["tools[0].propertyNames"]


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ("start: missing", "unknown name"),
        ("no grammar", "format: "),
        ("start: r0\n" + "\n".join(f'r{n}: "a"' for n in range(501)), "500 rules"),
        ('start: %json {"type": "object", "propertyNames": {}, "not": {"const": 1}}', "'not'"),
        ("start: /a/ //" + "a" * 200_000, "200000 characters"),
    ],
)
def test_a_grammar_that_is_none_is_refused_by_its_tool(tmp_path: Path, grammar: str, why: str) -> None:
    engine = scripted(tmp_path, "x")
    for more in ({}, {"required_tools": ["note"]}):
        request = Generate(messages=[USER], tools=[TIME, NOTE], input_grammars={"note": grammar}, **more)  # type: ignore[arg-type] # fields
        with pytest.raises(FailureError, match=r"tools\[1\]\.format") as caught:
            engine.generation.answer(request, [1])
        assert (caught.value.failure.param, why in caught.value.failure.message) == ("tools[1].format", True)


class Follows:
    """One answer by hand: which tokens may come next."""

    def __init__(self, guide: Guide, form: Any, tools: list[BoundTool], end: str) -> None:
        lark = calls_grammar(SHAPES[form.name], tools, end, guide.vocabulary.literal)
        self.guide = guide
        self.calls = FreeCalls(guide.lark(lark), form, guide.vocabulary, [guide.end])

    def say(self, text: str) -> None:
        for token in self.guide.tokens(text):
            allowed = self.calls.allowed(self.guide.size)
            assert allowed is None or allowed[token].item(), text
            self.calls.take(token)
        self.calls.check()

    def may_say(self, text: str) -> bool:
        [token] = self.guide.tokens(text)
        allowed = self.calls.allowed(self.guide.size)
        return allowed is None or bool(allowed[token].item())


ANY = [BoundTool("weather", {"type": "object"})]


def test_a_token_cannot_lead_past_a_mark() -> None:
    follows = Follows(Guide(pieces=("_call>x", "ca_call>", "<tool_call>y", "_call>")), GENERIC, ANY, "</tool_call>")
    assert follows.may_say("_call>x")
    assert not follows.may_say("<tool_call>y")
    follows.say("a <tool")
    assert [follows.may_say(text) for text in ("_call>x", "_call>", "ca_call>", "x")] == [False, True, True, True]
    follows.say("_call>")
    assert [follows.may_say(text) for text in ("_call>x", "{", "\n", "x")] == [False, True, True, False]
    follows.say('{"name": "weather", "arguments": {}}</tool_call>')
    assert follows.may_say("_call>x")
    follows.say(" and <tool_call>\n")
    assert not follows.may_say("x")


def test_an_answer_of_gpt_oss_begins_with_a_call_or_comes_to_it() -> None:
    marks = ("<|start|>", "<|channel|>", "<|message|>", "<|call|>", "<|constrain|>")
    call = '=functions.weather <|constrain|>json<|message|>{"a": 1}'
    for way in (
        "<|channel|>analysis<|message|>to=functions.x to=<|end|><|start|>assistant<|channel|>commentary to",
        "<|channel|>commentary to",
        " to",
    ):
        follows = Follows(Guide(special=marks), HARMONY, ANY, "")
        follows.say(way)
        assert not follows.may_say("x")
        follows.say(call)
        assert [follows.may_say(text) for text in ("<|end|>", "x", "<|start|>")] == [True, False, False]


LLAMA = 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
BARE: dict[str, Any] = {
    "tags": (),
    "tool_parser": None,
    "chat_template": TOOL_TEMPLATE.replace("[tools]", "[tools] " + LLAMA),
}


def test_a_call_that_nothing_marks(tmp_path: Path) -> None:
    pieces = ('{"name": "weather", "parameters": ', '{"city": ', '"Oslo"}}')
    engine = scripted(tmp_path / "calls", *pieces, **BARE)
    assert parts(engine, tools=[WEATHER])["tool_calls"] == [("weather", {"city": "Oslo"})]
    got = parts(engine, tools=[STRICT, TIME])
    [(name, arguments)] = got["tool_calls"]
    assert (name, arguments["city"] in {"Paris", "Rome"}, "ignored" in got) == ("weather", True, False)
    for folder, text in (("names", '{"names": [1]}'), ("words", "Sure: {")):
        engine = scripted(tmp_path / folder, text[:9], text[9:], **BARE)
        got = parts(engine, tools=[STRICT, TIME])
        assert (got["text"], got["tool_calls"], "ignored" in got) == (text, [], False)


@pytest.mark.parametrize("special", [(), ("<|python_tag|>",)])
def test_an_answer_that_begins_like_a_call_is_one(special: tuple[str, ...]) -> None:
    guide = Guide(special=special, pieces=('"name', '":', '{"name": "x'))
    form = next(known for _, known in _KNOWN if known.name == "llama3")
    tools = [BoundTool("weather", Input(SHORT, "[a-c]{2}").schema, is_strict=True)]

    def answer_begun(text: str = "") -> BareCalls:
        calls = BareCalls(guide.lark(bare_grammar(tools, guide.vocabulary)), form, guide.vocabulary, [guide.end])
        for token in guide.tokens(text):
            allowed = calls.allowed(guide.size)
            assert allowed is None or allowed[token].item(), text
            calls.take(token)
        calls.check()
        return calls

    def may_say(calls: BareCalls, text: str) -> bool:
        [token] = guide.tokens(text)
        allowed = calls.allowed(guide.size)
        return allowed is None or bool(allowed[token].item())

    call = '"name": "weather", "parameters": {"input": "ab"}'
    function = f'"function": {{{call}}}'
    tag = "<|python_tag|>"
    for whole in (
        f"{{{call}}}",
        f'\n{{ "type": "function", {call}}}',
        f'{{"type":"function",{function}}}',
        f"{tag}{{{call}}}",
    ):
        calls = answer_begun(whole)
        assert (may_say(calls, END), may_say(calls, "x")) == (True, False)
    assert not may_say(answer_begun(), '{"name": "x')
    assert [may_say(answer_begun('{"nam'), text) for text in ("e", "x")] == [True, True]
    assert [may_say(answer_begun('{"name'), text) for text in ('"', '":', "s", "x")] == [True, True, True, True]
    assert [may_say(answer_begun('{"name":'), text) for text in ("1", '"', "x")] == [False, True, False]
    assert not may_say(answer_begun('{"function'), '"')  # no call begins so
    for free in ('{"names": 1}', "[1]", 'Here: {"name": 3}', '{"namely"'):
        assert may_say(answer_begun(free), "x")


def test_a_patch_token_by_token() -> None:
    arguments = Input(GRAMMAR, expression_of(GRAMMAR))
    tool = BoundTool("apply", arguments.schema, is_strict=True, pattern=arguments.pattern)
    follows = Follows(Guide("<tool_call>", "</tool_call>"), GENERIC, [tool], "</tool_call>")
    follows.say(f'Now <tool_call>{{"name": "apply", "arguments": {{"input": {quoted(PATCH)}}}}}</tool_call> and ')
    for text in NO_PATCHES:
        with pytest.raises(AssertionError):
            follows.say(f'<tool_call>{{"name": "apply", "arguments": {{"input": {quoted(text)}}}}}</tool_call>')
        follows = Follows(follows.guide, GENERIC, [tool], "</tool_call>")


def test_other_requests_of_the_batch_are_not_disturbed(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "Sure", *WRONG)
    request = {"messages": [USER], "max_tokens": 200, "temperature": 0.0}
    requests = [
        {**request, "tools": [STRICT]},
        {**request, "tools": [WEATHER]},
        {**request, "seed": 1, "temperature": 1.0},
    ]
    alone = [without_count(run(engine, [one])[0][-1].body) for one in requests]
    together = [without_count(outputs[-1].body) for outputs in run(engine, requests)]
    for first, second in zip(alone, together, strict=True):
        for call in (*first.get("tool_calls", []), *second.get("tool_calls", [])):
            call["id"] = "id"
        assert first == second
