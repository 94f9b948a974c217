"""Bodies of Responses that are refused, with the place in the client's words."""

from typing import Any

import orjson
import pytest

from broker.wire.failure import FailureError
from gateway.responses.requests import parse_responses
from tests.gateway.responses.bodies import CALL, PATCH, PNG, RESULT, SERVER, USER, WEATHER, refused
from tests.timing import assert_cheap

LARK = PATCH["format"]


def part(**fields: Any) -> list[dict[str, Any]]:
    return [USER, USER, {"role": "user", "content": [fields]}]


@pytest.mark.parametrize(
    ("items", "param"),
    [
        (None, "input"),
        ([], "input"),
        (3, "input"),
        ([3], "input[0]"),
        ([USER, {}], "input[1].type"),
        ([{"type": 3}], "input[0].type"),
        ([{"role": "robot", "content": "a"}], "input[0].role"),
        ([{"type": "message", "content": "a"}], "input[0].role"),
        ([{"role": ["user"], "content": "a"}], "input[0].role"),
        ([{"role": "user"}], "input[0].content"),
        ([{"role": "user", "content": {}}], "input[0].content"),
        (part(type="input_image", image_url="data:image/png;base64,!"), "input[2].content[0].image_url"),
        (part(type="input_image", image_url={"url": PNG}), "input[2].content[0].image_url"),
        (part(type="input_image", file_id="file-1"), "input[2].content[0].image_url"),
        (part(type="input_image", image_url="data:text/plain;base64,YQ=="), "input[2].content[0].image_url"),
        (part(type="input_image", image_url=PNG, detail="huge"), "input[2].content[0].detail"),
        (part(type="input_file", file_data="a"), "input[2].content[0]"),
        (part(type="input_audio"), "input[2].content[0]"),
        (part(type="input_text", text=3), "input[2].content[0]"),
        ([{"role": "user", "content": ["a"]}], "input[0].content[0]"),
        ([{"role": "assistant", "content": [{"type": "input_image", "image_url": PNG}]}], "input[0].content"),
        ([{"role": "system", "content": [{"type": "input_image", "image_url": PNG}]}], "input[0].content"),
        ([CALL | {"call_id": 3}], "input[0].call_id"),
        ([CALL | {"name": None}], "input[0].name"),
        ([CALL | {"name": ""}], "input[0].name"),
        ([CALL | {"arguments": {}}], "input[0].arguments"),
        ([CALL | {"namespace": 3}], "input[0].namespace"),
        ([{"type": "custom_tool_call", "call_id": "a", "name": "b"}], "input[0].input"),
        ([USER, RESULT], "input[1].call_id"),
        ([CALL, RESULT | {"call_id": "c2"}], "input[1].call_id"),
        ([CALL, RESULT | {"call_id": []}], "input[1].call_id"),
        ([CALL, RESULT | {"output": None}], "input[1].output"),
        ([CALL, RESULT | {"output": [{"type": "input_file"}]}], "input[1].output[0]"),
        ([{"type": "reasoning", "content": "a"}], "input[0].content"),
        ([{"type": "reasoning", "content": [{"type": "image"}]}], "input[0].content[0]"),
        ([{"type": "reasoning", "summary": [{"type": "summary_text"}]}], "input[0].summary[0]"),
        ([{"type": "item_reference", "id": "msg_1"}], "input[0]"),
        ([USER, {"type": "compaction_trigger"}], "input[1]"),
        ([{"type": "additional_tools", "role": "developer"}], "input[0].tools"),
        ([{"type": "additional_tools", "tools": [{"type": "function"}]}], "input[0].tools[0].name"),
        ([USER] * 8193, "input"),
        ([{"role": "user", "content": [{"type": "input_text", "text": ""}] * 8193}] * 2, "input[1].content"),
    ],
)
def test_a_wrong_item_is_named(items: Any, param: str) -> None:
    failure = refused(items)
    assert failure.param == param
    assert failure.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        (3, "tools"),
        ([3], "tools[0]"),
        ([{"name": "a"}], "tools[0]"),
        ([WEATHER, {"type": "function"}], "tools[1].name"),
        ([{"type": "function", "function": WEATHER}], "tools[0].name"),
        ([WEATHER | {"parameters": []}], "tools[0].parameters"),
        ([WEATHER | {"description": 3}], "tools[0].description"),
        ([WEATHER | {"strict": "yes"}], "tools[0].strict"),
        ([WEATHER, WEATHER], "tools[1].name"),
        ([SERVER, WEATHER | {"name": "mcp__files__read"}], "tools[1].name"),
        ([SERVER | {"name": ""}], "tools[0].name"),
        ([SERVER | {"description": 3}], "tools[0].description"),
        ([SERVER | {"tools": None}], "tools[0].tools"),
        ([SERVER | {"tools": [{"type": "web_search"}]}], "tools[0].tools[0].type"),
        ([SERVER | {"tools": [WEATHER, PATCH | {"name": None}]}], "tools[0].tools[1].name"),
        ([PATCH | {"format": {"type": "xml"}}], "tools[0].format.type"),
        ([PATCH | {"format": LARK | {"syntax": "gbnf"}}], "tools[0].format.syntax"),
        ([PATCH | {"format": LARK | {"definition": ""}}], "tools[0].format.definition"),
        ([SERVER | {"tools": [PATCH | {"format": 3}]}], "tools[0].tools[0].format"),
        ([WEATHER | {"name": f"t{n}"} for n in range(513)], "tools"),
    ],
)
def test_a_wrong_tool_is_named(tools: Any, param: str) -> None:
    failure = refused(tools=tools)
    assert failure.param == param
    assert failure.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("always", "tool_choice"),
        (3, "tool_choice"),
        ({"type": "function"}, "tool_choice"),
        ({"type": "function", "name": "nobody"}, "tool_choice"),
        ({"type": "custom", "name": "weather"}, "tool_choice"),
        ({"type": "function", "function": {"name": "weather"}}, "tool_choice"),
        ({"type": "web_search_preview"}, "tool_choice"),
        ({"type": "allowed_tools", "mode": "all", "tools": []}, "tool_choice"),
        ({"type": "allowed_tools", "mode": "required", "tools": []}, "tool_choice"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [3]}, "tool_choice.tools[0]"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [WEATHER, PATCH]}, "tool_choice.tools[1]"),
    ],
)
def test_a_wrong_choice_is_named(choice: Any, param: str) -> None:
    assert refused(tools=[WEATHER], tool_choice=choice).param == param


def test_required_needs_tools() -> None:
    assert refused(tool_choice="required").param == "tool_choice"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"stop": "a"}, "stop"),
        ({"model": ""}, "model"),
        ({"instructions": ["a"]}, "instructions"),
        ({"stream": "yes"}, "stream"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tool_calls": 1e30}, "max_tool_calls"),
        ({"temperature": -1}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": "all"}, "include"),
        ({"include": [3]}, "include[0]"),
        ({"truncation": "middle"}, "truncation"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"reasoning": {"effort": 3}}, "reasoning.effort"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format"),
        ({"text": {"format": {"type": "text", "schema": {}}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "schema": True}}}, "text.format.schema"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    failure = refused(**fields)
    assert failure.param == param
    assert failure.message.startswith(param)


def test_what_a_response_repeats_can_be_written() -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"a": deep}
    assert refused(tools=[{"type": "web_search", "a": deep}]).param == "tools"
    assert refused(tool_choice=deep).param == "tool_choice"
    assert refused(text={"format": {"type": "json_schema", "schema": deep}}).param == "text"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"a"', b"\xff", b"[" * 100_000])
def test_a_body_must_be_an_object(body: bytes) -> None:
    with pytest.raises(FailureError) as caught:
        parse_responses(body)
    assert caught.value.failure.code == "invalid_request"


def test_integers_that_would_be_rounded_are_refused() -> None:
    large = {"type": "function", "name": "a", "parameters": {"const": 2**70}}
    for body, param in (
        ({"input": "a", "tools": [large]}, "tools[0]"),
        ({"input": "a", "chat_template_kwargs": {"a": 2**70}}, "chat_template_kwargs"),
        ({"input": "a", "text": {"format": {"type": "json_schema", "schema": {"const": 2**70}}}}, "text"),
        ({"input": [{"type": "additional_tools", "tools": [large]}]}, "input[0].tools"),
    ):
        with pytest.raises(FailureError) as caught:
            parse_responses(str(body).replace("'", '"').encode())
        assert caught.value.failure.param == param


def image(url: str) -> dict[str, Any]:
    return {"type": "input_image", "image_url": url}


def allowed(tools: list[Any]) -> dict[str, Any]:
    return {"type": "allowed_tools", "mode": "auto", "tools": tools}


@pytest.mark.parametrize(
    "body",
    [
        {"input": [USER] * 100_000},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}] * 100_000}]},
        {"input": [{"type": "x"}] * 100_000},
        {"input": "a", "tools": [WEATHER] * 100_000},
        {"input": "a", "include": [3] * 1_000_000},
        {"input": "a", "metadata": {str(n): 3 for n in range(1_000_000)}},
        {"input": [{"role": "user", "content": [image("data:" + ";" * 40_000_000)]}]},
        {"input": [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": "a"}] * 100_000}]},
        {"input": [{"type": "additional_tools", "tools": [{"type": "web_search"}] * 100_000}]},
        {"input": [{"type": "additional_tools", "tools": [{"type": "web_search"}] * 1000}] * 100},
        {"input": [{"type": "additional_tools", "tools": [SERVER | {"tools": [WEATHER] * 100_000}]}]},
        {"input": "a", "tools": [WEATHER], "tool_choice": allowed([{"type": "function", "name": "weather"}] * 100_000)},
        {"input": "a", "tools": [SERVER | {"tools": [{"type": "function", "name": str(n)} for n in range(100_000)]}]},
    ],
)
def test_a_hundred_thousand_of_anything_are_refused_quickly(body: dict[str, Any]) -> None:
    data = orjson.dumps(body)

    def refuse() -> None:
        with pytest.raises(FailureError):
            parse_responses(data)

    assert_cheap(2, refuse)


def test_long_reasoning_in_many_items_is_read_quickly() -> None:
    """Copying what there is with every item took a minute."""
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "a" * 5000}]}
    data = orjson.dumps({"input": [USER, *[thought] * 8000]})

    def read() -> None:
        [_, answer] = parse_responses(data).turns
        assert answer.reasoning == "\n\n".join(["a" * 5000] * 8000)

    assert_cheap(2, read)
