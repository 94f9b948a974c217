"""Bodies of Ollama's clients -> the work of the wire, and what is refused in their words."""

import base64
import copy
import json
import random
from typing import Any

import pytest

from broker.wire.failure import Failure, FailureError
from broker.wire.work import Embed, Generate
from gateway.core import ask
from gateway.core.content import Image
from gateway.core.sampling import Defaults
from gateway.core.validation import object_of, validated
from gateway.ollama.dialect import OLLAMA
from gateway.ollama.requests import (
    OllamaEmbedBody,
    chat_unit,
    embed_work,
    generate_unit,
    parse_ollama_chat,
    parse_ollama_generate,
)
from gateway.ollama.text import OllamaChatText, OllamaGenerateText
from tests.fuzz.requests import _mutated
from tests.gateway.ollama.bodies import USER, WEATHER, packed
from tests.timing import assert_cheap

DEFAULTS = Defaults(max_tokens=4096)
PNG = base64.b64encode(b"png").decode()
JPG = base64.b64encode(b"jpg").decode()


def chat(**fields: Any) -> Generate:
    return chat_unit(parse_ollama_chat(packed(**fields)), [], DEFAULTS)


def generate(**fields: Any) -> Generate:
    return generate_unit(parse_ollama_generate(packed(**fields)), [], DEFAULTS)


def test_a_stream_is_the_default() -> None:
    assert chat(messages=[USER]).stream
    assert not chat(messages=[USER], stream=False).stream
    assert generate(prompt="Hi", stream=None).stream


def test_a_conversation_with_tools_and_thinking() -> None:
    messages = [
        {"role": "System", "content": "Be brief."},
        USER,
        {
            "role": "assistant",
            "content": "",
            "thinking": "Look it up.",
            "tool_calls": [
                {"function": {"name": "get_weather", "arguments": {"city": "Rome", "days": [1, 2]}}},
                {
                    "id": "c2",
                    "type": "function",
                    "function": {"index": 1, "name": "now", "arguments": '{"zone": "UTC"}'},
                },
                {"function": {"name": "now", "arguments": None}},
            ],
        },
        {"role": "tool", "content": "11 degrees", "tool_name": "get_weather"},
        {"role": "tool", "content": "noon", "tool_call_id": "c2", "images": []},
    ]
    unit = chat(messages=messages, tools=[WEATHER])
    called = [
        {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome", "days": [1, 2]}}},
        {"id": "c2", "type": "function", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}},
        {"type": "function", "function": {"name": "now", "arguments": {}}},
    ]
    assert unit.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "reasoning_content": "Look it up.", "tool_calls": called},
        {"role": "tool", "content": "11 degrees", "name": "get_weather"},
        {"role": "tool", "content": "noon", "tool_call_id": "c2"},
    ]
    assert unit.tools == [WEATHER]


def test_images_come_before_the_text_that_speaks_of_them() -> None:
    messages = [{**USER, "images": [PNG, f"data:image/jpeg;base64,{JPG}"]}, {"role": "user", "images": [PNG]}]
    body = parse_ollama_chat(packed(messages=messages))
    wanted = OllamaChatText(body)
    assert wanted.images == [Image(b"png"), Image(b"jpg"), Image(b"png")]
    [unit] = wanted.units([b"png", b"jpg", b"png"], DEFAULTS)
    assert unit.messages is not None
    assert [message["content"] for message in unit.messages] == [
        [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Hi"}],
        [{"type": "image"}, {"type": "text", "text": ""}],
    ]
    names = {
        "images[1]": "messages[0].images[1]",
        "images[2]": "messages[1].images[0]",
        "messages[0].parts[1]": "messages[0].images[1]",
        "messages[0].parts[2]": "messages[0].content",
        "messages[1].parts[0]": "messages[1].images[0]",
        "messages[0].reasoning_content": "messages[0].thinking",
        "messages[].name": "messages[].tool_name",
        "json_schema": "format",
        "max_tokens": "options.num_predict",
        "repetition_penalty": "options.repeat_penalty",
        "typical_p": "options.typical_p",
        "tools[0].function.strict": "tools[0].function.strict",
    }
    assert {field: wanted.field_name(field) for field in names} == names


@pytest.mark.parametrize(
    ("think", "variables"),
    [
        (None, {}),
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("low", {"enable_thinking": True, "reasoning_effort": "low"}),
        ("max", {"enable_thinking": True, "reasoning_effort": "max"}),
    ],
)
def test_think_is_for_the_template(think: object, variables: dict[str, Any]) -> None:
    assert chat(messages=[USER], think=think).chat_template_kwargs == variables
    assert generate(prompt="Hi", think=think).chat_template_kwargs == variables


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [(None, None), ("", None), ("json", {"type": "object"}), ({"type": "array"}, {"type": "array"})],
)
def test_format_is_json_or_a_schema(wanted: object, schema: object) -> None:
    unit = chat(messages=[USER], format=wanted)
    assert (unit.json_schema, unit.strict) == (schema, False)


def test_logprobs() -> None:
    assert chat(messages=[USER]).logprobs is None
    assert chat(messages=[USER], logprobs=True).logprobs == 0
    assert chat(messages=[USER], logprobs=True, top_logprobs=3).logprobs == 3
    assert chat(messages=[USER], top_logprobs=3).logprobs is None  # as Ollama has it


def test_a_prompt_is_a_users_turn() -> None:
    assert generate(prompt="Hi", system="Be brief.").messages == [{"role": "system", "content": "Be brief."}, USER]
    seen = parse_ollama_generate(packed(prompt="What?", images=[PNG], system="See."))
    [unit] = OllamaGenerateText(seen).units([b"png"], DEFAULTS)
    assert unit.images == [b"png"]
    assert unit.messages == [
        {"role": "system", "content": "See."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
    ]
    names = {"messages[0].content": "system", "messages[1].parts[1]": "prompt", "images[0]": "images[0]"}
    assert {field: OllamaGenerateText(seen).field_name(field) for field in names} == names


def test_a_raw_prompt_and_one_with_a_suffix_are_text_as_it_is() -> None:
    raw = generate(prompt="[INST] Hi [/INST]", raw=True)
    assert (raw.prompt, raw.messages, raw.suffix) == ("[INST] Hi [/INST]", None, None)
    gap = generate(prompt="def f(", suffix="return 1", system="Be brief.", think=True)
    assert (gap.prompt, gap.messages, gap.suffix) == ("def f(", None, "return 1")
    assert parse_ollama_generate(packed(prompt="a", suffix="b", system="c", think=True)).ignored == ["system", "think"]
    assert parse_ollama_generate(packed(prompt="a", suffix="b", raw=True)).ignored == ["suffix"]


def test_without_a_prompt_the_model_is_only_loaded() -> None:
    assert parse_ollama_generate(b"{}").is_empty
    assert parse_ollama_generate(packed(prompt="", system="Be brief.")).is_empty
    assert not parse_ollama_generate(packed(prompt="", suffix="return 1")).is_empty


def test_cuts_that_are_not_made_are_named() -> None:
    body = parse_ollama_chat(packed(messages=[USER], truncate=True, shift=True, options={"num_ctx": 8}))
    assert body.ignored == ["options.num_ctx", "truncate", "shift"]
    assert parse_ollama_chat(packed(messages=[USER], truncate=False, shift=False)).ignored == []


@pytest.mark.parametrize(
    ("fields", "work"),
    [
        ({"input": "a"}, Embed(["a"], truncate=True)),
        ({"input": ["a", "b"], "truncate": False, "dimensions": 8}, Embed(["a", "b"], 8)),
        ({"input": [], "dimensions": 0}, Embed([], truncate=True)),
        ({}, Embed([], truncate=True)),
    ],
)
def test_inputs(fields: dict[str, Any], work: Embed) -> None:
    assert embed_work(validated(OllamaEmbedBody, object_of(packed(**fields)))) == work


BAD_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"messages": "Hi"}, "messages: "),
    ({"messages": [3]}, "messages[0]: "),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role: "),
    ({"messages": [{"role": "narrator"}]}, "messages[0].role: "),
    ({"messages": [{"role": 7}]}, "messages[0].role: "),
    ({"messages": [USER, {"role": "user", "content": [{"type": "text"}]}]}, "messages[1].content: "),
    ({"messages": [{**USER, "images": "x"}]}, "messages[0].images: must be a list of images in base64"),
    ({"messages": [{**USER, "images": [PNG, 5]}]}, "messages[0].images[1]: must be an image in base64"),
    ({"messages": [{**USER, "images": [PNG, "§"]}]}, "messages[0].images[1]: the data is not base64"),
    ({"messages": [{**USER, "images": ["http://a/b.png"]}]}, "messages[0].images[0]: the data is not base64"),
    ({"messages": [{**USER, "images": ["data:text/plain;base64,YQ=="]}]}, "messages[0].images[0]: a data URL of type"),
    ({"messages": [{"role": "assistant", "images": [PNG]}]}, "messages[0].images: only a user's message"),
    ({"messages": [{**USER, "tool_calls": [{"function": {"name": "f"}}]}]}, "messages[0].tool_calls: only an assist"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function: "),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}]},
        "messages[0].tool_calls[0].function.name: ",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": 7, "function": {"name": "f"}}]}]},
        "messages[0].tool_calls[0].id: ",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"n": 2**70}}}]}]},
        "messages[0].tool_calls[0].function.arguments has an integer beyond 64 bits",
    ),
    ({"messages": [USER], "tools": {}}, "tools: must be a list of up to 128 tools"),
    ({"messages": [USER], "tools": [WEATHER, {"type": "web_search"}]}, "tools[1]: must be "),
    ({"messages": [USER], "tools": [WEATHER, WEATHER]}, "tools[1].function.name: must be a name that no other"),
    ({"messages": [USER], "tools": [{"function": {"name": "f", "parameters": 1}}]}, "tools[0].function.parameters: "),
    ({"messages": [USER], "think": "hard"}, 'think: must be true, false, "low"'),
    ({"messages": [USER], "format": "xml"}, 'format: must be "json" or a JSON schema'),
    ({"messages": [USER], "format": {"const": 2**70}}, "format has an integer beyond 64 bits"),
    ({"messages": [USER], "format": ["json"]}, 'format: must be "json" or a JSON schema'),
    ({"messages": [USER], "options": []}, "options: "),
    ({"messages": [USER], "options": {"temperature": -1}}, "options.temperature: "),
    ({"messages": [USER], "options": {"top_k": 1.5}}, "options.top_k: "),
    ({"messages": [USER], "options": {"stop": [""]}}, "options.stop: must be a list of up to 64 strings"),
    ({"messages": [USER], "options": {"num_predict": "10"}}, "options.num_predict: "),
    ({"messages": [USER], "keep_alive": "soon"}, "keep_alive: must be a number of seconds or a duration"),
    ({"messages": [USER], "top_logprobs": 21}, "top_logprobs: "),
    ({"messages": [USER], "stream": "no"}, "stream: "),
    ({"messages": [USER], "model": 5}, "model: "),
]


@pytest.mark.parametrize(("fields", "message"), BAD_CHATS)
def test_bad_chats_are_refused_in_ollamas_words(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FailureError) as error:
        parse_ollama_chat(packed(**fields))
    told = OLLAMA.error(error.value.failure)
    assert told.keys() == {"error"}
    assert str(told["error"]).startswith(message)
    assert OLLAMA.status(error.value.failure) == 400


BAD_PROMPTS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ["Hi"]}, "prompt: "),
    ({"prompt": "Hi", "template": "{{ .Prompt }}"}, "template is not supported"),
    ({"prompt": "Hi", "context": [1, 2]}, "context is not supported"),
    ({"prompt": "Hi", "width": 512}, "width is not supported"),
    ({"prompt": "Hi", "raw": True, "system": "Be brief."}, "system: a raw prompt has no system turn"),
    ({"prompt": "Hi", "raw": True, "images": [PNG]}, "images: a raw prompt"),
    ({"prompt": "Hi", "suffix": "x", "images": [PNG]}, "images: a raw prompt"),
    ({"prompt": "Hi", "format": {"const": 2**70}}, "format has an integer beyond 64 bits"),
    ({"prompt": "Hi", "images": [1]}, "images[0]: must be an image in base64"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_PROMPTS)
def test_bad_prompts_are_refused_in_ollamas_words(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FailureError) as error:
        parse_ollama_generate(packed(**fields))
    assert str(OLLAMA.error(error.value.failure)["error"]).startswith(message)


def test_what_changes_nothing_is_no_reason_to_refuse() -> None:
    assert generate(prompt="Hi", template="", context=[], suffix="", system="", images=None, raw=False).messages == [
        USER
    ]


@pytest.mark.parametrize("inputs", [3, {"a": 1}, ["a", 3], [["a"]], ["a"] * 2049])
def test_bad_inputs_are_refused(inputs: object) -> None:
    with pytest.raises(FailureError, match=r"^input: "):
        validated(OllamaEmbedBody, object_of(packed(input=inputs)))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"chat"', b"\xff"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    for parse in (parse_ollama_chat, parse_ollama_generate):
        with pytest.raises(FailureError, match="the body "):
            parse(body)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [USER] * 100_000},
        {"messages": [{**USER, "images": [5] * 100_000}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": 5}] * 100_000}]},
        {"messages": [{**USER, "images": [PNG] * 100}] * 1000},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}] * 1000}] * 100},
        {"messages": [USER], "tools": [WEATHER] * 100_000},
        {"messages": [USER], "options": {"stop": ["x"] * 100_000}},
    ],
    ids=["messages", "images", "calls", "right images", "right calls", "tools", "stops"],
)
def test_a_hundred_thousand_of_anything_are_refused_quickly(fields: dict[str, Any]) -> None:
    body = json.dumps(fields).encode()

    def refuse() -> None:
        with pytest.raises(FailureError):
            parse_ollama_chat(body)

    assert_cheap(5, refuse)  # one second alone; work that grows with the square takes minutes


def test_a_hundred_thousand_images_of_a_prompt_are_refused() -> None:
    with pytest.raises(FailureError, match="images: more than"):
        parse_ollama_generate(packed(prompt="Hi", images=[PNG] * 100_000))


def test_a_hundred_thousand_options_are_read_quickly() -> None:
    body = packed(messages=[USER], options={f"option{number}": number for number in range(100_000)})

    def read() -> None:
        assert len(parse_ollama_chat(body).ignored) == 100_000

    assert_cheap(2, read)


def test_mutated_bodies_are_served_or_refused_in_ollamas_form() -> None:
    """Nothing else comes of them, whatever it is."""
    sample: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": "Hi", "images": [PNG]},
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1]}}}],
                "thinking": "x",
            },
            {"role": "tool", "content": "y", "tool_name": "f"},
        ],
        "prompt": "Hi",
        "system": "Be brief.",
        "tools": [WEATHER],
        "think": "low",
        "format": {"type": "object"},
        "options": {"temperature": 0.5, "stop": ["a"], "num_predict": 5, "repeat_last_n": 9, "mirostat": 1},
        "keep_alive": "5m",
        "logprobs": True,
        "top_logprobs": 2,
    }
    refused: list[Failure] = []
    for seed in range(600):
        draw = random.Random(seed)
        body: Any = copy.deepcopy(sample)
        for _ in range(draw.randint(1, 3)):
            body = _mutated(body, draw)
        data = json.dumps(body).encode()
        try:
            read = parse_ollama_chat(data)
            ask.generate_stream("m", chat_unit(read, [], DEFAULTS))
            asked = parse_ollama_generate(data)
            ask.generate_stream("m", generate_unit(asked, [], DEFAULTS))
        except FailureError as error:
            refused.append(error.failure)
    assert {(OLLAMA.status(failure), *OLLAMA.error(failure)) for failure in refused} == {(400, "error")}
    assert 100 < len(refused) < 550
