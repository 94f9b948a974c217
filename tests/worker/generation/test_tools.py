import json
from typing import Any

from worker.generation.tools import read_calls, whole_calls


def test_calls_in_every_form_that_parsers_give() -> None:
    def read(parsed: Any) -> list[tuple[str, str]] | None:
        calls = read_calls(lambda: parsed)
        return None if calls is None else [(call["name"], call["arguments"]) for call in calls]

    assert read({"name": "f", "arguments": {"a": "é"}}) == [("f", '{"a": "é"}')]
    assert read({"name": "f", "arguments": '{"a": 1}'}) == [("f", '{"a": 1}')]
    assert read({"name": "f"}) == [("f", "{}")]
    assert read([{"name": "f"}, {"name": "g", "arguments": None}]) == [("f", "{}"), ("g", "{}")]
    others: tuple[Any, ...] = ([], 0, False, "[]", "null")
    for other in others:
        assert read({"name": "f", "arguments": other}) is None
    for garbled in (None, [], "f", {}, {"name": ""}, {"name": "f", "arguments": "x"}, [{"name": "f"}, {"name": 1}]):
        assert read(garbled) is None
    for half in ({"name": "f\ud83d"}, {"name": "f", "arguments": {"a": "\ud83d"}}, {"name": "f", "id": "\ud83d"}):
        assert read(half) is None
    own = read_calls(lambda: {"name": "f", "id": "functions.f:0"})
    assert own is not None
    assert own[0]["id"] == "functions.f:0"


def test_what_a_list_of_calls_has_when_it_is_cut_short() -> None:
    text = '[{"name": "f", "arguments": {"a": ["{", {}]}},\n {"name": "g"}]'
    both = json.loads(text)
    for length in range(len(text) + 1):
        got = whole_calls(text[:length])
        assert got == both[: len(got)]
        assert len(got) == (length >= text.index(",\n")) + (length > text.rindex("}"))
    assert whole_calls(text[1 : text.index(",\n")]) == both[:1]  # one call alone
