"""Custom tools, allowed tools, and `functions`, which were before tools: to the wire, and calls back."""

import json
from typing import Any

import orjson
import pytest

from broker.wire.failure import FailureError
from gateway.core.answer import Delta, End, ToolUse, delta_of
from gateway.openai.calls import CallStyle
from gateway.openai.replies import Chunks, Head, likeliest, whole
from gateway.openai.requests import parse_chat, parse_completion
from gateway.openai.text import ChatText, CompletionText
from tests.gateway.openai.bodies import TIME, USER, WEATHER, chat, completion, refused_chat
from tests.gateway.openai.test_replies import events

PATCH = {
    "type": "custom",
    "custom": {
        "name": "patch",
        "description": "edits",
        "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a/b+"}},
    },
}
NOTE = {"type": "custom", "custom": {"name": "note"}}
WHOLE = ToolUse("c1", "patch", '{"input": "a\\n\\"b\\""}')


def end(*calls: ToolUse, reason: str = "tool_calls", text: str = "") -> End:
    return End(Delta(text, tool_calls=calls), reason, 3, 2, 0)


def head(style: CallStyle) -> Head:
    return Head("id", "m", 1, is_chat=True, calls=style)


def test_a_custom_tool_is_a_function_with_one_text() -> None:
    [work] = chat(tools=[WEATHER, PATCH, NOTE])
    assert [tool["function"]["name"] for tool in work.tools] == ["weather", "patch", "note"]
    assert work.tools[1]["function"]["description"] == "edits"
    assert work.tools[1]["function"]["parameters"]["required"] == ["input"]
    assert work.input_grammars == {"patch": "start: /a\\/b+/\n"}
    assert work.required_tools == []
    forced = {"type": "custom", "custom": {"name": "patch"}}
    [work] = chat(tools=[NOTE, PATCH], tool_choice=forced)
    assert (work.required_tools, work.one_call) == (["patch"], True)
    flat = {"type": "custom", **PATCH["custom"]}  # type: ignore[dict-item] # a dict
    assert chat(tools=[flat]) == chat(tools=[PATCH])
    assert chat(tools=[PATCH], tool_choice="none")[0].input_grammars == {}


def test_allowed_tools_leave_the_others_out() -> None:
    def choice(mode: str, *names: str) -> dict[str, Any]:
        tools = [{"type": "function", "function": {"name": name}} for name in names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}

    [work] = chat(tools=[WEATHER, TIME, PATCH], tool_choice=choice("auto", "time"))
    assert (work.tools, work.required_tools, work.input_grammars) == ([TIME], [], {})
    [work] = chat(tools=[WEATHER, TIME], tool_choice=choice("required", "time", "weather"))
    assert (work.tools, work.required_tools) == ([WEATHER, TIME], ["weather", "time"])
    for wrong in (choice("auto", "other"), choice("never", "time"), choice("required")):
        assert refused_chat({"messages": [USER], "tools": [TIME], "tool_choice": wrong}).failure.param == "tool_choice"


def test_calls_of_custom_tools_in_the_history() -> None:
    call = {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": 'a\n"b"'}}
    [work] = chat(messages=[USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "done"}])
    [sent] = (work.messages or [])[1]["tool_calls"]
    assert (sent["id"], sent["type"], sent["function"]["name"]) == ("c1", "function", "patch")
    assert json.loads(sent["function"]["arguments"]) == {"input": 'a\n"b"'}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom"}]}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": ""}}]}, "tools"),
        ({"tools": [WEATHER, {"type": "custom", "custom": {"name": "weather"}}]}, "tools"),
        ({"tools": [NOTE, {"type": "custom", "custom": {"name": "x", "format": 1}}]}, "tools[1].custom.format"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "x", "format": {"type": "grammar", "grammar": {}}}}]},
            "tools[0].custom.format.grammar.syntax",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "x", "description": 1}}]}, "tools[0].custom.description"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"type": "custom"}]}]}, "messages[0].tool_calls[0].custom"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"type": "x"}]}]}, "messages[0].tool_calls[0].type"),
        ({"functions": [{"name": "f"}], "tools": [WEATHER]}, "functions"),
        ({"functions": [{}]}, "functions"),
        ({"functions": "f"}, "functions"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call"),
        ({"functions": [{"name": "f"}], "function_call": "required"}, "function_call"),
        ({"function_call": {"name": "g"}}, "function_call"),
        ({"min_pixels": 2, "max_pixels": 1}, "min_pixels"),
        ({"min_pixels": 0}, "min_pixels"),
        ({"typical_p": 0}, "typical_p"),
        ({"typical_p": 1.5}, "typical_p"),
        ({"top_n_sigma": -2}, "top_n_sigma"),
    ],
)
def test_mistakes_name_their_field(fields: dict[str, Any], param: str) -> None:
    assert refused_chat({"messages": [USER], **fields}).failure.param == param


def test_a_missing_function_is_not_called_a_tool() -> None:
    error = refused_chat({"messages": [USER], "functions": [{"name": "f"}], "function_call": {"name": "g"}})
    assert error.failure.message == "function_call: no function named 'g' is given"


def test_functions_are_tools_of_which_one_is_called() -> None:
    functions = [WEATHER["function"], TIME["function"]]
    [work] = chat(functions=functions)
    assert (work.tools, work.required_tools, work.one_call) == ([WEATHER, TIME], [], True)
    assert chat(functions=functions, function_call={"name": "time"})[0].required_tools == ["time"]
    none = chat(functions=functions, function_call="none")
    assert none == chat(functions=[], function_call="auto", parallel_tool_calls=False)


def test_a_call_of_a_custom_tool_comes_back_as_its_text() -> None:
    style = CallStyle(frozenset({"patch"}))
    custom = {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": 'a\n"b"'}}
    other = ToolUse("c2", "weather", "{}")
    answer: Any = whole(head(style), [end(WHOLE, other)])
    calls = answer["choices"][0]["message"]["tool_calls"]
    assert calls == [custom, {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
    chunks = Chunks(head(style), 1, include_usage=False)
    first, last, _ = events(chunks.render([(0, end(WHOLE))]))
    assert first["choices"][0]["delta"]["tool_calls"] == [{"index": 0, **custom}]
    assert last["choices"][0]["finish_reason"] == "tool_calls"


def test_a_call_of_a_custom_tool_in_pieces() -> None:
    chunks = Chunks(head(CallStyle(frozenset({"patch"}))), 1, include_usage=False)
    pieces = ['{"inp', 'ut": "a\\', "n", '\\"b', '\\""', "}"]
    got = []
    for number, piece in enumerate(pieces):
        call = ToolUse("c1", "patch", piece, starts=number == 0, ends=number == len(pieces) - 1)
        [event] = events(chunks.render([(0, Delta(tool_calls=[call]))]))
        got += event["choices"][0]["delta"]["tool_calls"]
    assert got[0] == {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "patch", "input": ""}}
    assert "".join(entry["custom"]["input"] for entry in got) == 'a\n"b"'
    assert all("id" not in entry and entry["index"] == 0 for entry in got[1:])
    second = ToolUse("c2", "patch", '{"input": "x"}')
    [event] = events(chunks.render([(0, Delta(tool_calls=[second]))]))
    assert event["choices"][0]["delta"]["tool_calls"][0]["custom"] == {"name": "patch", "input": "x"}
    assert event["choices"][0]["delta"]["tool_calls"][0]["index"] == 1


def test_functions_are_answered_with_a_function_call() -> None:
    style = CallStyle(is_legacy=True)
    call = ToolUse("c1", "time", '{"a": 1}')
    answer: Any = whole(head(style), [end(call)])
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "time", "arguments": '{"a": 1}'},
    }
    assert answer["choices"][0]["finish_reason"] == "function_call"
    assert whole(head(style), [end(text="Hi", reason="stop")])["choices"][0]["finish_reason"] == "stop"  # type: ignore[index] # a list
    chunks = Chunks(head(style), 1, include_usage=False)
    first = ToolUse("c1", "time", '{"a"', ends=False)
    rest = ToolUse("c1", "time", ": 1}", starts=False)
    one, two = (events(chunks.render([(0, Delta(tool_calls=[piece]))])) for piece in (first, rest))
    assert one[0]["choices"][0]["delta"]["function_call"] == {"name": "time", "arguments": '{"a"'}
    assert two[0]["choices"][0]["delta"]["function_call"] == {"arguments": ": 1}"}
    last, _ = events(chunks.render([(0, end())]))
    assert last["choices"][0]["finish_reason"] == "function_call"


def text_of(**fields: Any) -> ChatText:
    return ChatText(parse_chat(orjson.dumps({"messages": [USER], **fields})))


def test_fields_have_the_names_of_the_client() -> None:
    text = text_of(tools=[WEATHER, PATCH])
    assert text.field_name("tools[1].format") == "tools[1].custom.format"
    assert text.field_name("tools[0].function.strict") == "tools[0].function.strict"
    assert text.field_name("tools[7].format") == "tools[7].format"
    assert text.field_name("required_tools") == "tool_choice"
    allowed = {"mode": "auto", "tools": [{"type": "custom", "custom": {"name": "patch"}}]}
    text = text_of(tools=[WEATHER, PATCH], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert text.field_name("tools[0].format") == "tools[1].custom.format"
    text = text_of(functions=[WEATHER["function"], TIME["function"]])
    assert text.field_name("tools[1].function.strict") == "functions[1].strict"
    assert [text.field_name(name) for name in ("tools", "required_tools")] == ["functions", "function_call"]


def logprob_of(value: float) -> Any:
    return [{"token": "x", "bytes": b"x", "logprob": value, "top": []}]


def answered(text: str, *logprobs: float) -> End:
    body = {"text": text, "logprobs": [entry for value in logprobs for entry in logprob_of(value)]}
    return End(delta_of(body), "stop", 3, len(logprobs), 0)


def test_the_best_of_several_answers() -> None:
    ends = [answered("a", -3.0), answered("b", -1.0, -1.0, -1.0), answered("c", -2.0), answered("")]
    assert [one.rest.text for one in likeliest(ends, 4, 2)] == ["b", "c"]
    assert [one.rest.text for one in likeliest(ends, 2, 1)] == ["b", "c"]
    works = completion(["x", "y"], best_of=3, n=2, seed=5)
    assert [(work.prompt, work.seed, work.logprobs) for work in works] == [
        (prompt, seed, 0) for prompt in "xy" for seed in (5, 6, 7)
    ]
    assert completion("x", best_of=2, n=2)[0].logprobs is None
    with pytest.raises(FailureError) as refused:  # to rank them takes logprobs, which this prompt does not have
        completion("x", best_of=3, n=2, echo=True, suffix="y")
    assert refused.value.failure.param == "best_of"
    assert len(completion("x", best_of=2, n=2, echo=True, suffix="y")) == 2
    for logprobs in (None, 0):
        fields = {"prompt": "x", "best_of": 4, "n": 2, "logprobs": logprobs}
        text = CompletionText(parse_completion(orjson.dumps(fields)))
        answer: Any = text.whole("m", ends)
        assert [choice["text"] for choice in answer["choices"]] == ["b", "c"]
        assert [choice["logprobs"] is None for choice in answer["choices"]] == [logprobs is None] * 2
        assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (3, 5)
