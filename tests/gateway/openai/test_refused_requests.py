"""What is no request is refused, and the field at fault is named."""

from typing import Any

import orjson
import pytest

from broker.wire.failure import FailureError
from gateway.openai.requests import parse_chat, parse_completion
from gateway.openai.text import ChatText, CompletionText
from tests.gateway.openai.bodies import CALL, HELLO, PNG, USER, WEATHER, completion, picture, refused_chat
from tests.timing import assert_cheap

SOUND = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}


@pytest.mark.parametrize(
    ("image_url", "why"),
    [
        (1, "must be"),
        ({"url": 1}, "must be"),
        ({"url": PNG, "detail": "full"}, "detail"),
        ("data:image/png;base64", "data:image/...;base64,..."),
        ("data:image/png,iVBORw0KGgo=", "data:image/...;base64,..."),
        ("data:,", "data:image/...;base64,..."),
        ("data:text/html;base64,iVBORw0KGgo=", "text/html"),
        ("data:;base64,iVBORw0KGgo=", "not an image"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,iVBORw0KGgo", "not base64"),
        ("data:image/png;base64,iVBO\u00a0Rw0KGgo=", "not ASCII"),
        ("data:image/png;base64, \n", "empty"),
        ("data:image/png;base64,iVBORw0K=Ggo", "not base64"),
        ("data:image/png;base64,iVBORw0K%2Bgo=", "not base64"),
        ("data:image/png;base64,iVBORw0K-_o=", "not base64"),
        ("data:image/png;base64,ïVBORw0KGgo=", "not ASCII"),
    ],
)
def test_an_image_that_cannot_be_is_named(image_url: Any, why: str) -> None:
    error = refused_chat({"messages": [{"role": "user", "content": [HELLO, picture(image_url)]}]})
    assert error.failure.param == "messages[0].content[1].image_url"
    assert error.failure.message.startswith("messages[0].content[1].image_url: ")
    assert why in error.failure.message
    assert len(error.failure.message) < 250


@pytest.mark.parametrize(
    ("input_audio", "why"),
    [
        (None, "with the file in base64"),
        ("UklGRg==", "with the file in base64"),
        ({"data": "UklGRg=="}, "format must be wav, mp3 or flac"),
        ({"data": "UklGRg==", "format": "ogg"}, "format must be wav, mp3 or flac"),
        ({"format": "wav"}, "with the file in base64"),
        ({"data": b"RIFF".hex() + "!", "format": "wav"}, "not base64"),
        ({"data": "UklGRg", "format": "mp3"}, "not base64"),
        ({"data": "data:audio/wav;base64,UklGRg==", "format": "wav"}, "not base64"),
        ({"data": "", "format": "flac"}, "empty"),
    ],
)
def test_a_sound_that_cannot_be_is_named(input_audio: Any, why: str) -> None:
    part = {"type": "input_audio", "input_audio": input_audio}
    error = refused_chat({"messages": [{"role": "user", "content": [HELLO, part]}]})
    assert error.failure.param == "messages[0].content[1]"
    assert error.failure.message.startswith("messages[0].content[1]: input_audio: ")
    assert why in error.failure.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff", None),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', None),
        (b"[]", None),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [USER, {"content": "Hi"}]}, "messages[1].role"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{**USER, "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [HELLO, {"type": "text"}]}]}, "messages[0].content[1]"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [USER, {"role": "user", "content": [HELLO, picture({})]}]}, "messages[1].content[1].image_url"),
        ({"messages": [{"role": "system", "content": [picture("http://a/b.png")]}]}, "messages[0].content"),
        ({"messages": [{"role": "system", "content": [SOUND]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [HELLO] * 8193}] * 2}, "messages"),
        ({"messages": 1}, "messages"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 1}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"messages": [USER], "top_logprobs": 3}, "top_logprobs"),
        ({"messages": [USER], "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": [USER], "response_format": {"type": "json_object"}, "grammar": "start: A"}, "grammar"),
    ],
)
def test_what_is_not_a_chat_is_refused(body: dict[str, Any] | bytes, param: str | None) -> None:
    assert refused_chat(body).failure.param == param


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("model", 1),
        ("stream", "yes"),
        ("stream", 1),
        ("stream_options", True),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", 1e300),
        ("max_tokens", "10"),
        ("max_tokens", True),
        ("max_completion_tokens", 0),
        ("temperature", -0.1),
        ("temperature", "warm"),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("n", 0),
        ("n", 9),
        ("seed", 1.5),
        ("seed", 2**63),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", 1.1),
        ("xtc_probability", -0.1),
        ("xtc_threshold", 0.6),
        ("repetition_penalty", -1),
        ("repetition_context_size", -1),
        ("presence_penalty", "much"),
        ("frequency_penalty", 101),
        ("frequency_context_size", True),
        ("logit_bias", [1]),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"1": 1e39}),
        ("logit_bias", {"1": None}),
        ("stop", 1),
        ("stop", ["a", ""]),
        ("stop", ["a", 1]),
        ("stop", ["a"] * 17),
        ("chat_template_kwargs", []),
        ("logprobs", 1),
        ("top_logprobs", 1),
        ("tools", {}),
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "web_search", "name": "f"}]),
        ("tools", [{"type": "function", "function": {"name": ""}}]),
        ("tools", [WEATHER, WEATHER]),
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": []}}]),
        ("tool_choice", "maybe"),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function"}),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("response_format", "json"),
        ("response_format", {"type": "json_schema"}),
        ("grammar", ""),
        ("grammar", {}),
        # not supported yet
        ("adapters", "a"),
        ("draft_model", "d"),
        ("role_mapping", {"user": "U: "}),
        ("num_draft_tokens", 3),
        ("adapter_path", "a"),
        ("p_less", True),
        ("reasoning", {"effort": "low"}),
        ("thinking_start_token", "<t>"),
        ("thinking_end_token", "</t>"),
        ("resize_shape", [224]),
        ("min_pixels", 0),
        ("max_pixels", "1"),
        ("tool_parser", "json"),
        ("context_management", [{"type": "compaction", "compact_threshold": 1}]),
        ("enable_thinking", "no"),
        ("reasoning_effort", ""),
        ("reasoning_effort", 1),
    ],
)
def test_a_wrong_or_unsupported_field_is_named(field: str, value: Any) -> None:
    error = refused_chat({"messages": [USER], field: value})
    assert error.failure.param == field
    assert field in error.failure.message


def test_a_field_within_a_field_is_named() -> None:
    error = refused_chat({"messages": [USER], "stream_options": {"include_usage": 1}})
    assert error.failure.param == "stream_options.include_usage"


@pytest.mark.parametrize(
    "prompt", ["", [], [""], [[]], ["a", 1], [1, "a"], [[1], "a", None], [-1], [True], [2**31], {}, 1, None]
)
def test_what_is_not_a_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(FailureError) as caught:
        completion(prompt)
    assert caught.value.failure.param == "prompt"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("echo", 1),
        ("logprobs", 21),
        ("best_of", 21),
        ("best_of", 0),
        ("suffix", 1),
        ("num_draft_tokens", 3),
        ("top_logprobs", 3),
        ("max_tokens", 0),
    ],
)
def test_unsupported_fields_of_completions_are_named(field: str, value: Any) -> None:
    with pytest.raises(FailureError) as caught:
        completion("Hi", **{field: value})
    assert caught.value.failure.param == field


def test_choices_of_one_request_are_bounded() -> None:
    assert len(completion(["a"] * 16, n=8)) == 128
    with pytest.raises(FailureError, match="128"):
        completion(["a"] * 17, n=8)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("json_schema", "response_format"),
        ("required_tools", "tool_choice"),
        ("messages[0].parts[0]", "messages[0].content[0]"),
        ("messages[0].parts[0].text", "messages[0].content[0].text"),
        ("messages[0].parts[1]", "messages[0].content[1].image_url"),
        ("messages[1].parts[0]", "messages[1].content[0]"),
        ("messages[7].parts[0]", "messages[7].content[0]"),  # not of this chat
        ("images[0]", "messages[0].content[1].image_url"),
        ("images[1]", "messages"),  # not of this chat
        *(
            (same, same)
            for same in ("messages", "messages[1]", "messages[1].role", "tools", "grammar", "max_tokens", "model")
        ),
        ("messages[1].tool_calls[0].function.arguments", "messages[1].tool_calls[0].function.arguments"),
    ],
)
def test_fields_of_the_wire_have_openais_names(field: str, name: str) -> None:
    turns = [{"role": "user", "content": [HELLO, picture(PNG)]}, {"role": "user", "content": [HELLO, HELLO]}]
    assert ChatText(parse_chat(orjson.dumps({"messages": turns}))).field_name(field) == name


def test_fields_of_a_completion_have_openais_names() -> None:
    names = CompletionText(parse_completion(b'{"prompt": "Hi"}')).field_name
    assert [names(field) for field in ("prompt", "json_schema", "top_k")] == ["prompt", "response_format", "top_k"]


def test_a_million_calls_are_refused_quickly() -> None:
    def refuse() -> None:
        error = refused_chat({"messages": [{"role": "assistant", "content": None, "tool_calls": [3] * 1_000_000}]})
        assert error.failure.param == "messages"

    assert_cheap(2, refuse)
