"""Prompts are counted as they would be read, and nothing else happens."""

from pathlib import Path
from typing import Any

import pytest

from broker.wire.body import ProtocolError
from broker.wire.failure import FailureError
from broker.wire.packing import pack
from broker.wire.work import Embed
from tests.scripted_model import make_scripted_model
from tests.tiny_models import make_tiny_model
from tests.worker.engine_runs import add, counted, load, load_recorded, run
from tests.worker.generation.scripted import TAGS, TIME, TOOL_TEMPLATE, USER, WEATHER
from tests.worker.text.test_engine import CHAT
from worker.text.engine import TextEngine

CONTEXT = 64

PROMPTS: dict[str, dict[str, Any]] = {
    "a chat": {"messages": CHAT},
    "a streamed chat with settings": {"messages": CHAT, "stream": True, "seed": 1, "stop": ["x"], "logprobs": 1},
    "for the template": {"messages": [USER], "chat_template_kwargs": {"suffix": "!!"}},
    "a text": {"prompt": "once upon a time, é"},
    "tokens": {"prompt": [1, 2, 3]},
    "a text that is echoed": {"prompt": "once upon", "echo": True},
    "a text that is drawn": {"prompt": "once upon", "echo": True, "logprobs": 0},
    "tools": {"messages": [USER], "tools": [WEATHER, TIME]},
    "a forced call": {"messages": [USER], "tools": [WEATHER], "required_tools": ["weather"]},
    "a schema": {"messages": [USER], "json_schema": {"enum": ["a"]}},
}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> TextEngine:
    return load(make_tiny_model(tmp_path_factory.mktemp("models") / "short", context_length=CONTEXT))


@pytest.fixture(scope="module")
def generic(tmp_path_factory: pytest.TempPathFactory) -> TextEngine:
    """A model without a form for tools, which is told of them in words."""
    return load(make_tiny_model(tmp_path_factory.mktemp("models") / "generic"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> TextEngine:
    """A model with its own form for tools."""
    folder = tmp_path_factory.mktemp("models") / "own"
    options: dict[str, Any] = {"tags": TAGS, "tool_parser": "json_tools", "chat_template": TOOL_TEMPLATE}
    return load(make_scripted_model(folder, ["yes"], **options))


@pytest.mark.parametrize("model", ["generic", "own"])
@pytest.mark.parametrize("fields", PROMPTS.values(), ids=PROMPTS)
def test_a_count_is_the_number_that_the_same_request_reports(
    request: pytest.FixtureRequest, model: str, fields: dict[str, Any]
) -> None:
    engine = request.getfixturevalue(model)
    tokens = counted(engine.count, **fields)
    [outputs] = run(engine, [{**fields, "max_tokens": 2}])
    assert outputs[-1].body["prompt_tokens"] == tokens > 0


def test_a_count_computes_nothing_and_waits_for_nothing(tiny_model: Path) -> None:
    engine, calls = load_recorded(tiny_model, completion_batch_size=1)
    for number in range(2):
        add(engine, number, prompt="x" * 20, max_tokens=50)
    engine.step()
    before, computed = engine.stats(), len(calls)
    assert counted(engine.count, prompt="y" * 30) == 30
    assert (engine.stats(), len(calls)) == (before, computed)


@pytest.mark.parametrize("length", [CONTEXT - 1, CONTEXT, 10 * CONTEXT, 100_000])
def test_a_prompt_longer_than_the_context_is_counted(short: TextEngine, length: int) -> None:
    assert counted(short.count, prompt="x" * length) == length
    assert counted(short.count, prompt=[5] * length) == length
    messages = [{"role": "user", "content": "x" * length}]
    around = counted(short.count, messages=[{"role": "user", "content": ""}])
    assert counted(short.count, messages=messages) == length + around


def test_a_count_has_its_limit(short: TextEngine) -> None:
    with pytest.raises(FailureError) as raised:
        counted(short.count, prompt="x" * (2**22 + 1))
    assert (raised.value.failure.code, raised.value.failure.param) == ("context_length_exceeded", "prompt")


BAD: list[dict[str, Any]] = [
    {},
    {"prompt": ""},
    {"messages": []},
    {"messages": [USER], "prompt": "x"},
    {"prompt": [10**9]},
    {"messages": [USER], "max_tokens": 0},
    {"messages": [USER], "temperature": -1.0},
    {"messages": [USER], "logit_bias": {"x": 1.0}},
    {"messages": [USER], "grammar": "start: nothing"},
    {"messages": [USER], "json_schema": {"type": "string", "pattern": "("}, "strict": True},
    {"messages": [USER], "tools": [WEATHER], "required_tools": ["other"]},
    {"messages": [{"role": "user", "content": [{"type": "image"}]}], "images": [b"x"]},
]


@pytest.mark.parametrize("fields", BAD, ids=map(str, range(len(BAD))))
def test_a_count_is_refused_as_the_request_would_be(own: TextEngine, fields: dict[str, Any]) -> None:
    with pytest.raises(FailureError) as counts:
        counted(own.count, **fields)
    with pytest.raises(FailureError) as generates:
        add(own, 1, **fields)
    assert counts.value.failure == generates.value.failure


def test_another_payload_is_no_count(own: TextEngine) -> None:
    with pytest.raises(ProtocolError):
        list(own.count(pack(Embed(["x"]))))
