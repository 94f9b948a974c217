"""Old and rare forms of messages: all of what they say goes on."""

from typing import Any

import orjson
import pytest

from broker.wire.failure import Code, FailureError
from gateway.core.ask import generate_whole
from gateway.core.sampling import Defaults
from gateway.openai.requests import chat_work, parse_chat

USER = {"role": "user", "content": "Hi"}
CALL = {"name": "weather", "arguments": '{"city": "Paris"}'}


def sent_on(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    (work,) = chat_work(parse_chat(orjson.dumps({"messages": [USER, *messages]})), [], Defaults())
    assert work.messages is not None
    return work.messages[1:]


def assistant(content: Any = "", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (assistant(None, refusal="No."), assistant("No.")),
        (assistant([{"type": "refusal", "refusal": "No."}]), assistant("No.")),
        (assistant(None, function_call=CALL), assistant(tool_calls=[{"type": "function", "function": CALL}])),
        ({"role": "function", "name": "weather", "content": "sunny"},) * 2,
        (
            assistant([{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Yes."}]),
            assistant("Yes.", reasoning_content="Hm."),
        ),
        (assistant("Yes.", reasoning="Hm."), assistant("Yes.", reasoning_content="Hm.")),
        (assistant("Yes.", reasoning_content="", reasoning="Hm."), assistant("Yes.", reasoning_content="Hm.")),
        (
            assistant(
                [{"type": "thinking", "thinking": [{"type": "text", "text": "H"}, {"type": "text", "text": "m."}]}]
            ),
            assistant(reasoning_content="Hm."),
        ),
        (assistant("Yes.", audio=None), assistant("Yes.")),
        (assistant("Yes.", reasoning_content=""), assistant("Yes.", reasoning_content="")),
    ],
)
def test_what_a_message_says_goes_on(message: dict[str, Any], expected: dict[str, Any]) -> None:
    role = {"role": "tool"} if expected["role"] == "function" else {}
    assert sent_on(message) == [{**expected, **role}]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({**USER, "tool_calls": [{"function": CALL}]}, "messages[0].tool_calls"),
        ({**USER, "function_call": CALL}, "messages[0].function_call"),
        ({**USER, "refusal": "No."}, "messages[0].refusal"),
        ({"role": "user", "content": [{"type": "thinking", "thinking": "Hm."}]}, "messages[0].content"),
        (assistant([{"type": "thinking", "text": "Hm."}]), "messages[0].content[0]"),
        (assistant([{"type": "thinking", "thinking": [{"type": "text"}]}]), "messages[0].content[0]"),
        (assistant([{"type": "thinking", "thinking": [{"type": "image"}]}]), "messages[0].content[0]"),
        (assistant(None, audio={"id": "audio_1"}), "messages[0].audio"),
        (
            assistant([{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]),
            "messages[0].content",
        ),
    ],
)
def test_what_only_another_role_may_have_is_refused(message: dict[str, Any], param: str) -> None:
    with pytest.raises(FailureError) as caught:
        parse_chat(orjson.dumps({"messages": [message]}))
    assert caught.value.failure.param == param


def test_an_object_of_arguments_that_is_too_deep_is_the_clients_mistake() -> None:
    deep: Any = {}
    for _ in range(400):
        deep = {"a": deep}
    body = orjson.dumps({"messages": [USER]})[:-2] + (
        b',{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":' + _text(deep) + b"}}]}]}"
    )
    with pytest.raises(FailureError) as caught:
        parse_chat(body)
    assert caught.value.failure.param == "messages[1].tool_calls[0].function.arguments"


BIG = b"100000000000000000001"


@pytest.mark.parametrize(
    ("rest", "param"),
    [
        (b'"tools": [{"name": "f", "parameters": {"default": %s}}]', "tools[0]"),
        (b'"tools": [{"name": "f"}, {"name": "g", "parameters": {"enum": [1, -%s]}}]', "tools[1]"),
        (b'"chat_template_kwargs": {"a": [%s]}', "chat_template_kwargs"),
        (
            b'"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": %s}}}',
            "response_format",
        ),
    ],
)
def test_an_integer_that_would_be_rounded_is_refused(rest: bytes, param: str) -> None:
    body = orjson.dumps({"messages": [USER]})[:-1] + b", " + rest % BIG + b"}"
    with pytest.raises(FailureError) as caught:
        parse_chat(body)
    assert caught.value.failure.param == param
    for exact in (b"18446744073709551615", b"1e300", b"1.5e20"):
        parse_chat(body.replace(BIG, exact).replace(b"-" + exact, exact))


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (b'"tool_calls": [{"function": {"name": "f", "arguments": {"n": %s}}}]', "tool_calls[0].function.arguments"),
        (b'"function_call": {"name": "f", "arguments": {"n": [%s]}}', "function_call.arguments"),
    ],
)
def test_arguments_with_an_integer_that_would_be_rounded_are_refused(call: bytes, param: str) -> None:
    body = b'{"messages": [{"role": "assistant", ' + call % BIG + b"}]}"
    with pytest.raises(FailureError) as caught:
        parse_chat(body)
    assert caught.value.failure.param == f"messages[0].{param}"


@pytest.mark.parametrize("name", ["tools", "bare tools", "chat_template_kwargs", "response_format"])
def test_no_depth_is_more_than_the_clients_mistake(name: str) -> None:
    """Some are read and cannot be sent on, because a tool without its wrapper gets one."""
    wrapped = {
        "tools": b'"tools": [{"type": "function", "function": {"name": "f", "parameters": %s}}]',
        "bare tools": b'"tools": [{"name": "f", "parameters": %s}]',
        "chat_template_kwargs": b'"chat_template_kwargs": %s',
        "response_format": b'"response_format": {"type": "json_object", "schema": %s}',
    }[name]
    results: set[Code | None] = set()
    for levels in range(1015, 1026):
        body = (
            orjson.dumps({"messages": [USER]})[:-1]
            + b", "
            + wrapped % (b'{"a":' * levels + b"1" + b"}" * levels)
            + b"}"
        )
        try:
            (work,) = chat_work(parse_chat(body), [], Defaults())
            generate_whole("any", work)
        except FailureError as error:
            results.add(error.failure.code)
        else:
            results.add(None)
    assert results == {None, Code.INVALID_REQUEST}


def _text(deep: dict[str, Any]) -> bytes:
    levels = 0
    while deep:
        deep, levels = deep["a"], levels + 1
    return b'{"a":' * levels + b"{}" + b"}" * levels
