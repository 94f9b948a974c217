"""Tool calls and structured outputs through gateway, broker and worker, as OpenAI's own client parses them."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.end_to_end.openai_clients import client_of
from tests.scripted_model import make_scripted_model
from tests.service import Service
from tests.tiny_models import make_tiny_model
from tests.worker.generation.scripted import CALL, TAGS, TIME, TOOL_TEMPLATE, USER, WEATHER

# No token may occur twice in a script, so the second pair of tags is spelled in characters.
SCRIPT = ("<think>", "hm", "</think>", "Well", *CALL, "<tool_", 'call>{"name": "time"}', "</tool", "_call>")
CALLS = [("weather", {"city": "Paris"}), ("time", {})]
# The words of a model whose template and vocabulary know nothing of tools.
GENERIC = (
    *("Well", "<tool_", 'call>{"name": "weather", ', '"arguments": {"city": "Paris"}}', "</tool", "_call>"),
    *("\n<tool", '_call>{"name": "time"}</tool_call>'),
)
ASKED: dict[str, Any] = {"model": "calls", "messages": [USER], "tools": [WEATHER, TIME], "temperature": 0}


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    options: dict[str, Any] = {"tags": TAGS, "tool_parser": "json_tools", "chat_template": TOOL_TEMPLATE}
    with tempfile.TemporaryDirectory(prefix="mlxb-") as directory:
        make_scripted_model(Path(directory) / "calls", SCRIPT, **options)
        make_scripted_model(Path(directory) / "generic", GENERIC)
        make_tiny_model(Path(directory) / "tiny")
        with Service(Path(directory)) as service, client_of(service) as client:
            yield client


def calls_of(message: Any) -> list[tuple[str, Any]]:
    assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]


def test_several_calls_after_reasoning_and_text(client: OpenAI) -> None:
    whole = client.chat.completions.create(**ASKED)
    # The client joins the deltas itself, by the index of each call.
    with client.chat.completions.stream(**ASKED) as stream:
        streamed = stream.get_final_completion()
    for answer in (whole, streamed):
        [choice] = answer.choices
        assert (calls_of(choice.message), choice.finish_reason) == (CALLS, "tool_calls")
        assert choice.message.content == "Well"
        assert (choice.message.model_extra or {})["reasoning_content"] == "hm"


def test_calls_and_results_are_sent_back(client: OpenAI) -> None:
    message: Any = client.chat.completions.create(**ASKED).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
    turns: Any = [USER, message.model_dump(exclude_none=True), result]
    usage = client.chat.completions.create(model="calls", messages=turns, temperature=0).usage
    assert usage is not None
    rendered = '[user] Weather in Paris? [assistant] Wellweather:{"city": "Paris"}time:{} [tool] sunny [assistant] '
    assert usage.prompt_tokens == len(rendered)


def test_without_parallel_calls_the_answer_ends_with_the_first(client: OpenAI) -> None:
    [choice] = client.chat.completions.create(**ASKED, parallel_tool_calls=False).choices
    assert (calls_of(choice.message), choice.finish_reason) == (CALLS[:1], "tool_calls")
    with client.chat.completions.stream(**ASKED, parallel_tool_calls=False) as stream:
        [choice] = stream.get_final_completion().choices
    assert (calls_of(choice.message), choice.finish_reason) == (CALLS[:1], "tool_calls")


def test_calls_in_the_generic_form(client: OpenAI) -> None:
    asked = {**ASKED, "model": "generic"}
    whole = client.chat.completions.create(**asked)
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion()
    for answer in (whole, streamed):
        [choice] = answer.choices
        assert (calls_of(choice.message), choice.finish_reason) == (CALLS, "tool_calls")
        assert (choice.message.content or "").strip() == "Well"
    message: Any = whole.choices[0].message

    def prompt_of(result: str, description: str) -> int:
        turn = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": result}
        function: Any = WEATHER["function"]
        tool = {"type": "function", "function": {**function, "description": description}}
        turns = [USER, message.model_dump(exclude_none=True), turn]
        usage = client.chat.completions.create(**{**asked, "messages": turns, "tools": [tool, TIME]}).usage
        assert usage is not None
        return int(usage.prompt_tokens)

    # A byte is a token.
    assert prompt_of("sunny and warm", "tells the weather") == prompt_of("sunny", "tells") + 9 + 12


@pytest.mark.parametrize("wanted", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_required_forces_a_call_from_a_random_model(client: OpenAI, wanted: Any) -> None:
    ends = {str(ord(mark) - ord("!")): 90 for mark in "]}"}  # tokens of the tiny models
    asked = {**ASKED, "model": "tiny", "tools": [WEATHER], "tool_choice": wanted, "logit_bias": ends}
    [choice] = client.chat.completions.create(**asked, max_tokens=400).choices
    [(name, arguments)] = calls_of(choice.message)
    assert (name, set(arguments), choice.finish_reason) == ("weather", {"city"}, "tool_calls")
    # Streamed, it grows as it is written.
    chunks = client.chat.completions.create(**asked, max_tokens=400, stream=True)
    deltas = [chunk.choices[0].delta.tool_calls or [] for chunk in chunks if chunk.choices]
    first, *more = [piece for pieces in deltas for piece in pieces if piece.function is not None]
    assert (first.index, bool(first.id), first.function.name) == (0, True, "weather")
    assert {(piece.index, piece.id, piece.function.name) for piece in more} == {(0, None, None)}
    # Pieces that wait together are one.
    assert json.loads("".join(piece.function.arguments for piece in (first, *more))) == arguments
    assert more
    with client.chat.completions.stream(**asked, max_tokens=400) as stream:
        [choice] = stream.get_final_completion().choices
    assert calls_of(choice.message) == [(name, arguments)]


def test_an_answer_that_follows_a_schema(client: OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["a", 3]}}}
    said = client.chat.completions.create(model="tiny", messages=[USER], response_format=form)  # type: ignore[list-item]
    assert json.loads(said.choices[0].message.content or "") in ("a", 3)


def test_a_custom_tool_gets_a_text_that_follows_its_grammar(client: OpenAI) -> None:
    rule = {"type": "grammar", "grammar": {"syntax": "regex", "definition": '"[a-c]{3}"\n'}}
    tools: Any = [TIME, {"type": "custom", "custom": {"name": "weather", "format": rule}}]
    forced: Any = {"type": "custom", "custom": {"name": "weather"}}
    for choice in ("auto", forced):
        answer = client.chat.completions.create(**{**ASKED, "tools": tools}, tool_choice=choice)
        call: Any = (answer.choices[0].message.tool_calls or [])[0]
        assert (call.type, call.custom.name) == ("custom", "weather")
        assert re.fullmatch('"[a-c]{3}"\n', call.custom.input)
    with client.chat.completions.create(**{**ASKED, "tools": tools}, stream=True) as stream:
        deltas = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or []]
    pieces: Any = [delta.model_extra["custom"] for delta in deltas if delta.index == 0 and delta.model_extra]
    assert re.fullmatch('"[a-c]{3}"\n', "".join(piece["input"] for piece in pieces))


def test_functions_are_answered_as_before_there_were_tools(client: OpenAI) -> None:
    asked = {**ASKED, "functions": [WEATHER["function"], TIME["function"]]}
    del asked["tools"]
    [choice] = client.chat.completions.create(**asked).choices
    call: Any = choice.message.function_call
    assert (choice.finish_reason, call.name, json.loads(call.arguments)) == ("function_call", *CALLS[0])
    with client.chat.completions.create(**asked, stream=True) as stream:
        chunks = [chunk.choices[0] for chunk in stream]
    calls: Any = [chunk.delta.function_call for chunk in chunks if chunk.delta.function_call]
    assert (calls[0].name, json.loads("".join(one.arguments for one in calls))) == CALLS[0]
    assert chunks[-1].finish_reason == "function_call"


def test_completions_begin_with_their_prompt_and_the_best_come(client: OpenAI) -> None:
    prompt = "once upon"
    [alone] = client.completions.create(model="tiny", prompt=prompt, echo=True, max_tokens=0, logprobs=1).choices
    assert (alone.text, alone.finish_reason) == (prompt, "length")
    logprobs: Any = alone.logprobs
    assert "".join(logprobs.tokens) == prompt
    assert [value is None for value in logprobs.token_logprobs] == [True] + [False] * (len(logprobs.tokens) - 1)
    assert logprobs.top_logprobs[0] is None
    assert logprobs.text_offset[-1] < len(prompt)
    best = client.completions.create(model="tiny", prompt=prompt, best_of=3, n=1, max_tokens=5, seed=1)
    each = client.completions.create(model="tiny", prompt=prompt, n=3, max_tokens=5, seed=1, logprobs=0)
    means = [sum(one.logprobs.token_logprobs) / len(one.logprobs.tokens) for one in each.choices]  # type: ignore[union-attr, arg-type] # they have some
    assert best.choices[0].text == each.choices[means.index(max(means))].text
    assert best.usage is not None
    assert best.usage.completion_tokens == 15
    with pytest.raises(BadRequestError, match="no tokens for filling in the middle") as caught:
        client.completions.create(model="tiny", prompt=prompt, suffix="!")
    assert caught.value.param == "suffix"
