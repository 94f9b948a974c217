"""Calls as families write them: what is read, what is malformed, and how long that takes."""

# ruff: noqa: RUF001 # DeepSeek's marks have a bar of full width

from typing import Any

import pytest

from tests.timing import assert_cheap
from worker.generation.calls import formats, readers
from worker.generation.calls.harmony import HarmonySplit, read_message
from worker.generation.calls.readers import Reader

GLM = readers.key_value("arg_key", "arg_value")
MINIMAX = readers.invoked("")
KNOWN = {found.name: found.read for _, found in formats._KNOWN + formats._LAST}
DEEPSEEK, DSML, SOLAR = KNOWN["deepseek"], KNOWN["dsml"], KNOWN["solar"]


def read(reader: Reader, text: str) -> list[tuple[str, Any]]:
    return [(call["name"], call["arguments"]) for call in reader(text, [])]


@pytest.mark.parametrize(
    ("reader", "text", "wanted"),
    [
        (
            readers.read_functions,
            "<function=f><parameter=a>x</parameter></function>\n<function=g>\n</function>",
            [("f", {"a": "x"}), ("g", {})],
        ),
        (
            readers.read_functions,
            "<function=f>\n<parameter=a>\n</parameter> </function> b\n</parameter>\n</function>",
            [("f", {"a": "</parameter> </function> b"})],
        ),
        (
            MINIMAX,
            '<invoke name="f"><parameter name="code">a</invoke>b</parameter></invoke>\n<invoke name="g"></invoke>',
            [("f", {"code": "a</invoke>b"}), ("g", {})],
        ),
        (
            DSML,
            '<｜DSML｜invoke name="f"><｜DSML｜parameter name="a" string="true">4</｜DSML｜parameter></｜DSML｜invoke>',
            [("f", {"a": "4"})],
        ),
        (GLM, "f\n<arg_key> a </arg_key>\\n<arg_value>x</arg_value>b</arg_value>\n", [("f", {"a": "x</arg_value>b"})]),
        (GLM, "f\n", [("f", {})]),
        (readers.read_params, '"f"><param name = "a" >x</param>', [("f", {"a": "x"})]),
        (readers.read_mistral, 'f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]i[ARGS]{}', [("f", {"a": 1}), ("g", {})]),
        (
            DEEPSEEK,
            (
                "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```<｜tool▁call▁end｜>\n"
                '<｜tool▁call▁begin｜>g<｜tool▁sep｜>{"a": "<｜tool▁call▁end｜>"}<｜tool▁call▁end｜>'
            ),
            [("f", {}), ("g", {"a": "<｜tool▁call▁end｜>"})],
        ),
        (
            readers.read_gemma,
            'call:f{a:<|"|>x{"b:1},c:\n<|"|>,d:[1,{e:true}],g-h:<|"|><|"|>}call:g{}',
            [("f", {"a": 'x{"b:1},c:\n', "d": [1, {"e": True}], "g-h": ""}), ("g", {})],
        ),
        (SOLAR, 'i<|tool_call:name|>f<|tool_call:args|>{"a": 1}', [("f", {"a": 1})]),
        (read_message, '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}', [("f", {"a": 1})]),
    ],
)
def test_what_is_read(reader: Reader, text: str, wanted: list[tuple[str, Any]]) -> None:
    assert read(reader, text) == wanted


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        (readers.read_functions, "<function=f><parameter=code>\nabc\n</function>"),
        (readers.read_functions, "<function=f>abc</function>"),
        (readers.read_functions, "<function=f><parameter=a>1</parameter></function> and more"),
        (MINIMAX, '<invoke name="f"><parameter name="code">a</invoke>'),
        (MINIMAX, '<invoke name="f">a</invoke>'),
        (MINIMAX, '<invoke name="f"><parameter name="a">1</parameter>b</invoke>'),
        (GLM, "f\n<arg_key>a</arg_key>"),
        (GLM, "f\n<arg_key>a</arg_key><arg_value>b"),
        (readers.read_params, '"f"><param name="a">x'),
        (readers.read_mistral, "f[ARGS]{} and g"),
        (readers.read_gemma, "call:f{} and g"),
        (DEEPSEEK, "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}"),
        (DEEPSEEK, "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁call▁begin｜>"),
    ],
)
def test_what_is_malformed(reader: Reader, text: str) -> None:
    with pytest.raises(ValueError, match=r"must stand here|does not close"):
        reader(text, [])


MANY = 20_000


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        (GLM, "f\n<arg_key>" + "\n" * MANY),
        (GLM, "f" + " " * MANY + "x"),
        (GLM, "f" + "<arg_key>" * MANY),
        (GLM, "f<arg_key>a</arg_key><arg_value>" + ("</arg_value>" + " " * 20) * MANY + "x"),
        (readers.read_mistral, "a" * MANY),
        (readers.read_gemma, "call:f{" * MANY),
        (readers.read_gemma, "call:f{a:" + "{<|" * MANY + '<|"|>' * 3),
        (readers.read_gemma, "call:f" + "," * MANY + " " * MANY),
        (readers.read_mistral, "a " * MANY),
        (DEEPSEEK, "<｜tool▁call▁begin｜>f<｜tool▁sep｜>" * MANY),
        (DEEPSEEK, "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}" + " " * MANY),
        (DSML, "<｜DSML｜invoke name=" * MANY),
        (DSML, '<｜DSML｜invoke name="f">' + "<｜DSML｜parameter name=a" * MANY),
        (MINIMAX, '<invoke name="f">' + '<parameter name="a">' * MANY),
        (readers.read_functions, "<function=f>" * MANY),
        (readers.read_functions, "<function=f><parameter=a>" + "</parameter></function>\n" * MANY + "x"),
        (readers.read_params, '"f"><param name' + " " * MANY),
        (SOLAR, "<|tool_call:name|>" * MANY),
        (KNOWN["functionary"], "f" * MANY),
        (read_message, "to=" * MANY),
        (read_message, "to=f <|message|>" + " " * MANY + "x"),
    ],
)
def test_the_time_grows_with_the_text(reader: Reader, text: str) -> None:
    def read() -> None:
        with pytest.raises(ValueError):  # noqa: PT011 # of the reader, or of JSON
            reader(text, [])

    assert_cheap(1, read)


@pytest.mark.parametrize("header", [" " * MANY, "<|channel|>" + " " * MANY, "<|channel|>" + " " * 400 + "!"])
def test_a_header_that_does_not_end(header: str) -> None:
    def read() -> None:
        split = HarmonySplit()
        parts = split.push(header) + split.finish()
        assert "".join(text for _, text in parts) == header

    assert_cheap(1, read)
