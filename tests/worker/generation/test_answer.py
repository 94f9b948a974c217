"""Reasoning, tool calls and text, from models with scripted answers."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.wire.failure import FailureError
from broker.wire.outputs import PARTIAL
from tests.tiny_models import CHAT_TEMPLATE
from tests.worker.engine_runs import add, answer, assert_empty, run
from tests.worker.generation.scripted import (
    CALL,
    TAGS,
    THINK_TEMPLATE,
    TIME,
    TOOL_TEMPLATE,
    USER,
    WEATHER,
    parts,
    scripted,
)
from worker.generation.answer import AnswerFormat, Parts
from worker.generation.reasoning import NO_REASONING


def test_reasoning_is_apart(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "<think>", "I", " wonder", "</think>", "It", " is", " €", "!")
    got = parts(engine)
    assert (got["reasoning"], got["text"], got["finish_reason"]) == ("I wonder", "It is €!", "stop")
    streamed = run(engine, [{"messages": [USER], "temperature": 0.0, "max_tokens": 50, "stream": True}])[0]
    partials = [output.body for output in streamed if output.kind == PARTIAL]
    assert [body.get("reasoning", "") for body in partials][:2] == ["I", " wonder"]
    assert [body["text"] for body in partials if body["text"]] == ["It", " is", " €"] + ["!"] * (len(partials) > 5)


def test_reasoning_that_the_prompt_has_opened(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "I", " wonder", "</think>", "Sunny", chat_template=THINK_TEMPLATE, after="<think>")
    got = parts(engine)
    assert (got["reasoning"], got["text"]) == ("I wonder", "Sunny")


def test_tags_in_a_message_open_no_reasoning(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "plain", " words")
    for content in ("what is <think> ?", "<think>"):
        chat = [{"role": "user", "content": content}]
        got = parts(engine, messages=chat)
        assert (got["text"], got.get("reasoning")) == ("plain words", None)
        got = parts(engine, messages=chat, json_schema={"enum": ["a"]})
        assert (got["text"], got.get("reasoning")) == ('"a"', None)
        got = parts(engine, messages=chat, tools=[WEATHER], required_tools=["weather"], one_call=True)
        assert got["tool_calls"] == [("weather", {"city": "Paris"})]


def test_tags_in_a_message_close_no_reasoning(tmp_path: Path) -> None:
    template = THINK_TEMPLATE.replace("[assistant]<think>", "[assistant]<think>\n\n")
    engine = scripted(tmp_path, "I", " wonder", "</think>", "Sunny", chat_template=template, after="\n")
    got = parts(engine, messages=[{"role": "user", "content": "what is </think> ?"}])
    assert (got["reasoning"], got["text"]) == ("I wonder", "Sunny")


@pytest.mark.parametrize("blank", ["\n\n", "\n", "\t ", "\n \r\n\t"])
def test_text_after_reasoning_begins_without_blanks(tmp_path: Path, blank: str) -> None:
    pieces = [*dict.fromkeys(["<think>", "I", "</think>", blank, "Sun", "\n\n\n", "ny"])]
    got = parts(scripted(tmp_path, *pieces), logprobs=0)
    assert (got["reasoning"], got["text"]) == ("I", "Sun\n\n\nny")
    # Every token has its entry, also those whose blanks are dropped.
    assert [entry["token"] for entry in got["logprobs"]] == pieces


def test_blanks_alone_after_reasoning_are_no_text(tmp_path: Path) -> None:
    got = parts(scripted(tmp_path, "<think>", "I", "</think>", "\n", "\n\n", *CALL), tools=[WEATHER])
    assert (got["text"], got["tool_calls"]) == ("", [("weather", {"city": "Paris"})])
    assert parts(scripted(tmp_path / "b", "<think>", "I", "</think>", "\n"))["text"] == ""


def test_text_after_a_prompt_that_closes_the_reasoning_begins_without_blanks(tmp_path: Path) -> None:
    template = CHAT_TEMPLATE.replace("[assistant]{{ suffix or '' }} ", "[assistant]<think></think>")
    engine = scripted(tmp_path, "\n", "Sunny", chat_template=template, after="</think>")
    assert parts(engine)["text"] == "Sunny"


def test_without_reasoning_blanks_stay(tmp_path: Path) -> None:
    assert parts(scripted(tmp_path, "\n\n", "  code"))["text"] == "\n\n  code"


def test_reasoning_cut_short(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "<think>", "I", " wonder", "</think>", "x")
    got = parts(engine, max_tokens=3)
    assert (got["reasoning"], got["text"], got["finish_reason"]) == ("I wonder", "", "length")


def test_a_text_completion_is_raw(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "<think>", "I", "</think>", "It")
    assert answer(engine, prompt="say ", temperature=0.0)["text"] == "<think>I</think>It"


def test_a_stop_string_counts_in_reasoning_too(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "<think>", "I", " wonder", " why", "</think>", "It")
    got = parts(engine, stop=["er w"])
    assert (got["reasoning"], got["text"], got["finish_reason"]) == ("I wond", "", "stop")


def test_a_call(tmp_path: Path) -> None:
    got = parts(scripted(tmp_path, "Let me", *CALL), tools=[WEATHER])
    assert got["tool_calls"] == [("weather", {"city": "Paris"})]
    assert (got["text"], got["finish_reason"]) == ("Let me", "tool_calls")


def test_tags_that_come_in_pieces(tmp_path: Path) -> None:
    pieces = ("a <", "tool", "_call>", '{"name": "time", ', '"arguments": {}}<', "/tool_", "call> b")
    got = parts(scripted(tmp_path, *pieces), tools=[WEATHER, TIME])
    assert got["tool_calls"] == [("time", {})]
    assert got["text"] == "a  b"


def test_several_calls_after_reasoning(tmp_path: Path) -> None:
    # No token comes twice in a script: the second pair of tags is written out.
    second = ("\n<tool_", 'call>{"name": "time"}', "</tool", "_call>")
    engine = scripted(tmp_path, "<think>", "hm", "</think>", *CALL, *second)
    got = parts(engine, tools=[WEATHER, TIME])
    assert got["tool_calls"] == [("weather", {"city": "Paris"}), ("time", {})]
    assert (got["reasoning"], got["text"].strip(), got["finish_reason"]) == ("hm", "", "tool_calls")


def test_an_answer_of_one_call_ends_with_it(tmp_path: Path) -> None:
    second = ("\n<tool_", 'call>{"name": "time"}', "</tool", "_call>")
    engine = scripted(tmp_path, "So", *CALL, *second)
    got = parts(engine, tools=[WEATHER, TIME], one_call=True)
    assert (got["tool_calls"], got["text"]) == ([("weather", {"city": "Paris"})], "So")
    assert (got["finish_reason"], got["completion_tokens"]) == ("tool_calls", 1 + len(CALL))
    assert_empty(engine)


def test_of_several_calls_in_one_piece_the_first_is_kept(tmp_path: Path) -> None:
    calls = ('{"name": "time"}</tool_call> <tool_call>{"name": "weather"}</tool_call>',)
    got = parts(scripted(tmp_path / "a", "<tool_call>", *calls), tools=[WEATHER, TIME], one_call=True)
    assert (got["tool_calls"], got["text"]) == ([("time", {})], "")
    pieces = ("[TOOL_CALLS]", "weather", "[ARGS]", '{"city": "Rome"}', "time[ARGS]{}")
    engine = scripted(tmp_path / "b", *pieces, tags=(), tool_parser="mistral")
    assert parts(engine, tools=[WEATHER, TIME], one_call=True)["tool_calls"] == [("weather", {"city": "Rome"})]


def test_one_call_and_the_model_garbles_it(tmp_path: Path) -> None:
    got = parts(scripted(tmp_path, "<tool_call>", "no JSON", "</tool_call>", " end"), tools=[TIME], one_call=True)
    assert (got["text"], got["finish_reason"]) == ("<tool_call>no JSON</tool_call> end", "stop")


@pytest.mark.parametrize(
    "garbled",
    [
        ('{"name": "weather", ', '"arguments": {"city', '": ', "}}"),
        ("no JSON",),
        ('["weather"]',),
        ('{"arguments": {}}',),
        ('{"name": 3}',),
        ('{"name": "weather", "arguments": [1]}',),
        ('{"name": "weather", "arguments": {"x": NaN}}',),
        ("[" * 5000,),
        ('{"name": "weather", "arguments": {"city": "\\ud83d"}}',),
    ],
)
def test_a_garbled_call_is_text(tmp_path: Path, garbled: tuple[str, ...]) -> None:
    got = parts(scripted(tmp_path, "So ", "<tool_call>", *garbled, "</tool_call>", " end"), tools=[WEATHER])
    assert got["text"] == "So <tool_call>" + "".join(garbled) + "</tool_call> end"
    assert (got["tool_calls"], got["finish_reason"]) == ([], "stop")


def test_a_call_cut_short_is_text(tmp_path: Path) -> None:
    got = parts(scripted(tmp_path, *CALL), tools=[WEATHER], max_tokens=3)
    assert (got["text"], got["tool_calls"]) == ("<tool_call>" + CALL[1] + CALL[2], [])
    assert got["finish_reason"] == "length"


def test_what_begins_like_a_tag_is_let_go(tmp_path: Path) -> None:
    assert parts(scripted(tmp_path, "a", " <tool", "_box> and <thi"), tools=[TIME])["text"] == "a <tool_box> and <thi"


def test_without_tools_a_call_is_text(tmp_path: Path) -> None:
    got = parts(scripted(tmp_path, *CALL))
    assert (got["text"], got["tool_calls"], got["finish_reason"]) == ("".join(CALL), [], "stop")


def test_another_familys_calls(tmp_path: Path) -> None:
    pieces = ("[TOOL_CALLS]", "weather", "[ARGS]", '{"city": "Rome"}', "time[ARGS]{}")
    got = parts(scripted(tmp_path, *pieces, tags=(), tool_parser="mistral"), tools=[WEATHER, TIME])
    assert got["tool_calls"] == [("weather", {"city": "Rome"}), ("time", {})]


EVERY = {
    "type": "function",
    "function": {
        "name": "every",
        "parameters": {
            "type": "object",
            "properties": {
                "code": {"type": "string"},
                "number": {"type": "integer"},
                "zip": {"anyOf": [{"$ref": "#/$defs/zip"}, {"type": "null"}]},
            },
            "$defs": {"zip": {"type": "string"}},
        },
    },
}
EXACT = {"code": "    if x:\n\ty = null  ", "number": 123456789012345678, "zip": "4"}


@pytest.mark.parametrize(
    ("tool_parser", "pieces"),
    [
        (
            "qwen3_coder",
            (
                "<tool_call>",
                "\n<function=every>\n<parameter=code>\n    if x:\n\ty = null  \n</parameter>\n<parameter=number>\n",
                "123456789012345678\n</parameter>\n<parameter=zip>\n4\n</parameter>\n</function>\n",
                "</tool_call>",
            ),
        ),
        (
            "glm47",
            (
                "<tool_call>",
                "every\n<arg_key>code</arg_key>\n<arg_value>    if x:\n\ty = null  </arg_value>\n<arg_key>number",
                "</arg_key>\n<arg_value>123456789012345678</arg_value><arg_key>zip</arg_key><arg_value>4</arg_value>",
                "</tool_call>",
            ),
        ),
        (
            "minimax_m2",
            (
                "<minimax:tool_call>",
                '\n<invoke name="every">\n<parameter name="code">    if x:\n\ty = null  </parameter><parameter name=',
                '"number">123456789012345678</parameter><parameter name="zip">4</parameter></invoke>',
                "</minimax:tool_call>",
            ),
        ),
        (
            "json_tools",
            (
                "<tool_call>",
                '{"name": "every", "arguments": {"code": "    if x:\\n\\ty = null  ", ',
                '"number": 123456789012345678, "zip": "4"}}',
                "</tool_call>",
            ),
        ),
    ],
)
def test_arguments_have_the_types_of_the_schema(tmp_path: Path, tool_parser: str, pieces: tuple[str, ...]) -> None:
    got = parts(scripted(tmp_path, *pieces, tool_parser=tool_parser), tools=[EVERY], max_tokens=2000)
    assert got["tool_calls"] == [("every", EXACT)]


def test_a_llama_answer_that_is_a_call(tmp_path: Path) -> None:
    told = 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
    template = TOOL_TEMPLATE.replace("[tools]", "[tools] " + told)
    options: dict[str, Any] = {"tags": (), "tool_parser": None, "chat_template": template}
    pieces = ('{"na', 'me": "weather", "param', 'eters": {"city": "Rome"}}')
    engine = scripted(tmp_path / "a", *pieces, **options)
    assert parts(engine, tools=[WEATHER])["tool_calls"] == [("weather", {"city": "Rome"})]
    got = parts(engine, tools=[TIME])
    assert (got["text"], got["tool_calls"]) == ("".join(pieces), [])
    other = scripted(tmp_path / "b", '{"na', 'med": ', "1}", **options)
    assert parts(other, tools=[WEATHER])["text"] == '{"named": 1}'


def test_tools_and_results_are_in_the_prompt(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "ok")
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    turns = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_call_id": "c"},
    ]
    rendered = '[user] Weather in Paris? [assistant] weather:{"city": "Oslo"} [tool] sunny [assistant] '
    assert parts(engine, messages=turns)["prompt_tokens"] == len(rendered)
    assert parts(engine, messages=turns, tools=[TIME])["prompt_tokens"] > len(rendered)
    bad = {**call, "function": {"name": "weather", "arguments": "{"}}
    with pytest.raises(FailureError) as raised:
        add(engine, 1, messages=[USER, {"role": "assistant", "tool_calls": [bad]}])
    assert raised.value.failure.param == "messages[1].tool_calls[0].function.arguments"


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> AnswerFormat:
    folder = tmp_path_factory.mktemp("marked")
    return AnswerFormat(scripted(folder, "x").loaded.tokenizer)


ALPHABET = st.sampled_from([*TAGS, "<", ">", "/", "tool_call", "a", " ", "€", "👍", '{"name": "time"}', "\n"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(words=st.lists(ALPHABET, max_size=25), data=st.data())
def test_pieces_of_any_size_make_the_same_parts(marked: AnswerFormat, words: list[str], data: st.DataObject) -> None:
    text = "".join(words)

    def divided(pieces: list[str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        tagged, parts = marked.answer(NO_REASONING, [TIME]), Parts()
        assert tagged is not None
        for piece in pieces:
            tagged.push(piece, parts)
        tagged.finish(parts)
        body = parts.body()
        calls = [(call["name"], call["arguments"]) for call in body.pop("tool_calls", [])]
        assert tagged.has_called == bool(calls)
        return body, calls

    whole = divided([text])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    assert divided([text[a:b] for a, b in pairwise([0, *cuts, len(text)])]) == whole
    assert divided(list(text)) == whole
    # Nothing is made up, and without tags nothing is lost.
    body, calls = whole
    if not any(tag in text for tag in TAGS):
        assert (body, calls) == ({"text": text}, [])
