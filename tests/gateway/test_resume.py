"""An answer whose process ends in the middle: the gateway says what is known of it, and its client hears a pause."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.wire.from_gateways import Cancel, InferenceRequest, Resume
from broker.wire.outputs import LOST, PARTIAL, Output
from broker.wire.packing import unpack
from broker.wire.work import Generate
from gateway.core import progress
from tests.gateway.played_broker import PlayedBroker, ending
from tests.gateway.running import running_gateway
from tests.isolation.own_clients import plain

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "Hi"}]
# Path, body without `stream`, and what of a stream means nothing but that it lives.
DIALECTS: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES}, b": keepalive\n"),
    "completions": ("/v1/completions", {"prompt": "Hi"}, b": keepalive\n"),
    "responses": ("/v1/responses", {"input": "Hi"}, b"event: response.in_progress\n"),
    "messages": ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9}, b"event: ping\n"),
    "ollama chat": ("/api/chat", {"messages": MESSAGES}, b'"content":""'),
    "ollama generate": ("/api/generate", {"prompt": "Hi"}, b'"response":""'),
}
every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def body_of(dialect: str, **more: Any) -> tuple[str, dict[str, Any], bytes]:
    path, body, mark = DIALECTS[dialect]
    return path, {"model": "org/tiny", **body, **more}, mark


@contextlib.asynccontextmanager
async def serving(runtime_dir: Path, **settings: Any) -> AsyncIterator[tuple[PlayedBroker, httpx.AsyncClient]]:
    """A gateway whose answers may go on twice, unless the settings say otherwise."""
    settings = {"resume_limit": 2, "keepalive_seconds": 0.1, **settings}
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir, **settings) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=10) as client,
    ):
        yield broker, client


async def lose(broker: PlayedBroker, request_id: bytes) -> None:
    await broker.outputs(Output(request_id, LOST, {}))


async def tell(broker: PlayedBroker, request_id: bytes, text: str, ids: int | list[int], **more: Any) -> None:
    await broker.outputs(Output(request_id, PARTIAL, {"text": text, "ids": ids, **more}))


async def resumed(broker: PlayedBroker, request_id: bytes) -> Generate:
    """What the gateway says after a LOST."""
    of, resume = await broker.expect(Resume)
    assert of == request_id
    return unpack(Generate, resume.payload)


async def read_until(chunks: AsyncIterator[bytes], mark: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(10):
        while mark not in seen:
            seen += await anext(chunks)
    return seen


@every_dialect
async def test_a_stream_that_has_lost_its_process_pauses_and_goes_on(runtime_dir: Path, dialect: str) -> None:
    path, body, mark = body_of(dialect, stream=True)
    async with serving(runtime_dir) as (broker, client):
        async with client.stream("POST", path, json=body) as answer:
            request_id, work = await broker.expect_work()
            assert work.tells_tokens
            await tell(broker, request_id, "One", [3, 4], prompt={"tokens": 5, "cached": 2})
            await tell(broker, request_id, " two", 5)
            chunks = answer.aiter_bytes()
            before = await read_until(chunks, b"two")
            await lose(broker, request_id)
            again = await resumed(broker, request_id)
            assert again.begun == {"ids": [3, 4, 5], "characters": 7, "cached": 2}
            assert (again.messages, again.prompt) == (work.messages, work.prompt)
            # No output comes, and the client gets two keepalives.
            quiet = await read_until(chunks, mark)
            quiet += await read_until(chunks, mark)
            assert b"worker_died" not in quiet
            await tell(broker, request_id, " three", 6)
            await broker.final(request_id, ending(" four", tokens=5))
            after = b"".join([chunk async for chunk in chunks])
        assert answer.status_code == 200
        assert b"three" in after
        assert b"four" in after
        assert b"One" not in after or dialect == "responses"  # whose end repeats all of it
        assert b"worker_died" not in before + after


@every_dialect
async def test_a_whole_answer_goes_on_too(runtime_dir: Path, dialect: str) -> None:
    path, body, _mark = body_of(dialect, stream=False)
    async with serving(runtime_dir) as (broker, client):
        asking = asyncio.create_task(client.post(path, json=body))
        request_id, work = await broker.expect_work()
        assert (work.tells_tokens, work.stream) == (True, False)
        await tell(broker, request_id, "", [3])
        await tell(broker, request_id, "", [4, 5])
        for ids in ([3, 4, 5], [3, 4, 5, 6]):
            await lose(broker, request_id)
            assert (await resumed(broker, request_id)).begun == {
                "ids": ids,
                "characters": 0,
                "cached": 0,
            }
            await tell(broker, request_id, "", 6)
        await broker.finish(request_id, "One two three", tokens=5)
        answer = await asking
        assert answer.status_code == 200
        assert "One two three" in answer.text


def entry(token: str, logprob: float) -> dict[str, Any]:
    one = {"token": token, "bytes": token.encode(), "logprob": logprob}
    return {**one, "top": [one, {**one, "logprob": logprob - 1}]}


# What a request for log-probabilities says.
LOGPROBS: dict[str, dict[str, Any]] = {
    "chat": {"logprobs": True, "top_logprobs": 2},
    "completions": {"logprobs": 2},
    "responses": {"top_logprobs": 2, "include": ["message.output_text.logprobs"]},
    "ollama chat": {"logprobs": True, "top_logprobs": 2},
    "ollama generate": {"logprobs": True, "top_logprobs": 2},
}


@pytest.mark.parametrize("dialect", LOGPROBS)
async def test_a_whole_answer_with_logprobs_says_what_it_says_undisturbed(runtime_dir: Path, dialect: str) -> None:
    path, body, _mark = body_of(dialect, stream=False, **LOGPROBS[dialect])
    entries = [entry("One", -0.5), entry(" two", -1.25), entry(" three", -0.125), entry(" four", -2.5)]
    end = ending("One two three four", tokens=4)
    async with serving(runtime_dir) as (broker, client):
        asking = asyncio.create_task(client.post(path, json=body))
        request_id, work = await broker.expect_work()
        assert (work.tells_tokens, work.logprobs) == (True, 2)
        await broker.final(request_id, {**end, "logprobs": entries})
        undisturbed = (await asking).json()
        asking = asyncio.create_task(client.post(path, json=body))
        request_id, _work = await broker.expect_work()
        for number, ids in enumerate(([3], [3, 4])):
            await tell(broker, request_id, "", ids[-1], logprobs=[entries[number]])
            await lose(broker, request_id)
            assert (await resumed(broker, request_id)).begun == {"ids": ids, "characters": 0, "cached": 0}
        await broker.final(request_id, {**end, "logprobs": entries[2:]})
        answer = await asking
    assert answer.status_code == 200
    assert plain(answer.json()) == plain(undisturbed)
    assert all(f"{one['logprob']}" in answer.text for one in entries)


@every_dialect
async def test_a_client_can_turn_it_off(runtime_dir: Path, dialect: str) -> None:
    async with serving(runtime_dir, resume_limit=3) as (broker, client):
        for resume, limit in ((False, 0), (True, 3), (None, 3)):
            path, body, _mark = body_of(dialect, stream=False, resume=resume)
            asking = asyncio.create_task(client.post(path, json=body))
            request_id, request = await broker.expect(InferenceRequest)
            assert request.resume_limit == limit
            assert unpack(Generate, request.payload).tells_tokens == (limit > 0)
            await broker.finish(request_id, "Hello")
            assert (await asking).status_code == 200
        path, body, _mark = body_of(dialect, resume="no")
        assert (await client.post(path, json=body)).status_code == 400


async def test_an_answer_that_is_too_long_to_go_on_ends_with_the_error(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "MAX_TOKENS", 1)
    path, body, _mark = body_of("chat", stream=True)
    async with serving(runtime_dir) as (broker, client):
        async with client.stream("POST", path, json=body) as answer:
            request_id, _work = await broker.expect_work()
            await tell(broker, request_id, "One two", [3, 4])
            chunks = answer.aiter_bytes()
            await read_until(chunks, b"two")
            await lose(broker, request_id)
            assert (await broker.expect(Cancel))[0] == request_id
            rest = b"".join([chunk async for chunk in chunks])
        [error] = [json.loads(line[6:]) for line in rest.decode().splitlines() if "error" in line]
        assert error["error"]["code"] == "worker_died"
        assert "too long to go on" in error["error"]["message"]


async def test_a_client_that_leaves_while_its_answer_waits_cancels_it(runtime_dir: Path) -> None:
    path, body, _mark = body_of("chat", stream=True)
    async with serving(runtime_dir) as (broker, client):
        async with client.stream("POST", path, json=body) as answer:
            request_id, _work = await broker.expect_work()
            await tell(broker, request_id, "One", 3)
            chunks = answer.aiter_bytes()  # kept: the connection closes with it
            await read_until(chunks, b"One")
            await lose(broker, request_id)
            await resumed(broker, request_id)
        assert (await broker.expect(Cancel))[0] == request_id
