"""Responses over HTTP: the real app, with a played broker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from broker.wire.failure import Code, Failure
from broker.wire.outputs import FINAL, PARTIAL, Output
from broker.wire.paths import GATEWAY_SOCKET
from gateway.link.client import BrokerClient
from gateway.responses.answers import ResponseAnswer
from gateway.settings import Settings
from tests.gateway.played_broker import PlayedBroker, ending
from tests.gateway.responses.bodies import CALL, PATCH, PNG, USER, checked_response, events_in
from tests.gateway.served import served

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"
DIED = Failure(Code.WORKER_DIED, "the process was ended by SIGKILL", retryable=True)


@contextlib.asynccontextmanager
async def gateway(runtime_dir: Path, **settings: Any) -> AsyncIterator[tuple[PlayedBroker, httpx.AsyncClient]]:
    given = Settings(port=0, default_model="org/tiny", **settings)
    async with (
        PlayedBroker(runtime_dir) as broker,
        served(BrokerClient(runtime_dir / GATEWAY_SOCKET), given) as client,
    ):
        await broker.meet()
        yield broker, client


async def test_a_whole_response(runtime_dir: Path) -> None:
    async with gateway(runtime_dir) as (broker, client):
        body = {"model": "org/tiny", "input": "Hi", "max_output_tokens": 9, "tools": [{"type": "web_search"}]}
        asking = asyncio.create_task(client.post(PATH, json=body))
        request_id, work = await broker.expect_work()
        assert (work.stream, work.max_tokens) == (False, 9)
        calls = [{"id": "c1", "name": "weather", "arguments": "{}"}]
        await broker.final(request_id, ending("A cat.", "tool_calls") | {"reasoning": "Hm", "tool_calls": calls})
        answer = await asking
        assert answer.headers["x-mlx-broker-ignored"] == "tools[0] (web_search)"
        checked_response(answer.json())
        parsed = ResponseAnswer.model_validate_json(answer.content)
        assert [item.type for item in parsed.output] == ["reasoning", "message", "function_call"]


async def test_a_streamed_response(runtime_dir: Path) -> None:
    async with gateway(runtime_dir) as (broker, client):
        body = {"input": [USER, {"type": "compaction", "encrypted_content": "a"}], "stream": True}
        asking = asyncio.create_task(client.post(PATH, json=body))
        request_id, work = await broker.expect_work()
        assert work.stream
        await broker.outputs(Output(request_id, PARTIAL, {"text": "Hel", "prompt": {"tokens": 5, "cached": 2}}))
        await broker.partial(request_id, "lo")
        await broker.finish(request_id)
        answer = await asking
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["x-mlx-broker-ignored"] == "input[1] (compaction)"
        events = events_in(answer.content)
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_the_answer_is_openais_object_in_the_clients_words(
    runtime_dir: Path, stream: bool
) -> None:
    async with gateway(runtime_dir) as (broker, client):
        items = [USER, CALL, {"role": "user", "content": [{"type": "input_image", "image_url": PNG}]}]
        body = {"input": items, "tools": [{"type": "web_search"}, PATCH], "stream": stream}
        for failure, status, param in (
            (Failure(Code.INVALID_REQUEST, "json_schema: odd", "json_schema"), 400, "text.format.schema"),
            (Failure(Code.INVALID_REQUEST, "odd", "messages[2].parts[0]"), 400, "input[2].content[0].image_url"),
            (Failure(Code.INVALID_REQUEST, "odd", "tools[0].function.strict"), 400, "tools[1].strict"),
            (Failure(Code.MODEL_NOT_FOUND, "no such model", "model"), 404, "model"),
            (DIED, 503, None),
        ):
            asking = asyncio.create_task(client.post(PATH, json=body))
            await broker.error((await broker.expect_work())[0], failure)
            answer = await asking
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (status, failure.code, param)
            assert error["message"] == failure.message.replace("json_schema", "text.format.schema")


async def test_a_body_that_is_wrong_reaches_no_worker(runtime_dir: Path) -> None:
    async with gateway(runtime_dir, api_key=SecretStr("key")) as (_broker, client):
        key = {"authorization": "Bearer key"}
        assert (await client.post(PATH, json={"input": "Hi"})).json()["error"]["code"] == "invalid_api_key"
        wrong = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,!"}]}]
        answer = await client.post(PATH, json={"input": [USER, USER, *wrong]}, headers=key)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input[2].content[0].image_url")
        answer = await client.post(PATH, json={"input": "Hi", "previous_response_id": "resp_1"}, headers=key)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "previous_response_id")
        assert "send the whole conversation" in answer.json()["error"]["message"]
        assert (await client.get(PATH, headers=key)).status_code == 405
        assert (await client.get(f"{PATH}/resp_1", headers=key)).json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("outputs", [0, 1])
async def test_a_death_in_the_middle_is_a_failed_response_and_the_end(runtime_dir: Path, outputs: int) -> None:
    async with gateway(runtime_dir, keepalive_seconds=0.1) as (broker, client):
        async with client.stream("POST", PATH, json={"input": "Hi", "stream": True}) as answer:
            request_id, _work = await broker.expect_work()
            for _ in range(outputs):
                await broker.partial(request_id, "Hel")
            # The status has gone with a keepalive by now.
            await broker.error(request_id, DIED)
            events = events_in(await answer.aread())
        assert events[-1]["type"] == "response.failed"
        assert events[-1]["response"]["error"]["type"] == "worker_died"
        assert len(events[-1]["response"]["output"]) == outputs


async def test_a_silent_stream_sends_events_that_clients_know(runtime_dir: Path) -> None:
    async with gateway(runtime_dir, keepalive_seconds=0.05) as (broker, client):
        async with client.stream("POST", PATH, json={"input": "Hi", "stream": True}) as answer:
            request_id, _work = await broker.expect_work()
            seen = b""
            chunks = answer.aiter_bytes()
            while seen.count(b"event: response.in_progress\n") < 3:
                seen += await anext(chunks)
            await broker.outputs(Output(request_id, FINAL, ending("Hi")))
            seen += b"".join([chunk async for chunk in chunks])
        events = events_in(seen)
        assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
        assert [event["type"] for event in events].count("response.created") == 1
        assert events[-1]["response"]["status"] == "completed"


async def test_calls_in_pieces_arrive_as_they_come(runtime_dir: Path) -> None:
    async with gateway(runtime_dir, keepalive_seconds=0.1) as (broker, client):
        async with client.stream("POST", PATH, json={"input": "Hi", "stream": True, "tools": [PATCH]}) as answer:
            request_id, work = await broker.expect_work()
            assert work.input_grammars == {"apply_patch": PATCH["format"]["definition"]}
            call = {"id": "c1", "name": "apply_patch"}
            pieces = [("first", '{"inp'), ("middle", 'ut":"*** Be'), ("last", 'gin"}')]
            for piece, text in pieces:
                one = {**call, "arguments": text, "piece": piece}
                await broker.outputs(Output(request_id, PARTIAL, {"text": "", "tool_calls": [one]}))
            await broker.finish(request_id, reason="tool_calls")
            events = events_in(await answer.aread())
        assert [event["delta"] for event in events if "delta" in event] == ["*** Be", "gin"]
        [item] = events[-1]["response"]["output"]
        assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", "*** Begin")
