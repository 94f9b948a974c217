"""Anthropic's own Python client, unchanged, against one service: answers, streams, tools, images, schemas, errors."""

import base64
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import pytest
from anthropic import Anthropic, beta_tool
from pydantic import BaseModel

from tests.conftest import MISBEHAVING
from tests.scripted_model import make_scripted_model
from tests.service import Service, wait_until
from tests.tiny_models import make_tiny_model
from tests.tiny_vision import make_tiny_vision, picture
from tests.worker.generation.scripted import CALL, TAGS, TOOL_TEMPLATE

# Another end of the prompt after a result, so that the model says something else then. System turns must be first.
TEMPLATE = TOOL_TEMPLATE.replace(
    "[assistant] ", "[assistant]{{ '!' if messages[-1].role == 'tool' else ' ' }}"
).replace(
    "{% for m in messages %}",
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}",
)
THINKING = ("<think>", "hm", "</think>", "Well", *CALL)
HELLO: Any = [{"role": "user", "content": "Hello"}]
SYSTEM = "You are brief. " * 10
# The client has no argument for it any more.
GREEDY: dict[str, Any] = {"model": "tiny", "max_tokens": 16, "extra_body": {"temperature": 0}}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="mlxb-") as directory:
        models = Path(directory)
        options: dict[str, Any] = {"tags": TAGS, "tool_parser": "json_tools", "chat_template": TEMPLATE}
        make_scripted_model(models / "agent", THINKING, others={"!": ("It is", " sunny")}, **options)
        make_tiny_model(models / "tiny")
        make_tiny_vision(models / "sees")
        misbehaving = dict.fromkeys(("bad", "mortal"), MISBEHAVING)
        broken = {"broken": MISBEHAVING | {"options": {"on_load": "raise"}}}
        with Service(models, {"models": misbehaving | broken, "gateway": {"api_key": "sesame"}}) as service:
            yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Anthropic]:
    with Anthropic(base_url=service.url, api_key="sesame", max_retries=0, timeout=30.0) as client:
        yield client


def whole_prompt(usage: Any) -> int:
    assert usage.cache_creation_input_tokens == 0
    return int(usage.input_tokens + usage.cache_read_input_tokens)


def said(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_message_whole_and_streamed(client: Anthropic) -> None:
    asked: dict[str, Any] = {**GREEDY, "system": "Be brief.", "messages": HELLO}
    whole = client.messages.create(**asked)
    assert (whole.type, whole.role, whole.model, whole.stop_reason) == ("message", "assistant", "tiny", "max_tokens")
    assert whole.usage.output_tokens == 16
    assert said(whole)
    with client.messages.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert (said(streamed), streamed.stop_reason) == (said(whole), "max_tokens")
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert whole_prompt(streamed.usage) == whole_prompt(whole.usage)


def test_the_first_event_has_the_true_input_tokens(client: Anthropic) -> None:
    asked: dict[str, Any] = {**GREEDY, "messages": [{"role": "user", "content": "Nobody has asked this before."}]}
    count = client.messages.count_tokens(model="tiny", messages=asked["messages"]).input_tokens
    first = next(iter(client.messages.create(**asked, stream=True)))
    assert first.type == "message_start"
    assert whole_prompt(first.message.usage) == count > 0


def test_a_count_is_the_usage_of_the_same_request(client: Anthropic) -> None:
    tools: Any = [{"name": "weather", "description": "Tells the weather.", "input_schema": {"type": "object"}}]
    thinking: Any = {"type": "adaptive"}
    asked: dict[str, Any] = {"model": "agent", "system": "Be kind.", "messages": HELLO, "tools": tools}
    count = client.messages.count_tokens(**asked, thinking=thinking).input_tokens
    usage = client.messages.create(**asked, thinking=thinking, max_tokens=3).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens) == (count, 0)
    again = client.messages.create(**asked, thinking=thinking, max_tokens=3).usage
    assert (again.input_tokens, whole_prompt(again)) == (1, count)
    assert (
        client.beta.messages.count_tokens(**asked, thinking=thinking, betas=["token-counting-2024-11-01"]) is not None
    )


def test_turns_that_differ_in_the_billing_line_share_the_prompt_cache(client: Anthropic) -> None:
    def turn(nonce: str) -> Any:
        billing = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.0; cch={nonce};"}
        system: Any = [billing, {"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
        return client.messages.create(**GREEDY, system=system, messages=HELLO).usage

    first, second = turn("a1b2c"), turn("ffff0")
    assert first.cache_read_input_tokens < first.input_tokens
    assert whole_prompt(first) == whole_prompt(second)
    assert second.input_tokens == 1  # one is always computed


def test_a_late_system_message_keeps_the_cache_of_the_turns_before_it(client: Anthropic) -> None:
    """The template takes system turns at the beginning only."""
    asked: dict[str, Any] = {"model": "agent", "max_tokens": 3, "system": SYSTEM}
    first = client.messages.create(**asked, messages=HELLO)
    turns: Any = [*HELLO, {"role": "assistant", "content": said(first) or "Well"}]
    late: Any = [*turns, {"role": "system", "content": "It is Monday."}, {"role": "user", "content": "And now?"}]
    second = client.messages.create(**asked, messages=late)
    assert second.usage.cache_read_input_tokens >= len(SYSTEM)
    third = client.messages.create(**asked, messages=[*late[:-1], {"role": "user", "content": "Or so?"}])
    assert third.usage.cache_read_input_tokens >= whole_prompt(second.usage) - len("And now? [assistant] ") - 1


def test_tools_in_a_loop_of_two_turns(client: Anthropic) -> None:
    asked: list[str] = []

    @beta_tool
    def weather(city: str) -> str:
        """Tells the weather.

        Args:
            city: where
        """
        asked.append(city)
        return "sunny"

    runner = client.beta.messages.tool_runner(
        model="agent",
        max_tokens=100,
        tools=[weather],
        messages=HELLO,
        thinking={"type": "enabled", "budget_tokens": 2000},
    )
    first, last = list(runner)
    assert [block.type for block in first.content] == ["thinking", "text", "tool_use"]
    assert (first.stop_reason, last.stop_reason) == ("tool_use", "end_turn")
    assert asked == ["Paris"]
    assert said(last) == "It is sunny"


def test_tools_in_a_streamed_loop(client: Anthropic) -> None:
    tool: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    asked: dict[str, Any] = {"model": "agent", "max_tokens": 100, "tools": [search, tool]}
    with client.messages.stream(**asked, messages=HELLO, tool_choice={"type": "auto"}) as stream:
        first = stream.get_final_message()
        assert stream.response.headers["x-mlx-broker-ignored"] == "tools.0"
    thought, _, call = first.content
    assert thought.type == "thinking"
    assert call.type == "tool_use"
    assert call.input == {"city": "Paris"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "no such town", "is_error": True}
    turns: Any = [*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    with client.messages.stream(**asked, messages=turns) as stream:
        assert "".join(stream.text_stream) == "It is sunny"
    whole = client.messages.create(**asked, messages=HELLO)
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]
    assert whole.stop_reason == "tool_use"


def test_images_of_users_and_of_results(client: Anthropic) -> None:
    def block(number: int) -> Any:
        data = base64.b64encode(picture(number)).decode()
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}

    seen = {**GREEDY, "model": "sees"}
    one, other = (client.messages.create(**seen, messages=[{"role": "user", "content": [block(n)]}]) for n in (1, 2))
    assert whole_prompt(one.usage) == whole_prompt(other.usage)
    assert said(one) != said(other)
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "this"}, block(1)]}
    turns: Any = [*HELLO, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    shown = client.messages.create(**seen, messages=turns)
    assert whole_prompt(shown.usage) == client.messages.count_tokens(model="sees", messages=turns).input_tokens
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(**GREEDY, messages=turns)
    assert refused.value.body["error"]["param"] == "messages.2.content.0.content.1.source"  # type: ignore[index] # a dict


class Town(BaseModel):
    size: Literal["large", "small"]
    is_old: bool


def test_structured_output(client: Anthropic) -> None:
    parsed = client.messages.parse(model="tiny", max_tokens=400, messages=HELLO, output_format=Town)
    assert isinstance(parsed.parsed_output, Town)
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    form: Any = {"format": {"type": "json_schema", "schema": schema}}
    answer = client.messages.create(model="tiny", max_tokens=50, messages=HELLO, output_config=form)
    assert json.loads(said(answer))["a"] in (1, 2)


def test_stop_reasons(client: Anthropic) -> None:
    text = said(client.messages.create(**GREEDY, messages=HELLO))
    stop = text[4:6]
    asked: dict[str, Any] = {**GREEDY, "messages": HELLO, "stop_sequences": ["never in it", stop]}
    stopped = client.messages.create(**asked)
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    assert said(stopped) == text[: text.index(stop)]
    with client.messages.stream(**asked) as stream:
        assert stream.get_final_message().stop_sequence == stop


def test_errors_are_the_clients_exceptions(client: Anthropic) -> None:
    def ask(content: str, model: str = "bad", **fields: Any) -> Any:
        return client.messages.create(
            model=model, max_tokens=9, messages=[{"role": "user", "content": content}], **fields
        )

    with pytest.raises(anthropic.NotFoundError) as unknown:
        ask("hi", model="nobody")
    assert (unknown.value.type, unknown.value.error_code) == ("not_found_error", "model_not_found")
    with pytest.raises(anthropic.BadRequestError) as refused:
        ask("hi", extra_body={"temperature": -1})
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(anthropic.UnprocessableEntityError) as broken:
        ask("hi", model="broken")
    assert "model.safetensors" in str(broken.value.api_message)
    with pytest.raises(anthropic.InternalServerError) as failed:
        ask("fail")
    assert (failed.value.status_code, failed.value.type) == (500, "api_error")


@pytest.mark.parametrize(("key", "passes"), [("sesame", True), ("guess", False)])
def test_a_bearer_token_is_a_key_too(service: Service, key: str, passes: bool) -> None:
    with Anthropic(base_url=service.url, auth_token=key, max_retries=0) as client:
        if passes:
            assert client.messages.create(**GREEDY, messages=HELLO).content
        else:
            with pytest.raises(anthropic.AuthenticationError):
                client.messages.create(**GREEDY, messages=HELLO)


def test_a_death_in_the_middle_of_a_stream_is_an_exception(service: Service, client: Anthropic) -> None:
    asked: Any = {"model": "mortal", "max_tokens": 1000, "messages": [{"role": "user", "content": "slow"}]}
    asked["extra_body"] = {"resume": False}
    with client.messages.stream(**asked) as stream:
        events = iter(stream)
        wait_until(lambda: next(events).type == "content_block_delta", what="the first text")
        os.kill(service.model("mortal")["pid"], signal.SIGSEGV)
        with pytest.raises(anthropic.APIStatusError) as cut:
            list(events)
    assert (cut.value.error_code, cut.value.type) == ("worker_died", "overloaded_error")
    # The others go on.
    assert client.messages.create(**GREEDY, messages=HELLO).content
