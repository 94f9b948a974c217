"""A real model whose template knows no tools calls one: SmolLM2, in the generic form."""

import json
from pathlib import Path

import pytest

from demo import model as demo_model
from demo.model import MODEL_ID, prepare
from tests.worker.engine_runs import joined, load, run

QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.mark.slow  # the tool makes a long prompt for two cores
@pytest.mark.needs_index(demo_model._WHEEL)
@pytest.mark.timeout(300)
def test_it_says_the_city(tmp_path: Path) -> None:
    """135M parameters seldom call by themselves, so the call is required; what is in it is theirs."""
    prepare(tmp_path)
    request = {
        "messages": [QUESTION],
        "tools": [WEATHER],
        "required_tools": ["get_weather"],
        "one_call": True,
        "temperature": 0.0,
        "max_tokens": 48,
    }
    whole = joined(run(load(tmp_path / MODEL_ID), [request])[0])
    [call] = whole["tool_calls"]
    assert (call["name"], whole["finish_reason"]) == ("get_weather", "tool_calls")
    assert json.loads(call["arguments"])["city"] == "Paris"
    assert whole["prompt_tokens"] > 100  # the tool is described in it
