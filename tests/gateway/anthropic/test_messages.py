"""Anthropic's routes in the real app, with a played broker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Cancel, InferenceRequest
from broker.wire.kinds import Task
from broker.wire.outputs import PARTIAL, Output
from broker.wire.packing import unpack
from broker.wire.paths import GATEWAY_SOCKET
from broker.wire.work import Generate
from gateway.link.client import BrokerClient
from gateway.settings import Settings
from tests.gateway.anthropic.bodies import PNG, SEARCH, USER, WEATHER, image, result, says, text, use
from tests.gateway.anthropic.test_replies import content_of, events_in
from tests.gateway.played_broker import PlayedBroker, ending
from tests.gateway.served import served

pytestmark = pytest.mark.anyio

PATH = "/v1/messages?beta=true"
BODY: dict[str, Any] = {"model": "org/tiny", "max_tokens": 9, "messages": [USER]}
HEADERS = {"anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14"}
IGNORED = "x-mlx-broker-ignored"


@contextlib.asynccontextmanager
async def gateway(runtime_dir: Path, **settings: Any) -> AsyncIterator[tuple[PlayedBroker, httpx.AsyncClient]]:
    """A played broker and a client of the gateway."""
    given = Settings(port=0, default_model="org/tiny", **settings)
    async with (
        PlayedBroker(runtime_dir) as broker,
        served(BrokerClient(runtime_dir / GATEWAY_SOCKET), given) as client,
    ):
        await broker.meet()
        client.headers.update(HEADERS)
        yield broker, client


async def test_a_whole_message(runtime_dir: Path) -> None:
    async with gateway(runtime_dir) as (broker, client):
        asking = asyncio.create_task(
            client.post(PATH, json={**BODY, "tools": [SEARCH, WEATHER], "system": "Be brief."})
        )
        request_id, work = await broker.expect_work()
        assert work.messages == [{"role": "system", "content": "Be brief."}, USER]
        assert not work.stream
        await broker.finish(request_id, "Hello.")
        answer = await asking
        assert answer.headers[IGNORED] == "tools.0"
        said = answer.json()
        assert said["id"].startswith("msg_")
        assert (said["type"], said["role"], said["model"]) == ("message", "assistant", "org/tiny")
        assert said["content"] == [{"type": "text", "text": "Hello."}]
        assert (said["usage"]["input_tokens"], said["usage"]["cache_read_input_tokens"]) == (3, 2)
        assert said["usage"]["output_tokens"] == 3


async def test_a_stream_and_its_pings(runtime_dir: Path) -> None:
    """While the model loads and prefills, and while the arguments of a call are collected."""
    async with gateway(runtime_dir, keepalive_seconds=0.1) as (broker, client):
        async with client.stream("POST", PATH, json={**BODY, "stream": True, "tools": [SEARCH]}) as answer:
            request_id, _ = await broker.expect_work()
            # Its headers come with the first ping.
            assert answer.headers[IGNORED] == "tools.0"
            assert answer.headers["content-type"].startswith("text/event-stream")
            read = b""
            pieces = answer.aiter_bytes()

            async def until(mark: bytes) -> None:
                nonlocal read
                begun = len(read)
                while mark not in read[begun:]:
                    read += await anext(pieces)

            first = {"text": "Hel", "prompt": {"tokens": 9, "cached": 4}}
            await broker.outputs(Output(request_id, PARTIAL, first))
            await until(b"Hel")
            await until(b"event: ping")
            await broker.partial(request_id, "lo")
            await broker.final(request_id, ending("!", "tool_calls", prompt=9, cached=4))
            read += b"".join([piece async for piece in pieces])
        events = events_in(read)
        assert events[0] == ("ping", {})
        told = [event for event in events if event[0] != "ping"]
        assert told[0][0] == "message_start"
        usage = told[0][1]["message"]["usage"]
        assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (5, 4)
        assert content_of(told) == [{"type": "text", "text": "Hello!"}]
        assert told[-2][1]["usage"]["cache_read_input_tokens"] == 4
        assert told[-1] == ("message_stop", {})


async def test_tokens_are_counted_without_an_answer(runtime_dir: Path) -> None:
    async with gateway(runtime_dir) as (broker, client):
        body = {**BODY, "tools": [WEATHER], "system": "Be brief."}
        asking = asyncio.create_task(client.post(PATH, json=body))
        request_id, asked = await broker.expect(InferenceRequest)
        await broker.finish(request_id)
        await asking
        counting = {name: value for name, value in body.items() if name != "max_tokens"}
        asking = asyncio.create_task(client.post("/v1/messages/count_tokens?beta=true", json=counting))
        request_id, counted = await broker.expect(InferenceRequest)
        assert (asked.task, counted.task) == (Task.GENERATE, Task.COUNT)
        one, other = (unpack(Generate, request.payload) for request in (asked, counted))
        assert (one.messages, one.tools, one.chat_template_kwargs) == (
            *(other.messages, other.tools, other.chat_template_kwargs),
        )
        await broker.final(request_id, {"prompt_tokens": 17})
        assert (await asking).json() == {"input_tokens": 17}


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (Failure(Code.INVALID_REQUEST, "stop: odd", "stop"), 400, "invalid_request_error"),
        (Failure(Code.CONTEXT_LENGTH_EXCEEDED, "9 tokens", "messages"), 400, "invalid_request_error"),
        (Failure(Code.MODEL_NOT_FOUND, "no such model", "model"), 404, "not_found_error"),
        (Failure(Code.LOAD_FAILED, "broken"), 422, "invalid_request_error"),
        (Failure(Code.RATE_LIMIT_EXCEEDED, "full", retry_after=1, retryable=True), 429, "rate_limit_error"),
        (Failure(Code.INTERNAL_ERROR, "a bug"), 500, "api_error"),
        (Failure(Code.MODEL_UNAVAILABLE, "wait", retry_after=10, retryable=True), 503, "overloaded_error"),
        (Failure(Code.WORKER_DIED, "SIGKILL", retryable=True), 503, "overloaded_error"),
        (Failure(Code.INSUFFICIENT_MEMORY, "too large"), 503, "api_error"),
    ],
    ids=lambda value: str(getattr(value, "code", value)),
)
async def test_errors_have_anthropics_form(runtime_dir: Path, failure: Failure, status: int, kind: str) -> None:
    async with gateway(runtime_dir) as (broker, client):
        for stream in (False, True):
            asking = asyncio.create_task(client.post(PATH, json={**BODY, "stream": stream}))
            await broker.error((await broker.expect_work())[0], failure)
            answer = await asking
            error = answer.json()["error"]
            assert (answer.status_code, answer.json()["type"], error["type"]) == (status, "error", kind)
            assert (error["code"], error["retryable"]) == (failure.code, failure.retryable)
            assert (answer.headers.get("retry-after") is None) == (failure.retry_after is None)
            too_long = failure.code is Code.CONTEXT_LENGTH_EXCEEDED
            assert error["message"].startswith("prompt is too long: ") == too_long
            assert error["param"] == {"stop": "stop_sequences"}.get(str(failure.param), failure.param)


@pytest.mark.parametrize("has_begun", [False, True])
async def test_an_error_in_the_middle_of_a_stream_is_an_event(runtime_dir: Path, has_begun: bool) -> None:
    """Also after a ping, which has sent the status, and before the message has begun."""
    async with gateway(runtime_dir, keepalive_seconds=0.1) as (broker, client):
        async with client.stream("POST", PATH, json={**BODY, "stream": True}) as answer:
            request_id, _ = await broker.expect_work()
            pieces = answer.aiter_bytes()
            read = b""
            while b"ping" not in read:
                read += await anext(pieces)
            if has_begun:
                await broker.partial(request_id, "One")
            await broker.error(request_id, Failure(Code.WORKER_DIED, "SIGKILL", retryable=True))
            read += b"".join([piece async for piece in pieces])
        events = events_in(read)
        assert events[-1][0] == "error"
        assert events[-1][1]["error"]["code"] == "worker_died"
        assert ("message_start" in dict(events)) == has_begun
        assert "message_stop" not in dict(events)


async def test_fields_are_named_in_the_clients_words(runtime_dir: Path) -> None:
    async with gateway(runtime_dir) as (broker, client):
        look = says("user", result(content=[text("see"), image(PNG)]))
        body = {**BODY, "messages": [USER, says("assistant", use()), look]}
        for wire, path in (
            ("images[0]", "messages.2.content.0.content.1.source"),
            ("messages[2].content", "messages.2.content.0.content"),
            ("messages[1].tool_calls[0].function.arguments", "messages.1.content.0"),
        ):
            asking = asyncio.create_task(client.post(PATH, json=body))
            request_id, work = await broker.expect_work()
            assert len(work.images) == 1
            await broker.error(request_id, Failure(Code.INVALID_REQUEST, f"{wire}: odd", wire))
            error = (await asking).json()["error"]
            assert (error["param"], error["message"]) == (path, f"{path}: odd")


async def test_what_answers_do_without_is_named_in_the_clients_words(runtime_dir: Path) -> None:
    async with gateway(runtime_dir) as (broker, client):
        form = {"type": "json_schema", "schema": {"type": "array", "uniqueItems": True}}
        body = {**BODY, "output_config": {"format": form}, "tools": [SEARCH, WEATHER]}
        for stream in (False, True):
            asking = asyncio.create_task(client.post(PATH, json={**body, "stream": stream}))
            request_id, _ = await broker.expect_work()
            ignored = ["json_schema.uniqueItems", "messages[].reasoning_content", "tools[0].propertyNames"]
            await broker.final(request_id, {**ending("[]"), "ignored": ignored})
            names = "output_config.format.schema.uniqueItems, messages.content.thinking, tools.1.propertyNames"
            assert (await asking).headers[IGNORED] == f"tools.0, {names}"


async def test_keys_and_paths(runtime_dir: Path) -> None:
    async with gateway(runtime_dir, api_key=SecretStr("key")) as (broker, client):
        for headers in ({"x-api-key": "key"}, {"authorization": "Bearer key"}):
            asking = asyncio.create_task(client.post(PATH, json=BODY, headers=headers))
            await broker.finish((await broker.expect_work())[0], "Hello.")
            assert (await asking).status_code == 200
        key = {"x-api-key": "key"}
        refused = [
            (await client.post(PATH, json=BODY), 401, "authentication_error"),
            (await client.post(PATH, json=BODY, headers={"x-api-key": "x"}), 401, "authentication_error"),
            (await client.post(PATH, json={**BODY, "messages": 5}, headers=key), 400, "invalid_request_error"),
            (await client.post("/v1/messages/count_tokens", json={}, headers=key), 400, "invalid_request_error"),
            (await client.get("/v1/messages", headers=key), 405, "invalid_request_error"),
            (await client.post("/v1/messages/batches", json={}), 401, "authentication_error"),
            (await client.post("/v1/messages/batches", json={}, headers=key), 404, "not_found_error"),
            (await client.post(PATH, content=b"{", headers=key), 400, "invalid_request_error"),
        ]
        for answer, status, kind in refused:
            assert (answer.status_code, answer.json()["type"], answer.json()["error"]["type"]) == (
                status,
                "error",
                kind,
            )
        large = await client.post(PATH, content=b"x" * (51 * 2**20), headers=key)
        assert (large.status_code, large.json()["error"]["type"]) == (413, "request_too_large")


async def test_a_thread_is_refused_in_the_words_after_which_clients_send_all(runtime_dir: Path) -> None:
    async with gateway(runtime_dir) as (_broker, client):
        refused = await client.post(PATH, json={**BODY, "thread": {"type": "create"}})
        assert refused.status_code == 400
        assert refused.json()["error"]["details"] == {"error_code": "thread_unsupported_request"}
        assert refused.json()["error"]["code"] == "invalid_request"


async def test_a_client_that_goes_ends_its_work(runtime_dir: Path) -> None:
    async with gateway(runtime_dir) as (broker, client):
        for body in ({**BODY, "stream": True}, BODY):
            asking = asyncio.create_task(client.post(PATH, json=body))
            request_id, _ = await broker.expect_work()
            asking.cancel()
            assert (await broker.expect(Cancel))[0] == request_id
