from typing import Any

import orjson
import pytest

from broker.wire.failure import FailureError
from broker.wire.from_gateways import InferenceRequest
from broker.wire.packing import pack, unpack
from broker.wire.work import Generate
from gateway.core.ask import generate_whole
from gateway.core.content import Image
from gateway.core.sampling import Defaults
from gateway.openai.requests import chat_work, completion_work, parse_chat, parse_completion
from gateway.openai.text import ChatText
from tests.gateway.openai.bodies import (
    CALL,
    DEFAULTS,
    HELLO,
    PNG,
    TIME,
    USER,
    WEATHER,
    chat,
    completion,
    picture,
)


def test_defaults() -> None:
    assert chat() == [Generate(messages=[USER], max_tokens=100, max_tokens_is_default=True)]
    nothing = dict.fromkeys(("n", "stop", "seed", "stream", "temperature", "top_p", "max_tokens", "tools", "logprobs"))
    nothing |= dict.fromkeys(("tool_choice", "top_logprobs", "response_format", "grammar", "chat_template_kwargs"))
    assert chat(**nothing) == chat()


def test_the_choices_of_a_request_are_known_as_one_whatever_their_seed_and_their_stream() -> None:
    def origins(**fields: Any) -> set[bytes]:
        bodies = [generate_whole("m", unit).body for unit in chat(**fields)]
        return {body.origin for body in bodies if isinstance(body, InferenceRequest)}

    alike = origins(n=3) | origins(n=3, seed=1) | origins(seed=2, stream=True)
    assert len(alike) == 1
    assert alike.isdisjoint(origins(tools=[WEATHER]))
    assert all(alike)


def test_every_field_reaches_the_wire() -> None:
    [work] = chat(
        max_tokens=7,
        temperature=0,
        top_p=0.5,
        seed=3,
        stop="\n",
        stream=True,
        chat_template_kwargs={"enable_thinking": False},
    )
    assert work == Generate(
        messages=[USER],
        stream=True,
        max_tokens=7,
        temperature=0,
        top_p=0.5,
        seed=3,
        stop=["\n"],
        chat_template_kwargs={"enable_thinking": False},
    )


def test_sampling_fields_reach_the_wire_under_their_names() -> None:
    fields = {
        "top_k": 40,
        "min_p": 0.1,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "logit_bias": {"7": -100},
        "repetition_penalty": 1.1,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.5,
        "repetition_context_size": 64,
        "presence_context_size": 0,
        "frequency_context_size": 10,
    }
    for [work] in (chat(**fields), completion("Hi", **fields)):
        assert {name: getattr(work, name) for name in fields} == fields
    assert chat(**dict.fromkeys(fields)) == chat()


def test_tools_reach_the_wire() -> None:
    [work] = chat(tools=[WEATHER, TIME])
    assert (work.tools, work.required_tools) == ([WEATHER, TIME], [])
    assert chat(tools=[WEATHER], tool_choice="none") == chat()
    assert chat(tools=[WEATHER, TIME], tool_choice="required")[0].required_tools == ["weather", "time"]
    named = {"type": "function", "function": {"name": "time"}}
    assert chat(tools=[WEATHER, TIME], tool_choice=named)[0].required_tools == ["time"]
    # Several calls at once unless the client does not want them; of a named function there is one, as OpenAI has it.
    for fields, one_call in (
        ({}, False),
        ({"parallel_tool_calls": True}, False),
        ({"parallel_tool_calls": False}, True),
        ({"tool_choice": "required"}, False),
        ({"tool_choice": "required", "parallel_tool_calls": False}, True),
        ({"tool_choice": named}, True),
    ):
        assert chat(tools=[WEATHER, TIME], **fields)[0].one_call is one_call


def test_calls_and_their_results_are_sent_back() -> None:
    turns = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sunny"}]},
    ]
    assert chat(messages=turns)[0].messages == [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]


def test_reasoning_is_sent_back_under_either_name() -> None:
    turns = [{"role": "assistant", "content": "Hi", name: "hm"} for name in ("reasoning", "reasoning_content")]
    turns.append({"role": "assistant", "content": "Hi", "reasoning": "no", "reasoning_content": "hm"})
    assert chat(messages=turns)[0].messages == [{"role": "assistant", "content": "Hi", "reasoning_content": "hm"}] * 3


def test_what_binds_the_answer_reaches_the_wire() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    given = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    for [work] in (chat(response_format=given), completion("Hi", response_format=given)):
        assert (work.json_schema, work.strict) == (schema, True)
    for strict in ({}, {"strict": False}, {"strict": None}):
        [work] = chat(response_format={"type": "json_schema", "json_schema": {"name": "x", **strict, "schema": schema}})
        assert (work.json_schema, work.strict) == (schema, False)
    assert chat(response_format={"type": "json_object"})[0].json_schema == {"type": "object"}
    untyped = {"properties": schema["properties"]}
    assert chat(response_format={"type": "json_object", "schema": untyped})[0].json_schema == schema
    assert chat(grammar='start: "a"')[0].grammar == 'start: "a"'


def test_tools_and_a_bound_answer_go_together() -> None:
    for choice, required in (("auto", []), ("required", ["weather"])):
        for bound in ({"grammar": 'start: "a"'}, {"response_format": {"type": "json_object"}}):
            [work] = chat(tools=[WEATHER], tool_choice=choice, **bound)
            assert (work.tools, work.required_tools) == ([WEATHER], required)
            assert (work.grammar is None) == (work.json_schema is not None)


def test_what_other_servers_take_is_taken() -> None:
    assert chat(stop="") == chat()
    whole = {"max_tokens": 16.0, "top_k": 40.0, "seed": 3.0}
    assert [(u.max_tokens, u.top_k, u.seed) for u in (*chat(**whole), *completion("Hi", **whole))] == [(16, 40, 3)] * 2
    assert chat(temperature=30)[0].temperature == 30
    assert chat(logit_bias={"7": -1e9, "8": 500})[0].logit_bias == {"7": -1e9, "8": 500}


def test_a_function_alone_is_a_tool() -> None:
    function = {"name": "weather", "parameters": {"type": "object"}}
    for bare in (function, {"type": "function", **function}):
        [work] = chat(tools=[bare], tool_choice="required")
        assert (work.tools, work.required_tools) == ([WEATHER], ["weather"])


def test_messages_may_lack_what_templates_can_do_without() -> None:
    turns: list[dict[str, Any]] = [
        {"role": "user"},
        {"role": "system", "content": None},
        {"role": "tool", "content": None},
    ]
    assert chat(messages=turns)[0].messages == [{"role": turn["role"], "content": ""} for turn in turns]


@pytest.mark.parametrize(
    ("arguments", "text"), [({"city": "Paris"}, '{"city":"Paris"}'), (None, "{}"), ({}, "{}"), ("", "")]
)
def test_arguments_that_are_sent_back_as_an_object_are_text(arguments: Any, text: str) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
    [work] = chat(messages=[{"role": "assistant", "tool_calls": [call]}])
    assert work.messages is not None
    assert work.messages[0]["tool_calls"][0]["function"]["arguments"] == text


def test_logprobs_reach_the_wire() -> None:
    assert chat(logprobs=True)[0].logprobs == 0
    assert chat(logprobs=True, top_logprobs=5)[0].logprobs == 5
    assert chat(logprobs=False)[0].logprobs is None
    assert completion("Hi", logprobs=0)[0].logprobs == 0
    assert completion("Hi")[0].logprobs is None
    assert completion("Hi", logprobs=True)[0].logprobs == 0
    assert completion("Hi", logprobs=False, top_logprobs=-1)[0].logprobs is None


def test_what_a_request_does_not_say_the_settings_do() -> None:
    kwargs: dict[str, Any] = {"enable_thinking": False, "style": "a"}
    defaults = Defaults(max_tokens=7, temperature=0.5, top_k=40, repetition_penalty=1.1, chat_template_kwargs=kwargs)

    def work(**fields: Any) -> Generate:
        [unit] = chat_work(parse_chat(orjson.dumps({"messages": [USER], **fields})), [], defaults)
        return unit

    expected = Generate(
        messages=[USER],
        max_tokens=7,
        max_tokens_is_default=True,
        temperature=0.5,
        top_k=40,
        repetition_penalty=1.1,
        chat_template_kwargs=kwargs,
    )
    assert work() == work(temperature=None, chat_template_kwargs=None) == expected
    said = work(temperature=0, top_k=0, repetition_penalty=0, max_completion_tokens=9, reasoning_effort="none")
    assert (said.temperature, said.top_k, said.repetition_penalty, said.max_tokens) == (0, 0, 0, 9)
    assert not said.max_tokens_is_default
    assert work(chat_template_kwargs={"style": "b"}).chat_template_kwargs == {"enable_thinking": False, "style": "b"}
    assert work(enable_thinking=True).chat_template_kwargs == {"enable_thinking": True, "style": "a"}
    [text] = completion_work(parse_completion(orjson.dumps({"prompt": "Hi", "top_k": 1})), defaults)
    assert text == Generate(
        prompt="Hi", max_tokens=7, max_tokens_is_default=True, temperature=0.5, top_k=1, repetition_penalty=1.1
    )


def test_max_completion_tokens_wins() -> None:
    assert chat(max_tokens=7, max_completion_tokens=8)[0].max_tokens == 8


def test_messages_become_plain_text() -> None:
    parts = [{"type": "text", "text": "Hello"}, {"type": "input_text", "text": ", "}]
    parts.append({"type": "output_text", "text": "world"})
    [work] = chat(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": parts, "name": "eve"},
            {"role": "assistant", "content": None, "refusal": None, "tool_calls": []},
            {"role": "assistant"},
        ]
    )
    assert work.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello, world", "name": "eve"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": ""},
    ]


def test_images_keep_their_places_among_the_texts() -> None:
    first = [HELLO, picture({"url": PNG, "detail": "low"}), {"type": "text", "text": ""}, picture("https://a/b.jpg")]
    turns = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": [HELLO]},
        {"role": "user", "content": [picture({"url": "DATA:IMAGE/PNG;x=y;BASE64,iVBORw0KGgo=", "detail": None})]},
        {"role": "user", "content": [{"type": "input_image", "image_url": PNG}]},
    ]
    wanted = parse_chat(orjson.dumps({"messages": turns}))
    png = Image(b"\x89PNG\r\n\x1a\n")
    assert wanted.images == [png, Image("https://a/b.jpg"), png, png]
    places = ["messages[0].content[1]", "messages[0].content[3]", "messages[2].content[0]", "messages[3].content[0]"]
    names = ChatText(wanted).field_name
    assert [names(f"images[{number}]") for number in range(4)] == [f"{place}.image_url" for place in places]
    files = [b"1", b"2", b"3", b"4"]
    [work] = chat_work(wanted, files, DEFAULTS)
    assert work.images == files
    assert work.messages == [
        {"role": "user", "content": [HELLO, {"type": "image"}, {"type": "text", "text": ""}, {"type": "image"}]},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": [{"type": "image"}]},
        {"role": "user", "content": [{"type": "image"}]},
    ]
    assert unpack(Generate, pack(work)) == work


def test_sounds_keep_their_places_among_texts_and_images() -> None:
    def sound(data: str, kind: str = "wav") -> dict[str, Any]:
        return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}

    turns = [
        {"role": "user", "content": [HELLO, sound("QQ=="), picture(PNG), sound("Qg==\n", "mp3")]},
        {"role": "user", "content": [sound("Qw==", "flac")]},
    ]
    wanted = parse_chat(orjson.dumps({"messages": turns}))
    assert len(wanted.images) == 1
    names = ChatText(wanted).field_name
    places = ["messages[0].content[1]", "messages[0].content[3]", "messages[1].content[0]"]
    assert [names(f"audios[{number}]") for number in range(4)] == [*places, "messages"]
    assert names("images[0]") == "messages[0].content[2].image_url"
    assert names("messages[0].parts[1]") == places[0]
    [work] = chat_work(wanted, [b"png"], DEFAULTS)
    assert (work.images, work.audios) == ([b"png"], [b"A", b"B", b"C"])
    audio = {"type": "audio"}
    assert work.messages == [
        {"role": "user", "content": [HELLO, audio, {"type": "image"}, audio]},
        {"role": "user", "content": [audio]},
    ]
    assert unpack(Generate, pack(work)) == work


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,iVBORw0KGgo=\n",
        "data:image/png;base64,iVBO\r\n Rw0K\tGgo=",
        "data:image/png; base64,iVBORw0KGgo=",
        "data: image/png ;charset=utf-8; base64 , iVBORw0KGgo=",
    ],
)
def test_spaces_in_a_data_url_are_nothing(url: str) -> None:
    """`base64 file` writes lines of 76 characters."""
    wanted = parse_chat(orjson.dumps({"messages": [{"role": "user", "content": [picture(url)]}]}))
    assert wanted.images == [Image(b"\x89PNG\r\n\x1a\n")]


def test_choices_differ_by_their_seed() -> None:
    assert [unit.seed for unit in chat(n=3, seed=41)] == [41, 42, 43]
    assert [unit.seed for unit in chat(n=2, seed=2**63 - 1)] == [2**63 - 1, -(2**63)]
    assert [unit.seed for unit in chat(n=2)] == [None, None]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Hi", ["Hi"]),
        (["Hi", "Ho"], ["Hi", "Ho"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_prompts_are_one_unit_of_work_each(prompt: Any, expected: list[Any]) -> None:
    assert [unit.prompt for unit in completion(prompt)] == expected
    twice = completion(prompt, n=2, seed=1)
    assert [unit.prompt for unit in twice] == [p for p in expected for _ in range(2)]
    assert [unit.seed for unit in twice] == [1, 2] * len(expected)


def test_unknown_fields_are_ignored() -> None:
    assert chat(user="me", metadata={}, store=False, parallel_tool_calls=True, no_such_field=1) == chat()


def test_values_that_change_nothing_are_accepted() -> None:
    neutral = {"tools": [], "tool_choice": "none", "logprobs": False, "frequency_penalty": 0.0, "logit_bias": {}}
    assert chat(**neutral, response_format={"type": "text"}) == chat()
    unsupported: dict[str, Any] = {"adapters": "default_model", "draft_model": "default_model", "adapter_path": None}
    unsupported |= {"reasoning": None, "tool_parser": None}
    unsupported |= {"top_n_sigma": 0.0, "p_less": False, "typical_p": 1.0, "role_mapping": {}, "context_management": []}
    assert chat(**unsupported, enable_thinking=None, reasoning_effort=None) == chat()


def test_a_thinking_budget_goes_to_the_worker() -> None:
    assert [chat(thinking_budget=budget)[0].thinking_budget for budget in (0, 100, 16.0, None)] == [0, 100, 16, None]
    for wrong in (-1, 1.5, "10", True):
        with pytest.raises(FailureError) as raised:
            chat(thinking_budget=wrong)
        assert raised.value.failure.param == "thinking_budget"


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"reasoning_effort": "high"}, {"enable_thinking": True, "reasoning_effort": "high"}),
        ({"reasoning_effort": "none", "enable_thinking": True}, {"enable_thinking": True}),
        ({"enable_thinking": False, "chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": True}),
        ({"enable_thinking": True, "chat_template_kwargs": {"a": 1}}, {"enable_thinking": True, "a": 1}),
    ],
)
def test_thinking_is_the_templates_matter(fields: dict[str, Any], kwargs: dict[str, Any]) -> None:
    assert chat(**fields)[0].chat_template_kwargs == kwargs
