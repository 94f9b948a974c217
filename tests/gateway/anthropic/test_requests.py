"""Anthropic's bodies as messages of the wire."""

import json
from typing import Any

import pytest

from gateway.core.sampling import Defaults
from tests.gateway.anthropic.bodies import (
    ANSWER,
    PNG,
    SEARCH,
    TIME,
    USER,
    WEATHER,
    image,
    result,
    says,
    text,
    use,
    wanted,
    work,
)

BILLING = "x-anthropic-billing-header: cc_version=2.1; cch=a1b2c;"


def test_texts() -> None:
    unit = work(says("user", text("One. "), text("Two.", cache_control={"type": "ephemeral"})), system="Be brief.")
    assert unit.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One. Two."}]
    blocks = work(USER, system=[text("Be brief.", cache_control={"type": "ephemeral", "ttl": "1h"}), text("Be kind.")])
    assert blocks.messages is not None
    assert blocks.messages[0] == {"role": "system", "content": "Be brief.\n\nBe kind."}
    assert work(USER, system=[]).messages == [USER]


@pytest.mark.parametrize(
    ("system", "written"),
    [
        ([text(BILLING), text("You help.")], ["You help."]),
        (f"{BILLING}\nYou help.", ["You help."]),
        ([text(f"{BILLING}\nYou help."), text("Well.")], ["You help.\n\nWell."]),
        (BILLING, []),
        ([text(BILLING)], []),
        # Elsewhere it is text.
        (f"You help.\n{BILLING}", [f"You help.\n{BILLING}"]),
        ([text("You help."), text(BILLING)], [f"You help.\n\n{BILLING}"]),
    ],
)
def test_the_billing_line_at_the_head_never_reaches_the_prompt(system: Any, written: list[str]) -> None:
    messages = work(USER, system=system).messages
    assert messages is not None
    assert [turn["content"] for turn in messages if turn["role"] == "system"] == written
    first = work({"role": "system", "content": system}, USER).messages
    assert first == messages


def test_images_travel_beside_the_messages_in_their_order() -> None:
    at = {"type": "url", "url": "https://host/cat.png"}
    read = wanted(says("user", text("What?"), image(PNG), image(at)), USER)
    assert [picture.source for picture in read.conversation.images] == [b"\x89PNG\r\n\x1a\n", "https://host/cat.png"]
    assert read.conversation.messages[0]["content"] == [{"type": "text", "text": "What?"}, *[{"type": "image"}] * 2]


def test_calls_and_their_results() -> None:
    thought = {"type": "thinking", "thinking": "I wonder.", "signature": "EqQBCkgIBB=="}
    hidden = {"type": "redacted_thinking", "data": "EmwKAhgBEgy"}
    calling = says("assistant", thought, hidden, text("I look."), use(), use("toolu_2", "time", {}))
    answered = says("user", text("And now?"), result("toolu_2", [text("noon"), text("!")]), result())
    unit = work(USER, calling, answered, tools=[WEATHER, TIME])
    assert unit.messages == [
        USER,
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "I wonder.",
            "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
                {"id": "toolu_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_2", "content": "noon!"},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "sunny"},
        {"role": "user", "content": "And now?"},
    ]
    assert [tool["function"]["name"] for tool in unit.tools] == ["weather", "time"]
    assert unit.tools[0]["function"]["description"] == "Tells."


@pytest.mark.parametrize(
    ("content", "more", "written"),
    [
        (None, {}, ""),
        ([], {}, ""),
        ("no such file", {"is_error": True}, "Error: no such file"),
        ([text("no"), text("ne")], {"is_error": True}, "Error: none"),
        ("fine", {"is_error": False}, "fine"),
        ([{"type": "tool_reference", "tool_name": "weather"}], {}, "weather"),
    ],
)
def test_results(content: Any, more: dict[str, Any], written: str) -> None:
    messages = work(USER, says("assistant", use()), says("user", result(content=content, **more))).messages
    assert messages is not None
    assert messages[2:] == [{"role": "tool", "tool_call_id": "toolu_1", "content": written}]


def test_images_of_results_follow_in_the_user_turn() -> None:
    """Only user turns may have images."""
    shown = result(content=[text("Seen: "), image(PNG)])
    other = result("toolu_2", [image(PNG)])
    read = wanted(USER, says("assistant", use(), use("toolu_2")), says("user", shown, other, text("Well?")))
    assert read.conversation.messages[2:] == [
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Seen: [image 1]"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "[image 2]"},
        {
            "role": "user",
            "content": [
                *({"type": "text", "text": "[image 1]"}, {"type": "image"}),
                *({"type": "text", "text": "[image 2]"}, {"type": "image"}),
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    assert read.field_name("images[1]") == "messages.2.content.1.content.0.source"
    assert read.field_name("messages[4].parts[1]") == "messages.2.content.0.content.1.source"


def test_documents_are_texts() -> None:
    plain = {"type": "text", "media_type": "text/plain", "data": "All of it."}
    document = {"type": "document", "source": plain, "title": "The book", "context": "old", "citations": {}}
    found = {"type": "search_result", "source": "https://a", "title": "A", "content": [text("found")]}
    shown = {"type": "document", "source": {"type": "content", "content": [text("see "), image(PNG)]}}
    summary = {"type": "compaction", "content": "We met."}
    messages = work(
        says("user", document, found, text("So?")), says("assistant", summary), says("user", shown)
    ).messages
    assert messages is not None
    assert messages[0]["content"] == "The book\nold\nAll of it.\n\nA\nhttps://a\nfound\n\nSo?"
    assert messages[1]["content"] == "We met."
    assert [part["type"] for part in messages[2]["content"]] == ["text", "text", "image", "text"]


def test_a_late_system_message_stays_where_it_stands() -> None:
    late = {"role": "system", "content": [text("It is"), text("Monday.")]}
    messages = work(USER, ANSWER, late, USER, system="Be brief.").messages
    assert messages is not None
    assert [turn["role"] for turn in messages] == ["system", "user", "assistant", "system", "user"]
    assert messages[3]["content"] == "It is\n\nMonday."
    after_results = work(USER, says("assistant", use()), says("user", result()), late).messages
    assert after_results is not None
    assert [turn["role"] for turn in after_results] == ["user", "assistant", "tool", "system"]


def test_blocks_of_anthropics_own_servers_are_left_out_and_named() -> None:
    searched = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    read = wanted(USER, says("assistant", text("I search."), searched, found, text(" Found.")), USER)
    assert read.conversation.messages[1] == {"role": "assistant", "content": "I search. Found."}
    assert list(read.ignored) == ["messages.1.content.1", "messages.1.content.2"]


def test_tools_of_anthropics_own_servers_are_left_out_and_named() -> None:
    bash = {"type": "bash_20250124", "name": "bash"}
    toolset = {"type": "mcp_toolset", "mcp_server_name": "x"}
    read = wanted(
        tools=[SEARCH, WEATHER, toolset, bash, {**TIME, "type": "custom"}, {**toolset, "mcp_server_name": "y"}]
    )
    assert [tool["function"]["name"] for tool in work(tools=[SEARCH, WEATHER]).tools] == ["weather"]
    assert list(read.ignored) == ["tools.0", "tools.2", "tools.3", "tools.5"]
    # Of the wire's tools each has the place that it has in the request.
    assert read.field_name("tools[1].function.parameters") == "tools.4.input_schema"
    assert read.field_name("tools[0].uniqueItems") == "tools.1.uniqueItems"
    for choice in ({"type": "tool", "name": "web_search"}, {"type": "any"}):
        forced = wanted(tools=[SEARCH], tool_choice=choice)
        assert list(forced.ignored) == ["tools.0", "tool_choice"]
        assert list(forced.required_tools) == []


@pytest.mark.parametrize(
    ("choice", "required", "one_call"),
    [
        (None, [], False),
        ({"type": "auto"}, [], False),
        ({"type": "auto", "disable_parallel_tool_use": True}, [], True),
        ({"type": "any"}, ["weather", "time"], False),
        ({"type": "any", "disable_parallel_tool_use": True}, ["weather", "time"], True),
        ({"type": "tool", "name": "time"}, ["time"], True),
    ],
)
def test_tool_choice(choice: Any, required: list[str], one_call: bool) -> None:
    unit = work(tools=[WEATHER, TIME], tool_choice=choice)
    assert (unit.required_tools, unit.one_call, len(unit.tools)) == (required, one_call, 2)


def test_without_tools_the_model_is_told_of_none() -> None:
    fields: dict[str, Any] = {"tools": [WEATHER, SEARCH], "tool_choice": {"type": "none"}}
    assert work(**fields).tools == []
    assert list(wanted(**fields).ignored) == ["tools"]


@pytest.mark.parametrize(
    ("fields", "kwargs", "budget"),
    [
        ({}, {"enable_thinking": False}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, {"enable_thinking": True}, 2000),
        ({"thinking": {"type": "enabled"}}, {"enable_thinking": True}, None),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, {"enable_thinking": True}, None),
        ({"thinking": {"type": "between_tools"}}, {"enable_thinking": True}, None),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}, None),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            {"enable_thinking": True, "reasoning_effort": "low"},
            None,
        ),
        ({"output_config": {"effort": "max"}}, {"enable_thinking": False, "reasoning_effort": "high"}, None),
    ],
)
def test_thinking(fields: dict[str, Any], kwargs: dict[str, Any], budget: int | None) -> None:
    unit = work(**fields)
    assert (unit.chat_template_kwargs, unit.thinking_budget) == (kwargs, budget)


def test_the_defaults_of_a_model_decide_where_the_client_does_not() -> None:
    defaults = Defaults(max_tokens=7, temperature=0.5, top_k=3, chat_template_kwargs={"enable_thinking": True})
    unit = wanted(max_tokens=None).work([], defaults)
    assert (unit.max_tokens, unit.max_tokens_is_default) == (7, True)
    assert (unit.temperature, unit.top_k) == (0.5, 3)
    assert unit.chat_template_kwargs == {"enable_thinking": True}
    stated = wanted(max_tokens=8, temperature=0, top_k=1, top_p=0.5, thinking={"type": "disabled"}).work([], defaults)
    assert (stated.max_tokens, stated.max_tokens_is_default) == (8, False)
    assert (stated.temperature, stated.top_k, stated.top_p) == (0, 1, 0.5)
    assert stated.chat_template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize("place", ["output_config", "output_format"])
def test_structured_output(place: str) -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    unit = work(**{place: form if place == "output_format" else {"format": form}})
    assert (unit.json_schema, unit.strict) == ({"type": "object"}, False)


def test_stop_sequences_and_a_stream() -> None:
    unit = work(stop_sequences=["\n\n", "END"], stream=True)
    assert (unit.stop, unit.stream) == (["\n\n", "END"], True)


def test_fields_that_change_nothing_pass() -> None:
    fields: dict[str, Any] = {
        "metadata": {"user_id": "user_1"},
        "service_tier": "auto",
        "betas": ["interleaved-thinking-2025-05-14"],
        "cache_control": {"type": "ephemeral"},
        "a_field_of_tomorrow": {"x": 1},
        **dict.fromkeys(("system", "stop_sequences", "tools", "tool_choice", "thinking", "output_config", "top_k")),
    }
    assert work(**fields) == work()
    edits = {"edits": [{"type": "clear_tool_uses_20250919"}]}
    read = wanted(context_management=edits, mcp_servers=[{"type": "url", "url": "https://x", "name": "x"}])
    assert list(read.ignored) == ["context_management", "mcp_servers"]


@pytest.mark.parametrize(
    ("wire", "client"),
    [
        ("json_schema", "output_config.format.schema"),
        ("required_tools", "tool_choice"),
        ("stop", "stop_sequences"),
        ("thinking_budget", "thinking.budget_tokens"),
        ("max_tokens", "max_tokens"),
        ("messages", "messages"),
        ("messages[0].content", "system"),
        ("messages[1].content", "messages.0.content"),
        ("messages[2].tool_calls[0].function.arguments", "messages.1.content.1"),
        ("messages[3].content", "messages.2.content.1.content"),
        ("messages[4].parts[1]", "messages.2.content.2.source"),
        ("messages[5]", "messages.3"),
        ("images[0]", "messages.2.content.2.source"),
        ("images[9]", "messages"),
        ("messages[99].content", "messages.99.content"),
    ],
)
def test_fields_of_the_wire_have_the_clients_paths(wire: str, client: str) -> None:
    asked = says("user", text("Look: "), result(), image(PNG))
    read = wanted(USER, says("assistant", text("Hm."), use()), asked, {"role": "system", "content": "x"}, system="s")
    assert read.field_name(wire) == client


def test_arguments_keep_every_digit_that_fits() -> None:
    messages = work(USER, says("assistant", use(arguments={"n": 2**64 - 1, "x": 0.1})), says("user", result())).messages
    assert messages is not None
    assert json.loads(messages[1]["tool_calls"][0]["function"]["arguments"]) == {"n": 2**64 - 1, "x": 0.1}
