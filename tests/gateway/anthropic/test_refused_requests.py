"""What is refused, with the path in the client's words."""

from typing import Any

import orjson
import pytest

from gateway.anthropic.requests import parse
from tests.gateway.anthropic.bodies import (
    ANSWER,
    PNG,
    SEARCH,
    USER,
    WEATHER,
    image,
    refused,
    result,
    says,
    text,
    use,
)
from tests.timing import assert_cheap

CALLING = says("assistant", text("Hm."), use())
DEEP: Any = {}
for _ in range(300):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b"{", None),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [USER] * 4097}, "messages"),
        ({"messages": ["Hi"]}, "messages.0"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [USER, ANSWER]}, "messages.1"),
        ({"messages": [USER], "max_tokens": 0}, "max_tokens"),
        ({"messages": [USER], "max_tokens": "9"}, "max_tokens"),
        ({"messages": [USER], "model": 5}, "model"),
        ({"messages": [USER], "stream": "yes"}, "stream"),
        ({"messages": [USER], "temperature": -1}, "temperature"),
        ({"messages": [USER], "top_p": 2}, "top_p"),
        ({"messages": [USER], "stop_sequences": "x"}, "stop_sequences"),
        ({"messages": [USER], "stop_sequences": [""]}, "stop_sequences"),
        ({"messages": [USER], "stop_sequences": ["x"] * 17}, "stop_sequences"),
        ({"messages": [USER], "system": 5}, "system"),
        ({"messages": [USER], "system": [image(PNG)]}, "system.0.source"),
        ({"messages": [USER], "system": [text("a"), text(5)]}, "system.1.text"),
        ({"messages": [USER], "thinking": True}, "thinking"),
        ({"messages": [USER], "thread": {"type": "create"}}, "thread"),
        ({"messages": [USER], "thread": {"type": "continue", "previous_message_id": "msg_1"}}, "thread"),
        ({"messages": [USER], "thinking": {"type": "on"}}, "thinking.type"),
        ({"messages": [USER], "thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
        ({"messages": [USER], "thinking": {"type": "enabled", "budget_tokens": 1e30}}, "thinking.budget_tokens"),
        ({"messages": [USER], "output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"messages": [USER], "output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"messages": [USER], "output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        (
            {"messages": [USER], "output_config": {"format": {"type": "json_schema", "schema": {"const": 2**70}}}},
            "output_config",
        ),
        ({"messages": [USER], "tools": {}}, "tools"),
        ({"messages": [USER], "tools": ["x"]}, "tools.0"),
        ({"messages": [USER], "tools": [{"input_schema": {}}]}, "tools.0.name"),
        ({"messages": [USER], "tools": [{"name": 5, "input_schema": {}}]}, "tools.0.name"),
        ({"messages": [USER], "tools": [WEATHER, WEATHER]}, "tools.1.name"),
        ({"messages": [USER], "tools": [WEATHER, {"name": "x"}]}, "tools.1.input_schema"),
        ({"messages": [USER], "tools": [{**WEATHER, "input_schema": []}]}, "tools.0.input_schema"),
        ({"messages": [USER], "tools": [{**WEATHER, "description": 5}]}, "tools.0.description"),
        ({"messages": [USER], "tools": [{**WEATHER, "strict": 1}]}, "tools.0.strict"),
        ({"messages": [USER], "tools": [{**WEATHER, "input_schema": {"const": 2**64}}]}, "tools.0"),
        ({"messages": [USER], "tool_choice": "any"}, "tool_choice"),
        ({"messages": [USER], "tool_choice": {"type": "some"}}, "tool_choice"),
        ({"messages": [USER], "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"messages": [USER], "tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
        (
            {"messages": [USER], "tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}},
            "tool_choice.disable_parallel_tool_use",
        ),
    ],
)
def test_a_mistake_names_its_field(body: dict[str, Any] | bytes, param: str | None) -> None:
    assert refused(body).param == param


@pytest.mark.parametrize(
    ("block", "path"),
    [
        ("Hi", ""),
        (None, ""),
        ({}, ""),
        ({"type": 5}, ""),
        ({"type": "video", "source": {}}, ".type"),
        ({"type": "toString"}, ".type"),
        (text(None), ".text"),
        (text(["x"]), ".text"),
        (image(None), ".source"),
        (image("data:image/png;base64,iVBORw0KGgo="), ".source"),
        (image({"type": "file", "file_id": "file_1"}), ".source"),
        (image({**PNG, "media_type": "text/html"}), ".source.media_type"),
        (image({**PNG, "media_type": "image/tiff"}), ".source.media_type"),
        (image({**PNG, "media_type": ["image/png"]}), ".source.media_type"),
        (image({"type": "base64", "data": "iVBORw0KGgo="}), ".source.media_type"),
        (image({**PNG, "data": 5}), ".source.data"),
        (image({**PNG, "data": "?"}), ".source"),
        (image({**PNG, "data": ""}), ".source"),
        (image({"type": "url", "url": None}), ".source.url"),
        (image({"type": "url", "url": "data:text/html;base64,AAAA"}), ".source"),
        (use(), ""),
        ({"type": "thinking", "thinking": "x", "signature": ""}, ""),
        (result(5), ".tool_use_id"),
        (result(None), ".tool_use_id"),
        (result(""), ".tool_use_id"),
        (result(["toolu_1"]), ".tool_use_id"),
        (result("toolu_2"), ".tool_use_id"),
        (result(content=5), ".content"),
        (result(content=[5]), ".content.0"),
        (result(content=[text("x"), image({})]), ".content.1.source"),
        (result(content=[result()]), ".content.0"),
        (result(content=[use()]), ".content.0"),
        (result(is_error="no"), ".is_error"),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}}, ".source"),
        ({"type": "document", "source": {"type": "text", "data": 5}}, ".source.data"),
        ({"type": "document", "source": {"type": "content", "content": [use()]}}, ".source.content.0"),
        ({"type": "search_result", "title": "x", "source": "y", "content": [image(PNG)]}, ".content.0.source"),
        ({"type": "search_result", "content": []}, ".title"),
    ],
)
def test_a_wrong_block_has_its_path(block: Any, path: str) -> None:
    body = {"messages": [USER, CALLING, {"role": "user", "content": [text("Look."), block]}]}
    assert refused(body).param == f"messages.2.content.1{path}"


@pytest.mark.parametrize(
    ("block", "path"),
    [
        (use(5), ".id"),
        (use(""), ".id"),
        (use({"a": 1}), ".id"),
        (use(name=None), ".name"),
        (use(arguments=[]), ".input"),
        (use(arguments="{}"), ".input"),
        (use(arguments=DEEP), ".input"),
        (use(arguments={"n": 2**70}), ".input"),
        (image(PNG), ".source"),
        (result(), ""),
        ({"type": "thinking", "thinking": None}, ".thinking"),
    ],
)
def test_a_wrong_block_of_an_answer_has_its_path(block: Any, path: str) -> None:
    body = {"messages": [USER, {"role": "assistant", "content": [block]}, USER]}
    assert refused(body).param == f"messages.1.content.0{path}"


@pytest.mark.parametrize(
    ("messages", "path"),
    [
        ([says("user", result())], "messages.0.content.0.tool_use_id"),
        ([USER, CALLING, says("user", result(), result())], "messages.2.content.1.tool_use_id"),
        ([USER, CALLING, says("user", result()), says("user", result())], "messages.3.content.0.tool_use_id"),
        ([USER, says("assistant", use(), use(name="time")), USER], "messages.1.content.1.id"),
        ([USER, says("assistant", use()), says("assistant", use()), USER], "messages.2.content.0.id"),
        ([says("system", image(PNG)), USER], "messages.0.content.0.source"),
    ],
)
def test_calls_and_results_that_do_not_fit(messages: list[Any], path: str) -> None:
    assert refused({"messages": messages}).param == path


def test_an_id_may_come_again_once_it_is_answered() -> None:
    turn = [says("assistant", use()), says("user", result())]
    assert len(parse(orjson.dumps({"messages": [USER, *turn, *turn, USER]})).conversation.messages) == 6


def test_a_count_may_end_with_an_answer() -> None:
    assert parse(orjson.dumps({"messages": [USER, ANSWER]}), is_counted=True).conversation.messages == [USER, ANSWER]


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [says("user", *[text("x")] * 100_000)]},
        {"messages": [USER] * 100_000},
        {"messages": [USER, CALLING, says("user", result(content=[text("x")] * 100_000))]},
        {
            "messages": [
                says("user", {"type": "document", "source": {"type": "content", "content": [text("x")] * 100_000}})
            ]
        },
        {"messages": [USER], "system": [text("x")] * 100_000},
        {"messages": [USER], "tools": [SEARCH] * 100_000},
    ],
    ids=("blocks", "messages", "in a result", "in a document", "system", "tools"),
)
def test_a_hundred_thousand_are_refused_quickly(body: dict[str, Any]) -> None:
    data = orjson.dumps(body)

    def refuse() -> None:
        assert refused(data).param in ("messages", "tools")

    assert_cheap(3, refuse)  # well below one alone; work that grows with the square takes minutes


def test_documents_in_documents_are_refused_before_they_are_too_many_to_read() -> None:
    block: Any = text("x")
    for _ in range(150):
        block = {"type": "document", "source": {"type": "content", "content": [block]}}
    assert str(refused({"messages": [says("user", block)]}).param).startswith("messages.0.content.0.source.content.0")
