"""Messages to turns: arguments, and which result belongs to which call."""

from typing import Any

import pytest

from broker.wire.failure import Code, FailureError
from worker.chat.chat import Chat
from worker.chat.client_json import MAX_DEPTH, client_object
from worker.chat.forms import plain_ids
from worker.chat.messages import plain_messages
from worker.chat.words import is_plain_id

WHERE = "messages[0].tool_calls[0].function.arguments"


def calling(*calls: tuple[str | None, str]) -> dict[str, Any]:
    made = [{"id": identity, "function": {"name": name, "arguments": "{}"}} for identity, name in calls]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(identity: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": "fine", **more}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1000 + "]" * 1000,
        '{"a":' * 1000 + "1" + "}" * 1000,
        '{"a": ' + "[" * 100_000,
        '{"a": ' + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1) + "}",
        '{"a": ' + "9" * 5000 + "}",
        "[1]",
        "null",
        '"{}"',
        "3",
        '{"a": NaN}',
        '{"a": [-Infinity]}',
        '{"a": 1e400}',
        '{"a": "\\ud800"}',
        '{"\\udc00": 1}',
        '{"a": 1',
        "{'a': 1}",
    ],
)
def test_what_is_no_object_of_json_is_refused_by_the_name_of_its_field(text: str) -> None:
    call = {"function": {"name": "f", "arguments": text}}
    with pytest.raises(FailureError) as caught:
        plain_messages([{"role": "assistant", "tool_calls": [call]}])
    assert (caught.value.failure.code, caught.value.failure.param) == (Code.INVALID_REQUEST, WHERE)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("", {}),
        (" \n", {}),
        (None, {}),
        ({"a": [1]}, {"a": [1]}),
        ('{"n": 123456789012345678, "s": "\\ud83e\\udd8a"}', {"n": 123456789012345678, "s": "🦊"}),
        ('{"a": ' + "[" * 50 + "]" * 50 + "}", None),
    ],
)
def test_arguments_are_read_as_they_are(given: Any, read: dict[str, Any] | None) -> None:
    got = client_object(given, WHERE)
    assert got == read or (read is None and got["a"])


def test_a_result_has_the_name_of_its_call() -> None:
    turns = plain_messages([calling(("a", "first"), ("b", "second")), result("b"), result("a"), result("x")])
    assert [turn.get("name") for turn in turns] == [None, "second", "first", None]
    # Its own name stays.
    assert plain_messages([calling(("a", "first")), result("a", name="mine")])[1]["name"] == "mine"


def test_calls_and_results_without_ids_belong_together_in_their_order() -> None:
    turns = plain_messages([calling((None, "first"), ("b", "second"), (None, "third")), *[result(None)] * 3])
    ids = [call["id"] for call in turns[0]["tool_calls"]]
    assert len(set(ids)) == 3
    assert [(turn["tool_call_id"], turn["name"]) for turn in turns[1:]] == [
        (ids[0], "first"),
        ("b", "second"),
        (ids[2], "third"),
    ]


def test_a_result_without_an_id_belongs_to_the_call_of_its_name() -> None:
    turns = plain_messages(
        [calling(("a", "fa"), ("b", "fb")), result(None, name="fb"), result(None, name="other"), result(None)]
    )
    assert [turn["tool_call_id"] for turn in turns[1:]] == ["b", "a", "call00000"]


def test_results_of_two_calls_with_one_id_come_in_the_order_of_the_calls() -> None:
    first, second = calling(("x", "fa"), ("x", "fb")), calling(("x", "fc"))
    turns = plain_messages([first, result("x"), result("x"), result("x"), second, result("x")])
    calls = [call["id"] for turn in turns for call in turn.get("tool_calls", ())]
    assert calls == ["x", "call00000", "x"]
    results = [(turn["tool_call_id"], turn["name"]) for turn in turns if turn["role"] == "tool"]
    assert results == [("x", "fa"), ("call00000", "fb"), ("x", "fa"), ("x", "fc")]


def test_ids_that_are_made_are_those_of_no_other_call() -> None:
    turns = plain_messages([calling((None, "fa"), ("call_abc", "fb"), ("call00000", "fc"))])
    ids = [call["id"] for call in plain_ids(Chat(turns, None, {})).turns[0]["tool_calls"]]
    assert ids[2] == "call00000"
    assert len(set(ids)) == 3
    assert all(map(is_plain_id, ids))
