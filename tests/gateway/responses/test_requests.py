"""Bodies of Responses as work of the wire."""

from typing import Any

import pytest

from gateway.core.sampling import Defaults
from gateway.responses.sealed import sealed
from tests.gateway.responses.bodies import CALL, PATCH, PNG, RESULT, SERVER, USER, WEATHER, text_of, work_of

RULED = {"type": "json_schema", "name": "n", "strict": True, "schema": {"type": "object"}}


def said(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": text}


def test_a_text_is_a_users_message() -> None:
    work = work_of("Hello", max_output_tokens=9, temperature=0, top_p=0.5, seed=3, stream=True, top_k=4)
    assert work.messages == [said("Hello")]
    assert (work.max_tokens, work.max_tokens_is_default, work.temperature, work.top_p) == (9, False, 0, 0.5)
    assert (work.seed, work.stream, work.top_k) == (3, True, 4)


def test_what_is_left_out_means_its_default() -> None:
    [work] = text_of().units([], Defaults(max_tokens=7, temperature=0.5, chat_template_kwargs={"a": 1}))
    assert (work.max_tokens, work.max_tokens_is_default, work.temperature) == (7, True, 0.5)
    assert (work.chat_template_kwargs, work.logprobs, work.tools) == ({"a": 1}, None, [])
    names = ("instructions", "tools", "text", "reasoning", "metadata", "store", "tool_choice", "include", "temperature")
    assert work_of(**dict.fromkeys(names), previous_response_id=None, background=False) == work_of()


def test_instructions_and_what_begins_a_conversation_are_one_system_message() -> None:
    parts = [{"type": "input_text", "text": "B"}]
    begin = [{"type": "message", "role": "developer", "content": parts}, said("C", "system"), said("", "developer")]
    assert work_of([*begin, USER], instructions="A").messages == [said("A\n\nB\n\nC", "system"), USER]
    assert work_of([*begin, USER]).messages == [said("B\n\nC", "system"), USER]
    assert work_of("Hi", instructions="").messages == [USER]


def test_a_late_developer_message_stays_where_the_prompt_cache_has_it() -> None:
    late = said("Now in French.", "developer")
    [first, *others] = work_of([USER, late, USER], instructions="A").messages or []
    assert first == said("A", "system")
    assert others == [USER, said("Now in French.", "system"), USER]


def test_the_items_of_one_answer_are_one_message() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}
    second = CALL | {"call_id": "c2", "arguments": ""}
    result = RESULT | {
        "call_id": "c2",
        "output": [{"type": "input_text", "text": "ra"}, {"type": "input_text", "text": "in"}],
    }
    messages = work_of([USER, thought, answer, CALL, second, RESULT, result, answer, answer]).messages or []
    assert messages[1] == {
        "role": "assistant",
        "content": "I look.",
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
            {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
        ],
    }
    assert messages[2:4] == [
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
        {"role": "tool", "content": "rain", "tool_call_id": "c2"},
    ]
    assert messages[4:] == [said("I look.", "assistant")] * 2


def test_a_call_after_its_text_or_before_it_is_of_the_same_message() -> None:
    for items in ([said("A", "assistant"), CALL], [CALL, said("A", "assistant")]):
        [_, answer, result] = work_of([USER, *items, RESULT]).messages or []
        assert (answer["content"], len(answer["tool_calls"]), result["role"]) == ("A", 1, "tool")


@pytest.mark.parametrize(
    ("item", "reasoning"),
    [
        ({"content": [{"type": "reasoning_text", "text": "a"}], "encrypted_content": sealed("b")}, "a"),
        ({"content": [{"type": "text", "text": "a"}], "summary": [{"type": "summary_text", "text": "c"}]}, "a"),
        ({"content": None, "encrypted_content": sealed("b"), "summary": [{"type": "summary_text", "text": "c"}]}, "b"),
        ({"encrypted_content": "gAAAA", "summary": [{"type": "summary_text", "text": t} for t in "cd"]}, "c\n\nd"),
    ],
)
def test_reasoning_comes_back_in_the_message_that_it_led_to(item: dict[str, Any], reasoning: str) -> None:
    [_, answer] = work_of([USER, {"type": "reasoning", **item}, said("A", "assistant")]).messages or []
    assert answer == said("A", "assistant") | {"reasoning_content": reasoning}


def test_reasoning_that_only_others_can_read_is_left_out_and_named() -> None:
    text = text_of([USER, {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}, said("A", "assistant")])
    assert text.ignored == ["input[1].encrypted_content"]
    assert "mlx-broker.!" not in str(work_of([USER, {"type": "reasoning", "encrypted_content": "mlx-broker.!"}]))


def test_items_of_hosted_tools_are_left_out_and_named_with_their_results() -> None:
    shell = {"type": "local_shell_call", "call_id": "s1", "action": {}}
    items = [
        USER,
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "compaction", "encrypted_content": "gAAAA"},
        shell,
        RESULT | {"call_id": "s1"},
        {"type": "something_new"},
        USER,
    ]
    assert work_of(items).messages == [USER, USER]
    assert text_of(items).ignored == [
        "input[1] (web_search_call)",
        "input[2] (compaction)",
        "input[3] (local_shell_call)",
        "input[4] (function_call_output)",
        "input[5] (something_new)",
    ]


def test_images_are_of_users_and_those_of_results_stand_behind_them() -> None:
    picture = {"type": "input_image", "image_url": PNG, "detail": "original"}
    user = {"role": "user", "content": [picture, {"type": "input_text", "text": "What?"}]}
    shown = RESULT | {"output": [{"type": "input_text", "text": "done"}, picture]}
    work = work_of([user, CALL, CALL | {"call_id": "c2"}, shown, RESULT | {"call_id": "c2"}, USER])
    assert work.images == [b"png"] * 2
    messages = work.messages or []
    assert messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "What?"}]
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "tool", "user", "user"]
    assert (messages[2]["content"], messages[4]["content"]) == ("done", [{"type": "image"}])
    assert len(work_of([user, CALL, shown]).messages or []) == 4


def test_a_result_may_name_its_call_instead_of_its_id() -> None:
    named = {"type": "function_call_output", "name": "weather", "output": "sunny"}
    assert (work_of([USER, CALL, named]).messages or [])[-1] == {"role": "tool", "content": "sunny", "name": "weather"}


def test_formats() -> None:
    assert work_of(text={"format": {"type": "text"}, "verbosity": "low"}).json_schema is None
    assert work_of(text={"format": {"type": "json_object"}}).json_schema == {"type": "object"}
    ruled = work_of(text={"format": RULED})
    assert (ruled.json_schema, ruled.strict) == ({"type": "object"}, True)
    assert not work_of(text={"format": RULED | {"strict": None}}).strict


@pytest.mark.parametrize(
    ("effort", "variables"),
    [
        ("none", {"enable_thinking": False}),
        ("high", {"enable_thinking": True, "reasoning_effort": "high"}),
        (None, {}),
    ],
)
def test_efforts_are_variables_of_the_template(effort: str | None, variables: dict[str, Any]) -> None:
    assert work_of(reasoning={"effort": effort}).chat_template_kwargs == variables
    given = work_of(reasoning={"effort": effort}, chat_template_kwargs={"enable_thinking": 1})
    assert given.chat_template_kwargs == variables | {"enable_thinking": 1}


def test_logprobs_are_included_or_counted() -> None:
    assert work_of(include=["message.output_text.logprobs"]).logprobs == 0
    assert work_of(top_logprobs=3).logprobs == 3
    assert work_of(top_logprobs=0, include=["reasoning.encrypted_content"]).logprobs is None


def test_what_has_no_effect_is_named() -> None:
    fields = {"store": True, "truncation": "auto", "text": {"verbosity": "low"}, "reasoning": {"summary": "auto"}}
    assert list(text_of(**fields).ignored) == ["store", "truncation", "text.verbosity", "reasoning.summary"]
    assert list(text_of(store=False, truncation="disabled", text={}, reasoning={"effort": "low"}).ignored) == []


def test_the_wires_names_are_the_clients() -> None:
    picture = {"type": "input_image", "image_url": PNG}
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]}
    patch = {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "a"}
    shown = {"type": "custom_tool_call_output", "call_id": "c2", "output": [picture]}
    text = text_of(
        [
            said("A", "developer"),
            {"role": "user", "content": [{"type": "input_text", "text": "b"}, picture]},
            thought,
            CALL,
            patch,
            RESULT,
            shown,
        ],
        tools=[{"type": "web_search"}, PATCH, SERVER],
    )
    names = {
        "messages[0].content": "input[0].content",
        "messages[1]": "input[1]",
        "messages[1].parts[0]": "input[1].content[0]",
        "messages[1].parts[1]": "input[1].content[1].image_url",
        "messages[2].reasoning_content": "input[2]",
        "messages[2].tool_calls[0].function.arguments": "input[3].arguments",
        "messages[2].tool_calls[1].function.arguments": "input[4].input",
        "messages[2].tool_calls[1].function": "input[4]",
        "messages[3].content": "input[5].output",
        "messages[3].tool_call_id": "input[5].call_id",
        "messages[5].parts[0]": "input[6].output[0].image_url",
        "images[0]": "input[1].content[1].image_url",
        "images[1]": "input[6].output[0].image_url",
        "images[2]": "input",
        "messages": "input",
        "messages[9]": "messages[9]",
        "tools[0]": "tools[1]",
        "tools[1].function.parameters": "tools[2].tools[0].parameters",
        "tools": "tools",
        "json_schema": "text.format.schema",
        "max_tokens": "max_output_tokens",
        "required_tools": "tool_choice",
    }
    assert {name: text.field_name(name) for name in names} == names
    told = text_of("Hi", instructions="A")
    assert [told.field_name(f"messages[{n}].content") for n in (0, 1)] == ["instructions", "input"]


def test_codex_like_requests_are_read() -> None:
    """Its fields, as recorded by others: no sampling, tools of four kinds, and hints that mean nothing here."""
    work = work_of(
        [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "B"}]}, USER],
        instructions="A",
        tools=[WEATHER | {"strict": False}, PATCH, SERVER, {"type": "web_search", "external_web_access": False}],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning=None,
        store=False,
        stream=True,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="0199",
        client_metadata={"a": "b"},
    )
    assert [tool["function"]["name"] for tool in work.tools] == ["weather", "apply_patch", "mcp__files__read"]
    assert work.input_grammars == {"apply_patch": 'start: "a"+'}
    assert (work.one_call, work.stream, work.required_tools) == (True, True, [])
