"""Custom tools as functions of the wire, and their calls back."""

import json

import pytest

from gateway.core.custom_tools import (
    InputText,
    arguments_of,
    custom_function,
    grammar_in,
    input_of,
    regex_as_lark,
)
from tests.timing import assert_cheap

PATCH = '*** Begin Patch\n+say "hi" \\ \u00e9\U0001f600\n*** End Patch'


def test_the_model_is_told_of_a_function_with_one_text() -> None:
    function = custom_function("apply_patch", None, "start: /a/")["function"]
    assert (function["name"], function["description"]) == ("apply_patch", "")
    parameters = function["parameters"]
    assert (parameters["required"], parameters["additionalProperties"]) == (["input"], False)
    assert parameters["properties"]["input"]["type"] == "string"
    assert parameters["properties"]["input"]["description"].endswith("\nstart: /a/")


@pytest.mark.parametrize("wanted", [None, {"type": "text"}])
def test_free_text_has_no_grammar(wanted: object) -> None:
    assert grammar_in(wanted, "format") is None


def test_a_grammar_comes_in_the_form_of_responses_and_of_chats() -> None:
    rule = {"syntax": "lark", "definition": "start: WORD"}
    assert grammar_in({"type": "grammar", **rule}, "format") == "start: WORD"
    assert grammar_in({"type": "grammar", "grammar": rule}, "format") == "start: WORD"


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ([], "format"),
        ({"type": "json"}, "format.type"),
        ({"type": "grammar"}, "format.syntax"),
        ({"type": "grammar", "grammar": 1}, "format.grammar"),
        ({"type": "grammar", "grammar": {"syntax": "gbnf", "definition": "x"}}, "format.grammar.syntax"),
        ({"type": "grammar", "syntax": "lark", "definition": ""}, "format.definition"),
        ({"type": "grammar", "syntax": "lark", "definition": "x" * 100_001}, "format.definition"),
    ],
)
def test_a_mistake_names_its_field(wanted: object, path: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        grammar_in(wanted, "format")
    assert caught.value.context == {"message": caught.value.context["message"], "path": path}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("pattern", "lark"),
    [
        ("[0-9]+", "start: /[0-9]+/\n"),
        ("a/b", "start: /a\\/b/\n"),
        (r"a\/b\\/", "start: /a\\/b\\\\\\//\n"),
        ("", 'start: ""\n'),
    ],
)
def test_a_pattern_is_a_grammar(pattern: str, lark: str) -> None:
    assert regex_as_lark(pattern) == lark


def test_a_call_comes_back_as_its_text() -> None:
    assert input_of(arguments_of(PATCH)) == PATCH
    assert input_of('{"input": 3}') == '{"input": 3}'
    assert input_of("no json") == "no json"


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pieces_of_arguments_are_pieces_of_the_text(size: int, ascii_only: bool) -> None:
    arguments = json.dumps({"input": PATCH}, ensure_ascii=ascii_only)
    reader = InputText()
    pieces = [reader.push(arguments[begin : begin + size]) for begin in range(0, len(arguments), size)]
    assert "".join(pieces) == PATCH
    assert reader.finish() == ""
    assert size > 7 or sum(map(bool, pieces)) > 5


@pytest.mark.parametrize("arguments", ['{"text": "a"}', '{"input": 3}', "[]", "{", '{"text": 1, "input": "late"}'])
def test_pieces_of_another_form_come_at_the_end(arguments: str) -> None:
    reader = InputText()
    assert "".join(reader.push(char) for char in arguments) == ""
    assert reader.finish() == input_of(arguments)


def test_half_a_character_is_no_text() -> None:
    reader = InputText()
    assert reader.push('{"input": "a\\ud83d\\u0041"}') == "a"


def test_a_long_text_in_many_pieces_is_read_quickly() -> None:
    def read() -> None:
        reader = InputText()
        told = [reader.push(piece) for piece in ('{"input": "', *["a line\\n  "] * 200_000, '"}')]
        assert "".join(told) == "a line\n  " * 200_000
        assert reader.finish() == ""

    assert_cheap(2, read)
