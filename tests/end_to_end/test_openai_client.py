"""OpenAI's own Python client against the gateway, as most programs use it: answers, streams and exceptions."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.conftest import MISBEHAVING
from tests.end_to_end.openai_clients import client_of
from tests.service import Service, wait_until

GREEDY: dict[str, Any] = {"model": "tiny-a", "max_tokens": 24, "temperature": 0}
HELLO: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def totals(usage: Any) -> tuple[int, int, int]:
    """Without the cached tokens: a repeated request has more cache hits."""
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


@pytest.fixture
def client(shared: Service) -> Iterator[OpenAI]:
    with client_of(shared) as client:
        yield client


def test_chat(client: OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY, messages=HELLO)
    [choice] = whole.choices
    assert whole.model == "tiny-a"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24
    assert whole.usage.prompt_tokens > 0
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 24

    chunks = list(
        client.chat.completions.create(**GREEDY, messages=HELLO, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == choice.message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {c.id for c in chunks} == {chunks[0].id}
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert totals(chunks[-1].usage) == totals(whole.usage)

    plain = list(client.chat.completions.create(**GREEDY, messages=HELLO, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in plain) == choice.message.content
    assert {c.usage for c in plain} == {None}

    newer: dict[str, Any] = {**GREEDY, "max_tokens": None, "max_completion_tokens": 5}
    assert client.chat.completions.create(**newer, messages=HELLO).usage.completion_tokens == 5

    twice = client.chat.completions.create(**GREEDY, messages=HELLO, n=2)
    assert [c.message.content for c in twice.choices] == [choice.message.content] * 2


def test_stop_and_seed(client: OpenAI) -> None:
    def chat(**fields: Any) -> Any:
        return client.chat.completions.create(**{**GREEDY, **fields}, messages=HELLO).choices[0]

    text = chat().message.content
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    stopped = chat(stop=["never in it", stop])
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == text[: text.index(stop)]

    hot = {"temperature": 1.0, "top_p": 0.95}
    drawn = [chat(**hot, seed=seed).message.content for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_completions(client: OpenAI) -> None:
    whole = client.completions.create(**GREEDY, prompt="Once upon")
    assert whole.object == "text_completion"
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len("Once upon")  # this model has one token per byte

    chunks = list(
        client.completions.create(**GREEDY, prompt="Once upon", stream=True, stream_options={"include_usage": True})
    )
    assert "".join(c.choices[0].text for c in chunks[:-1]) == whole.choices[0].text
    assert chunks[-2].choices[0].finish_reason == "length"
    assert totals(chunks[-1].usage) == totals(whole.usage)

    several = client.completions.create(**GREEDY, prompt=["Other", "Once upon"])
    assert [c.index for c in several.choices] == [0, 1]
    assert several.choices[1].text == whole.choices[0].text
    as_tokens = client.completions.create(**GREEDY, prompt=list(b"Once upon"))
    assert as_tokens.choices[0].text != ""


def test_models(client: OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    assert ids == sorted(ids)
    assert {"tiny-a", "tiny-b", "tiny-c", "echo"} <= set(ids)
    model = client.models.retrieve("tiny-a")
    assert (model.id, model.object) == ("tiny-a", "model")
    assert model.created > 0
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("tiny-z")


def test_many_streams_of_an_async_client(shared: Service) -> None:
    async def read(client: AsyncOpenAI, content: str) -> str:
        messages: Any = [{"role": "user", "content": content}]
        stream = await client.chat.completions.create(model="echo", messages=messages, max_tokens=3, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def read_all() -> list[str]:
        async with AsyncOpenAI(base_url=f"{shared.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
            return await asyncio.gather(*(read(client, f"{number:012}") for number in range(20)))

    assert asyncio.run(read_all()) == [f"{number:012}" for number in range(20)]


def test_errors_are_the_clients_exceptions(make_service: Callable[..., Service]) -> None:
    service = make_service(
        broker={"max_requests_per_model": 1, "max_memory_gb": 1.0},
        models={
            "bad": MISBEHAVING,
            "mortal": MISBEHAVING,
            "broken": MISBEHAVING | {"options": {"on_load": "raise"}},
        },
    )
    with client_of(service) as client:

        def chat(content: str, model: str = "bad", **fields: Any) -> Any:
            return client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": content}], **fields
            )

        with pytest.raises(openai.NotFoundError) as unknown:
            chat("hi", model="nobody")
        assert unknown.value.code == "model_not_found"
        assert "nobody" in unknown.value.message

        with pytest.raises(openai.BadRequestError) as invalid:
            chat("hi", temperature=-1)
        assert (invalid.value.param, invalid.value.type) == ("temperature", "invalid_request_error")
        with pytest.raises(openai.BadRequestError) as refused:
            chat("refuse")
        assert refused.value.param == "prompt"

        with pytest.raises(openai.UnprocessableEntityError) as broken:
            chat("hi", model="broken")
        assert broken.value.code == "load_failed"
        assert "model.safetensors" in broken.value.message

        with pytest.raises(openai.InternalServerError) as failed:
            chat("fail")
        assert (failed.value.status_code, failed.value.code) == (500, "internal_error")

        # A process that kills itself may lose its last output, and the request would be replayed: one more death and
        # one more pause. So the test kills it once its output is here.
        chunks = iter(chat("slow", model="mortal", stream=True, max_tokens=1000, extra_body={"resume": False}))
        assert any(chunk.choices[0].delta.content for chunk in chunks)
        os.kill(service.model("mortal")["pid"], signal.SIGSEGV)
        with pytest.raises(openai.APIError) as cut:
            list(chunks)
        assert cut.value.code == "worker_died"

        with pytest.raises(openai.InternalServerError) as died:
            chat("crash", model="mortal")
        assert (died.value.status_code, died.value.code) == (503, "worker_died")
        assert "SIGSEGV" in died.value.message

        def refused_while_cooling() -> openai.InternalServerError | None:
            try:
                chat("hi", model="mortal")
            except openai.InternalServerError as error:
                return error
            # That was after the pause; the next death makes the next pause longer.
            os.kill(service.model("mortal")["pid"], signal.SIGSEGV)
            service.wait_state("mortal", "cooldown")
            return None

        cooling = wait_until(refused_while_cooling, what="a refusal")
        assert (cooling.status_code, cooling.code) == (503, "model_unavailable")
        assert int(cooling.response.headers["retry-after"]) >= 1

        with chat("slow", stream=True, max_tokens=1000) as stream:
            next(iter(stream))
            with pytest.raises(openai.RateLimitError) as limited:
                chat("hi")
        assert limited.value.code == "rate_limit_exceeded"
        assert int(limited.value.response.headers["retry-after"]) >= 1

        wait_until(lambda: service.model("bad")["in_flight"] == 0, what="the end of the stream")
        patient = client.with_options(max_retries=3)
        with chat("slow", stream=True, max_tokens=10) as stream:
            next(iter(stream))
            # The client itself waits as long as Retry-After says, and tries again.
            assert patient.completions.create(model="bad", prompt="abcd", max_tokens=1).choices[0].text == "abcd"


def test_keys(make_service: Callable[..., Service]) -> None:
    service = make_service(gateway={"api_key": "sesame"}, models={"bad": MISBEHAVING})
    with client_of(service, api_key="sesame") as friend, client_of(service, api_key="guess") as stranger:
        assert next(iter(friend.models.list())).id == "bad"
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.completions.create(model="bad", prompt="abcd", max_tokens=1)
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
