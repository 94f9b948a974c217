"""OpenAI's own Python client on Responses: answers, streams, tools in a loop, images, schemas, exceptions, a death."""

import base64
import json
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.conftest import MISBEHAVING
from tests.end_to_end.openai_clients import client_of
from tests.gateway.responses.bodies import checked_event, checked_response
from tests.scripted_model import make_scripted_model
from tests.service import Service
from tests.tiny_models import make_tiny_model
from tests.tiny_vision import make_tiny_vision, picture
from tests.worker.generation.scripted import CALL, TAGS, TOOL_TEMPLATE

SCRIPT = ("<think>", "hm", "</think>", "Well", *CALL)
PATCH = "*** Begin Patch\n+ä\n*** End Patch"
CUSTOM = ("<tool_call>", '{"name": "apply_patch", "arg', 'uments": ', json.dumps({"input": PATCH}), "}", "</tool_call>")
WEATHER: Any = {
    "type": "namespace",
    "name": "functions",
    "description": "Tools.",
    "tools": [
        {
            "type": "function",
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        }
    ],
}
EDIT: Any = {"type": "custom", "name": "apply_patch", "description": "Edits files."}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    options: dict[str, Any] = {"tags": TAGS, "tool_parser": "json_tools", "chat_template": TOOL_TEMPLATE}
    with tempfile.TemporaryDirectory(prefix="mlxb-") as directory:
        folder = Path(directory)
        make_scripted_model(folder / "calls", SCRIPT, **options)
        make_scripted_model(folder / "patches", CUSTOM, **options)
        make_tiny_model(folder / "tiny")
        make_tiny_vision(folder / "sees")
        with Service(folder, {"models": {"mortal": MISBEHAVING}}) as service:
            yield service


@pytest.fixture(scope="module")
def responses(service: Service) -> Iterator[Any]:
    """Untyped: the client's types are unions of thirty kinds of items."""
    with client_of(service, timeout=60.0) as client:
        yield client.responses


def plain(model: Any) -> dict[str, Any]:
    """As it came."""
    came: dict[str, Any] = model.to_dict(mode="json")
    return came


def test_answers_streams_and_what_they_have_in_common(responses: Any) -> None:
    asked: dict[str, Any] = {"model": "tiny", "instructions": "Be brief.", "input": "Hello", "temperature": 0}
    whole = responses.create(**asked, max_output_tokens=24)
    checked_response(plain(whole))
    assert (whole.model, whole.status) == ("tiny", "incomplete")
    assert whole.output_text
    assert whole.usage.output_tokens == 24

    events = [plain(event) for event in responses.create(**asked, max_output_tokens=24, stream=True)]
    for event in events:
        checked_event(event)
    assert "".join(event["delta"] for event in events if "delta" in event) == whole.output_text
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["usage"]["output_tokens"] == 24

    likely = responses.create(**asked, max_output_tokens=2, top_logprobs=2)
    [item] = likely.output
    assert [len(entry.top_logprobs) for entry in item.content[0].logprobs or ()] == [2, 2]


def test_reasoning_and_calls_in_a_loop_of_two_turns(responses: Any) -> None:
    asked: dict[str, Any] = {"model": "calls", "tools": [WEATHER], "temperature": 0, "store": False}
    turns: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
    whole = responses.create(**asked, input=turns)
    checked_response(plain(whole))
    with responses.stream(**asked, input=turns) as stream:
        streamed = stream.get_final_response()
    for answer in (whole, streamed):
        assert [item.type for item in answer.output] == ["reasoning", "message", "function_call"]
        assert answer.output_text == "Well"
        call = answer.output[2]
        assert (call.name, call.namespace, json.loads(call.arguments)) == ("weather", "functions", {"city": "Paris"})
    assert [part.text for part in whole.output[0].content or ()] == ["hm"]
    assert 0 < whole.usage.output_tokens_details.reasoning_tokens < whole.usage.output_tokens

    turns += [item.to_dict() for item in whole.output]
    turns.append({"type": "function_call_output", "call_id": whole.output[2].call_id, "output": "sunny"})
    usage = responses.create(model="calls", input=turns, temperature=0).usage
    rendered = '[user] Weather in Paris? [assistant] Wellweather:{"city": "Paris"} [tool] sunny [assistant] '
    assert usage.input_tokens == len(rendered)


def test_a_custom_tool_in_a_loop_of_two_turns(responses: Any) -> None:
    asked: dict[str, Any] = {"model": "patches", "tools": [EDIT], "temperature": 0}
    turns: list[Any] = [{"role": "user", "content": "Edit."}]
    whole = responses.create(**asked, input=turns)
    with responses.stream(**asked, input=turns) as stream:
        events = list(stream)
    told = "".join(event.delta for event in events if event.type == "response.custom_tool_call_input.delta")
    [call] = whole.output
    assert call.type == "custom_tool_call"
    assert (call.name, call.input, told) == ("apply_patch", PATCH, PATCH)
    result = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Done."}
    usage = responses.create(model="patches", input=[*turns, call.to_dict(), result]).usage
    arguments = json.dumps({"input": PATCH}, ensure_ascii=False)
    rendered = f"[user] Edit. [assistant] apply_patch:{arguments} [tool] Done. [assistant] "
    assert usage.input_tokens == len(rendered.encode())


def test_a_random_model_writes_what_a_grammar_says(responses: Any) -> None:
    rules = {"type": "grammar", "syntax": "regex", "definition": "[ab]{3}/[0-9]{2}"}
    tool = {"type": "custom", "name": "pick", "format": rules}
    chosen = {"type": "custom", "name": "pick"}
    [call] = responses.create(model="tiny", input="Pick.", tools=[tool], tool_choice=chosen).output
    assert call.type == "custom_tool_call"
    assert re.fullmatch("[ab]{3}/[0-9]{2}", call.input)


class Verdict(BaseModel):
    """What the model must answer with."""

    is_good: bool
    grade: Literal["a", "b"]


def test_an_answer_is_parsed_by_its_schema(responses: Any) -> None:
    parsed = responses.parse(model="tiny", input="Judge.", text_format=Verdict).output_parsed
    assert isinstance(parsed, Verdict)
    with responses.stream(model="tiny", input="Judge.", text_format=Verdict) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Verdict)


def test_images(responses: Any) -> None:
    url = f"data:image/png;base64,{base64.b64encode(picture(1)).decode()}"
    seen: Any = [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": url}],
        }
    ]
    asked: dict[str, Any] = {"model": "sees", "max_output_tokens": 4, "temperature": 0}
    answer = responses.create(**asked, input=seen)
    blind = responses.create(**asked, input="What is this?")
    assert answer.usage.input_tokens > blind.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as refused:
        responses.create(**asked | {"model": "tiny"}, input=seen)
    assert refused.value.param == "input[0].content[1].image_url"


def test_errors_are_the_clients_exceptions(responses: Any) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        responses.create(model="nobody", input="Hi")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as invalid:
        responses.create(model="tiny", input="Hi", temperature=-1)
    assert (invalid.value.param, invalid.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as stored:
        responses.create(model="tiny", input="Hi", previous_response_id="resp_1")
    assert stored.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as late:
        responses.create(model="tiny", input="a" * 9000, stream=True)
    assert late.value.code == "context_length_exceeded"


def test_a_death_in_the_middle_of_a_stream_is_a_failed_response(responses: Any, service: Service) -> None:
    events: list[Any] = []
    asked = {"model": "mortal", "input": "slow", "max_output_tokens": 1000, "extra_body": {"resume": False}}
    for event in responses.create(**asked, stream=True):
        if event.type == "response.output_text.delta" and event.type not in (other.type for other in events):
            os.kill(service.model("mortal")["pid"], signal.SIGSEGV)
        events.append(event)
    last = events[-1]
    assert last.type == "response.failed"
    assert (last.response.status, last.response.error.type) == ("failed", "worker_died")
    assert "SIGSEGV" in last.response.error.message
    assert last.response.output[0].content[0].text
