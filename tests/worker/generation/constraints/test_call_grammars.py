"""Calls in the forms of families: what may follow the mark of a call, and that it is read as it is bound."""

# ruff: noqa: RUF001 # DeepSeek's marks have a bar of full width

import json
from collections.abc import Callable
from typing import Any

import pytest
from mlx_lm.tool_parsers import kimi_k2

from tests.worker.generation.constraints.guides import Guide, quoted
from tests.worker.generation.constraints.patches import GRAMMAR, NO_PATCHES, PATCH
from worker.generation.calls import formats, readers
from worker.generation.calls.harmony import read_message
from worker.generation.calls.shapes import SHAPES, TaggedCalls
from worker.generation.constraints.call_grammars import BoundTool, UnboundError, calls_grammar, check_bound
from worker.generation.constraints.inputs import Input
from worker.generation.constraints.lark_pattern import expression_of

SPECIAL = ("[ARGS]", "[TOOL_CALLS]", "[CALL_ID]", "<|message|>", "<|channel|>", "<|constrain|>", "<|tool_call_end|>")
GUIDE = Guide("</tool_call>", "<tool_call>", special=SPECIAL)

PATTERN = expression_of(GRAMMAR)
SUM = 'start: sum\nsum: part ("+" part)*\npart: /[0-9]+/ | "(" sum ")"'
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "where"},
        "unit": {"type": "string", "enum": ["c", "f"]},
        "days": {"type": "integer", "minimum": 1},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
    "$defs": {"tag": {"type": "string"}},
}
APPLY = BoundTool("apply", Input(GRAMMAR, PATTERN).schema, is_strict=True, pattern=PATTERN)
WEATHER = BoundTool("weather", PARAMETERS, is_strict=True)
ANYTHING = BoundTool("weather_map", {"type": "object"})
TOOLS = [APPLY, WEATHER, ANYTHING]
FUNCTIONS = [{"type": "function", "function": {"name": tool.name, "parameters": tool.arguments}} for tool in TOOLS]

ENDS = {
    "json_tools": "</tool_call>",
    "generic": "</tool_call>",
    "qwen3_coder": "</tool_call>",
    "seed": "</seed:tool_call>",
    "glm47": "</tool_call>",
    "longcat": "</longcat_tool_call>",
    "hunyuan": "</tool_call:opensource>",
    "minimax_m2": "</minimax:tool_call>",
    "muse_spark": "</atem:function_calls>",
    "dsml": "</｜DSML｜tool_calls>",
    "kimi_k2": "<|tool_calls_section_end|>",
    "deepseek": "<｜tool▁calls▁end｜>",
    "minicpm5": "</function>",
    "cohere": "<|END_ACTION|>",
    "nemotron": "</TOOLCALL>",
    "tool_calls": "</tool_calls>",
    "functionary": "</function>",
    "solar": "<|tool_call:end|>",
}
READERS = {found.name: found.read for _, found in formats._KNOWN + formats._LAST} | formats._READERS
READERS |= {"generic": readers.read_json, "harmony": read_message, "kimi_k2": kimi_k2.parse_tool_call}

Arguments = dict[str, Any]


def in_json(name: str, arguments: Arguments, keys: tuple[str, str] = ("name", "arguments")) -> str:
    return json.dumps({keys[0]: name, keys[1]: arguments}, ensure_ascii=False)


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


Write = Callable[[str, Arguments], str]


def objects(before: str, after: str, keys: tuple[str, str] = ("name", "arguments")) -> Write:
    return lambda name, arguments: before + in_json(name, arguments, keys) + after


def headed(call: str) -> Write:
    return lambda name, arguments: call.replace("NAME", name).replace("ARGUMENTS", as_text(arguments))


def tagged(head: str, opening: str, close: str, end: str, flags: tuple[str, str] = ("", "")) -> Write:
    """flags: in place of FLAG for a text and for anything else."""

    def argument(key: str, value: Any) -> str:
        flag = flags[0] if isinstance(value, str) else flags[1]
        return opening.replace("KEY", key).replace("FLAG", flag) + as_text(value) + close

    def write(name: str, arguments: Arguments) -> str:
        return head.replace("NAME", name) + "\n".join(argument(*one) for one in arguments.items()) + end

    return write


_FUNCTIONS = tagged("\n<function=NAME>\n", "<parameter=KEY>\n", "\n</parameter>", "\n</function>\n")

# How models of a form write a call, as their templates have it, without the mark that begins it.
WRITTEN: dict[str, Write] = {
    "json_tools": objects("\n", "\n"),
    "generic": objects("\n", "\n"),
    "nemotron": objects("[", "]"),
    "granite": objects("[", "]"),
    "gigachat": objects("", ""),
    "tool_calls": objects("\n", "\n"),
    "cohere": lambda name, arguments: (
        '[\n    {"tool_call_id": "0", ' + in_json(name, arguments, ("tool_name", "parameters"))[1:] + "\n]"
    ),
    "mistral": headed("NAME[ARGS]ARGUMENTS"),
    "harmony": headed("=functions.NAME <|constrain|>json<|message|>ARGUMENTS"),
    "kimi_k2": headed("<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>ARGUMENTS<|tool_call_end|>"),
    "deepseek": headed("<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```<｜tool▁call▁end｜>"),
    "functionary": headed("NAME>ARGUMENTS"),
    "solar": headed("id_1<|tool_call:name|>NAME<|tool_call:args|>ARGUMENTS"),
    "qwen3_coder": _FUNCTIONS,
    "seed": tagged("\n<function=NAME>\n", "<parameter=KEY>", "</parameter>", "\n</function>\n"),
    "glm47": tagged("NAME\n", "<arg_key>KEY</arg_key>\n<arg_value>", "</arg_value>", "\n"),
    "longcat": tagged(
        "NAME\n", "<longcat_arg_key>KEY</longcat_arg_key>\n<longcat_arg_value>", "</longcat_arg_value>", "\n"
    ),
    "hunyuan": tagged(
        "NAME<tool_sep:opensource>\n",
        "<arg_key:opensource>KEY</arg_key:opensource><arg_value:opensource>",
        "</arg_value:opensource>",
        "",
    ),
    "minimax_m2": tagged('\n<invoke name="NAME">\n', '<parameter name="KEY">', "</parameter>", "\n</invoke>\n"),
    "muse_spark": tagged(
        '<atem:invoke name="NAME">', '<atem:parameter name="KEY">', "</atem:parameter>", "</atem:invoke>"
    ),
    "minicpm5": tagged('"NAME">', '<param name="KEY">', "</param>", ""),
    "dsml": tagged(
        '\n<｜DSML｜invoke name="NAME">\n',
        '<｜DSML｜parameter name="KEY" string="FLAG">',
        "</｜DSML｜parameter>",
        "\n</｜DSML｜invoke>\n",
        ("true", "false"),
    ),
}

GOOD: list[tuple[str, Arguments]] = [
    ("apply", {"input": PATCH}),
    ("apply", {"input": PATCH + "\n"}),
    ("weather", {"city": "Rome", "unit": "c"}),
    ("weather", {"city": 'a "b" \\ é\n<x>', "unit": "f", "days": 3, "tags": ["x"]}),
    ("weather_map", {"anything": "goes", "at": [1]}),
]
BAD: list[tuple[str, Arguments]] = [
    *(("apply", {"input": text}) for text in NO_PATCHES),
    ("apply", {}),
    ("apply", {"input": PATCH, "more": "x"}),
    ("weather", {"city": "Rome"}),
    ("weather", {"city": "Rome", "unit": "k"}),
    ("weather", {"city": "Rome", "unit": "c", "days": 0}),
    ("weather", {"city": "Rome", "unit": "c", "tags": [1]}),
    ("weather", {"city": "Rome", "unit": "c", "other": "x"}),
    ("nothing", {"input": PATCH}),
]


def test_every_form_that_can_be_bound_is_tried() -> None:
    assert SHAPES.keys() == WRITTEN.keys() | {"gemma4", "function_gemma"}


_ENDS = ("<tool_call|>", "<end_function_call>")


@pytest.mark.parametrize("special", [(), _ENDS, ('<|"|>', "<escape>", *_ENDS)])
@pytest.mark.parametrize(
    ("form", "quote", "end"),
    [("gemma4", '<|"|>', "<tool_call|>"), ("function_gemma", "<escape>", "<end_function_call>")],
)
def test_a_text_between_quotes(form: str, quote: str, end: str, special: tuple[str, ...]) -> None:
    guide = Guide(special=special)
    literal = guide.vocabulary.literal
    matcher = guide.lark(calls_grammar(SHAPES[form], [APPLY, ANYTHING], end, literal))
    for text, wanted in ((PATCH, True), *((text, False) for text in NO_PATCHES)):
        written = f"call:apply{{input:{quote}{text}{quote}}}"
        assert guide.takes(matcher, written + end) is wanted
        if wanted and form == "gemma4":
            assert readers.read_gemma(written, []) == [{"name": "apply", "arguments": {"input": text}}]
    assert guide.takes(matcher, f"call:weather_map{{a:{quote}x{quote},b:[1]}}{end}")
    assert not guide.takes(matcher, f"call:other{{}}{end}")
    assert not guide.takes(matcher, f"call:apply{{more:{quote}{quote}}}{end}")
    for tool in (WEATHER, BoundTool("add", {}, is_strict=True, grammar=SUM)):
        with pytest.raises(UnboundError):
            check_bound(SHAPES[form], tool, literal)


@pytest.mark.parametrize("form", sorted(WRITTEN))
def test_a_call_is_bound_in_the_form_of_its_family(form: str) -> None:
    end = ENDS.get(form, "")
    matcher = GUIDE.lark(calls_grammar(SHAPES[form], TOOLS, end, GUIDE.vocabulary.literal))
    shape = SHAPES[form]
    for name, arguments in GOOD:
        written = WRITTEN[form](name, arguments)
        if isinstance(shape, TaggedCalls) and shape.is_trimmed and str(arguments.get("input")).endswith("\n"):
            assert not GUIDE.takes(matcher, written + end)  # the line break would be lost
            continue
        assert GUIDE.takes(matcher, written + end), written
        text = written if form != "harmony" else f"<|channel|>commentary to{written}"
        calls: Any = READERS[form](text, FUNCTIONS)
        [call] = calls if isinstance(calls, list) else [calls]
        assert (call["name"], call["arguments"]) == (name, arguments)
    for name, arguments in BAD:
        assert not GUIDE.takes(matcher, WRITTEN[form](name, arguments) + end), (name, arguments)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("json_tools", '{"name":"weather","arguments":{"city":"a","unit":"c"}}'),
        ("granite", '[{"name": "weather_map", "arguments": {}},\n {"name": "weather_map", "arguments": {}}]'),
        ("tool_calls", '\n{"name": "weather_map", "arguments": {}}\n{"name": "weather_map", "arguments": {}}\n'),
        ("mistral", 'weather_map[ARGS]{}[TOOL_CALLS]weather_map[CALL_ID]abcdefghi[ARGS]{"a": 1}'),
        ("harmony", "=functions.weather_map<|channel|>commentary json<|message|>{}"),
        ("harmony", "=functions.weather_map<|message|>{}"),
        ("deepseek", "<｜tool▁call▁begin｜>weather_map<｜tool▁sep｜>{}<｜tool▁call▁end｜>"),
        ("minimax_m2", '<invoke name="weather_map"></invoke>\n<invoke name="weather_map">\n</invoke>'),
        (
            "glm47",
            "weather_map<arg_key>a</arg_key><arg_value>1</arg_value><arg_key>b</arg_key>\n<arg_value></arg_value>",
        ),
    ],
)
def test_other_ways_to_write_it(form: str, text: str) -> None:
    end = ENDS.get(form, "")
    matcher = GUIDE.lark(calls_grammar(SHAPES[form], TOOLS, end, GUIDE.vocabulary.literal))
    assert GUIDE.takes(matcher, text + end)


@pytest.mark.parametrize("form", sorted(name for name, shape in SHAPES.items() if isinstance(shape, TaggedCalls)))
def test_a_text_never_has_the_tag_that_closes_it(form: str) -> None:
    shape, end = SHAPES[form], ENDS[form]
    assert isinstance(shape, TaggedCalls)
    free = BoundTool("apply", {"type": "object"}, is_strict=True, pattern="(?s:.*)")
    matcher = GUIDE.lark(calls_grammar(shape, [free], end, GUIDE.vocabulary.literal))
    for text, wanted in (("a < b", True), (f"a{shape.close.strip()}b", False)):
        assert GUIDE.takes(matcher, WRITTEN[form]("apply", {"input": text}) + end) is wanted


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("json_tools", '{"name": "weather_map", "arguments": {}}{"name": "weather_map", "arguments": {}}'),
        ("gigachat", '[{"name": "weather_map", "arguments": {}}]'),
        ("harmony", "=functions.weather_map<|message|>{}=functions.weather_map<|message|>{}"),
        ("harmony", "=functions.weather_mapjson<|message|>{}"),
        ("glm47", "weather_map weather_map"),
        ("qwen3_coder", "<function=weather_map></function><function=weather_map></function>"),
        ("mistral", "weather_map[ARGS]{}weather_map[ARGS]{}"),
    ],
)
def test_what_would_be_no_call_is_not_written(form: str, text: str) -> None:
    end = ENDS.get(form, "")
    matcher = GUIDE.lark(calls_grammar(SHAPES[form], TOOLS, end, GUIDE.vocabulary.literal))
    assert not GUIDE.takes(matcher, text + end)


def test_a_grammar_without_an_expression_is_bound_between_tags() -> None:
    tool = BoundTool("add", {"type": "object"}, is_strict=True, grammar=SUM)
    end, literal = "</tool_call>", GUIDE.vocabulary.literal
    matcher = GUIDE.lark(calls_grammar(SHAPES["qwen3_coder"], [tool], end, literal))
    for text, wanted in (("1+(2+3)", True), ("(1", False), (" 1", False), ("1 ", False), ("", False)):
        assert GUIDE.takes(matcher, WRITTEN["qwen3_coder"]("add", {"input": text}) + end) is wanted
    with pytest.raises(UnboundError):
        check_bound(SHAPES["json_tools"], tool, literal)


@pytest.mark.parametrize(
    "changed",
    [
        {"additionalProperties": True},
        {"anyOf": [{}]},
        {"required": ["city", "missing"]},
        {"properties": {"city": {"type": ["string", "null"]}}, "required": []},
        {"properties": {"city": {"type": "string", "minLength": 3}}, "required": []},
        {"properties": {"city": {}}, "required": []},
    ],
)
def test_between_tags_not_every_schema_can_be_bound(changed: dict[str, Any]) -> None:
    tool = BoundTool("weather", {**PARAMETERS, **changed}, is_strict=True)
    with pytest.raises(UnboundError):
        check_bound(SHAPES["glm47"], tool, GUIDE.vocabulary.literal)
    check_bound(SHAPES["json_tools"], tool, GUIDE.vocabulary.literal)


def test_names_and_keys_of_any_letters() -> None:
    name, key = 'näme "x"', 'k"\\é\x7f'
    schema = {"type": "object", "properties": {key: {"type": "string"}}, "additionalProperties": False}
    tools = [BoundTool(name, schema, is_strict=True)]
    for form in ("json_tools", "qwen3_coder"):
        matcher = GUIDE.lark(calls_grammar(SHAPES[form], tools, "</tool_call>", GUIDE.vocabulary.literal))
        assert GUIDE.takes(matcher, WRITTEN[form](name, {key: quoted("v")}) + "</tool_call>")
