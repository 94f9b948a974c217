"""Tools of Responses as functions of the wire, and the choice among them."""

from typing import Any

import pytest

from tests.gateway.responses.bodies import CALL, PATCH, SERVER, USER, WEATHER, refused, text_of, work_of

ALL = ["weather", "apply_patch", "mcp__files__read"]
TIME = {"type": "function", "name": "time", "description": "Tells it.", "strict": False}


def names_of(**fields: Any) -> list[str]:
    return [tool["function"]["name"] for tool in work_of(**fields).tools]


def test_functions_are_the_wires() -> None:
    work = work_of(tools=[WEATHER | {"strict": True, "defer_loading": True}, TIME])
    assert work.tools == [
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}, "strict": True}},
        {"type": "function", "function": {"name": "time", "description": "Tells it.", "strict": False}},
    ]
    assert (work.required_tools, work.one_call, work.input_grammars) == ([], False, {})


def test_a_custom_tool_is_a_function_with_one_text_and_a_grammar() -> None:
    digits = PATCH | {"name": "digits", "format": {"type": "grammar", "syntax": "regex", "definition": "[0-9/]+"}}
    free = [{"type": "custom", "name": "free"}, {"type": "custom", "name": "text", "format": {"type": "text"}}]
    work = work_of(tools=[PATCH, digits, *free])
    assert [list(tool["function"]["parameters"]["properties"]) for tool in work.tools] == [["input"]] * 4
    assert work.input_grammars == {"apply_patch": 'start: "a"+', "digits": "start: /[0-9\\/]+/\n"}
    assert work.tools[0]["function"]["description"] == "Edits files."


def test_a_namespace_is_in_the_names_of_its_tools() -> None:
    plain = {"type": "namespace", "name": "crm", "tools": [WEATHER, PATCH]}
    functions = {"type": "namespace", "name": "functions", "description": "Tools.", "tools": [TIME]}
    work = work_of(tools=[SERVER, plain, functions])
    names = [tool["function"]["name"] for tool in work.tools]
    assert names == ["mcp__files__read", "crm__weather", "crm__apply_patch", "time"]
    assert work.tools[0]["function"]["description"] == "mcp__files__: Files."
    assert work.tools[3]["function"]["description"] == "Tells it."
    assert work.input_grammars == {"crm__apply_patch": 'start: "a"+'}
    [_, answer] = work_of([USER, CALL | {"name": "read", "namespace": "mcp__files__"}]).messages or []
    assert answer["tool_calls"][0]["function"]["name"] == "mcp__files__read"


def test_hosted_tools_are_left_out_and_named() -> None:
    hosted = [{"type": "web_search"}, WEATHER, {"type": "mcp", "server_label": "a"}, {"type": "code_interpreter"}]
    assert names_of(tools=hosted) == ["weather"]
    assert text_of(tools=hosted).ignored == ["tools[0] (web_search)", "tools[2] (mcp)", "tools[3] (code_interpreter)"]


def test_tools_that_an_item_brings_are_tools_too() -> None:
    items = [USER, {"type": "additional_tools", "role": "developer", "tools": [TIME, {"type": "web_search"}]}]
    assert names_of(input_=items, tools=[WEATHER]) == ["weather", "time"]
    text = text_of(items, tools=[WEATHER])
    assert text.ignored == ["input[1].tools[1] (web_search)"]
    assert text.field_name("tools[1].function.strict") == "input[1].tools[0].strict"


def allowed(mode: str, *tools: dict[str, Any]) -> dict[str, Any]:
    return {"type": "allowed_tools", "mode": mode, "tools": list(tools)}


@pytest.mark.parametrize(
    ("choice", "names", "required", "one_call"),
    [
        (None, ALL, [], False),
        ("auto", ALL, [], False),
        ("none", [], [], False),
        ("required", ALL, ALL, False),
        ({"type": "function", "name": "weather"}, ALL, ["weather"], True),
        ({"type": "custom", "name": "apply_patch"}, ALL, ["apply_patch"], True),
        ({"type": "function", "name": "read"}, ALL, ["mcp__files__read"], True),
        (
            allowed("auto", {"type": "function", "name": "read", "namespace": "mcp__files__"}),
            ["mcp__files__read"],
            [],
            False,
        ),
        (
            allowed("auto", {"type": "namespace", "name": "mcp__files__"}, {"type": "web_search"}),
            ["mcp__files__read"],
            [],
            False,
        ),
        (
            allowed("required", {"type": "custom", "name": "apply_patch"}),
            ALL,
            ["apply_patch"],
            False,
        ),
    ],
)
def test_choices(choice: Any, names: list[str], required: list[str], one_call: bool) -> None:
    work = work_of(tools=[WEATHER, PATCH, SERVER], tool_choice=choice)
    assert [tool["function"]["name"] for tool in work.tools] == names
    assert (work.required_tools, work.one_call) == (required, one_call)
    assert set(work.input_grammars) <= set(names)


def test_a_name_that_two_namespaces_have_must_say_which() -> None:
    tools = [SERVER, SERVER | {"name": "other"}]
    failure = refused(tools=tools, tool_choice={"type": "function", "name": "read"})
    assert failure.message == "tool_choice: several namespaces have function tool named 'read'"
    named = {"type": "function", "name": "read", "namespace": "other"}
    assert work_of(tools=tools, tool_choice=named).required_tools == ["other__read"]
    own = work_of(tools=[*tools, WEATHER | {"name": "read"}], tool_choice={"type": "function", "name": "read"})
    assert own.required_tools == ["read"]


def test_one_call_at_a_time() -> None:
    assert work_of(tools=[WEATHER], parallel_tool_calls=False).one_call
    assert not work_of(tools=[WEATHER], parallel_tool_calls=True).one_call


@pytest.mark.parametrize("choice", ["required", {"type": "web_search"}, {"type": "mcp", "server_label": "a"}])
def test_a_choice_of_hosted_tools_is_left_out_with_them(choice: Any) -> None:
    fields: dict[str, Any] = {"tools": [{"type": "web_search"}], "tool_choice": choice}
    assert work_of(**fields).required_tools == []
    assert text_of(**fields).ignored == ["tools[0] (web_search)", "tool_choice"]


def test_tools_of_which_a_model_is_not_told_are_named() -> None:
    assert text_of(tools=[WEATHER], tool_choice="none").ignored == ["tools"]
    assert text_of(tool_choice="none").ignored == []
