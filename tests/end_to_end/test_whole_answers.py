"""Reasoning, tools, constraints, logprobs and the prompt cache through every process, read by OpenAI's own client."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.end_to_end.openai_clients import client_of
from tests.scripted_model import make_scripted_model
from tests.service import Service
from tests.tiny_models import make_tiny_model
from tests.worker.generation.scripted import CALL, TAGS, TOOL_TEMPLATE, WEATHER

USER: Any = {"role": "user", "content": "Weather in Paris?"}


@pytest.fixture
def client(make_service: Callable[..., Service], tmp_path: Path) -> Iterator[openai.OpenAI]:
    models = tmp_path / "models"
    script = ("<think>", "hm", "</think>", "Let me see", *CALL)
    make_scripted_model(models / "caller", script, tags=TAGS, tool_parser="json_tools", chat_template=TOOL_TEMPLATE)
    make_tiny_model(models / "noise")
    service = make_service(models_path=models)
    with client_of(service) as client:
        yield client


def test_whole_answers(client: openai.OpenAI) -> None:
    tools: Any = [WEATHER]
    asked: dict[str, Any] = {"model": "caller", "messages": [USER], "tools": tools, "temperature": 0}
    choice = client.chat.completions.create(**asked).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see")
    assert choice.message.model_extra == {"reasoning": "hm", "reasoning_content": "hm"}
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})

    deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(**asked, stream=True)]
    assert "".join(delta.content or "" for delta in deltas) == "Let me see"
    assert "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas) == "hm"
    (streamed,) = [call for delta in deltas for call in delta.tool_calls or []]
    assert streamed.index == 0
    assert streamed.function is not None
    assert (streamed.function.name, streamed.function.arguments) == ("weather", call.function.arguments)

    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turns: Any = [USER, choice.message.model_dump(exclude_none=True), result]
    again = client.chat.completions.create(**{**asked, "messages": turns})
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens

    # The constraint forces the random model's text; the logprobs say how likely each token was.
    noise: dict[str, Any] = {"model": "noise", "messages": [USER], "max_tokens": 400, "seed": 1}
    schema = {"enum": ["red", "green", 7]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    bound = client.chat.completions.create(**noise, response_format=form, logprobs=True, top_logprobs=2).choices[0]
    assert json.loads(bound.message.content or "") in ("red", "green", 7)
    assert bound.logprobs is not None
    assert bound.logprobs.content is not None
    assert "".join(entry.token for entry in bound.logprobs.content) == bound.message.content
    assert [len(entry.top_logprobs) for entry in bound.logprobs.content] == [2] * len(bound.logprobs.content)

    forced = client.chat.completions.create(
        **noise, tools=tools, tool_choice={"type": "function", "function": {"name": "weather"}}
    ).choices[0]
    assert forced.message.tool_calls is not None
    assert [call.function.name for call in forced.message.tool_calls if call.type == "function"] == ["weather"]

    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**noise, extra_body={"grammar": "start: missing"})
    assert refused.value.param == "grammar"
