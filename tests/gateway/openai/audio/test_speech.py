"""Speech and voices over HTTP, by a broker that the test plays."""

import asyncio
import base64
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Cancel, InferenceRequest
from broker.wire.kinds import Task
from broker.wire.outputs import ACK_EVERY
from tests.gateway.openai.audio.playing import SPEECH, eventually, expect_text, have_said, playing, say
from tests.gateway.played_broker import SECONDS, PlayedBroker

pytestmark = pytest.mark.anyio

BODY: dict[str, Any] = {"input": "Good morning.", "voice": "anna"}
PIECE = bytes(range(256)) * 100
DIED = Failure(Code.WORKER_DIED, "it has died", retryable=True)


def post(client: httpx.AsyncClient, **fields: Any) -> "asyncio.Task[httpx.Response]":
    return asyncio.create_task(client.post(SPEECH, json={**BODY, **fields}))


@contextlib.asynccontextmanager
async def begun(
    broker: PlayedBroker, client: httpx.AsyncClient, **fields: Any
) -> AsyncIterator[tuple[bytes, AsyncIterator[bytes]]]:
    """An answer whose first piece has been sent: the request's id, and the pieces. Its client leaves at the end."""
    body = {**BODY, **fields}
    sending = asyncio.create_task(client.send(client.build_request("POST", SPEECH, json=body), stream=True))
    request_id, _ = await expect_text(broker)
    await say(broker, request_id, PIECE)
    answer = await sending
    try:
        yield request_id, answer.aiter_raw()
    finally:
        await answer.aclose()


@pytest.mark.parametrize(
    ("encoding", "media"),
    [(None, "audio/mpeg"), ("wav", "audio/wav"), ("flac", "audio/flac"), ("pcm", "audio/pcm;rate=24000")],
)
async def test_the_bytes_of_the_file_as_they_come(runtime_dir: Path, encoding: str | None, media: str) -> None:
    async with playing(runtime_dir) as (broker, client):
        body = {**BODY, "response_format": encoding}
        sending = asyncio.create_task(client.send(client.build_request("POST", SPEECH, json=body), stream=True))
        request_id, unit = await expect_text(broker)
        assert (unit.text, unit.voice, unit.encoding, unit.stream) == ("Good morning.", "anna", encoding or "mp3", True)
        await say(broker, request_id, b"first", sample_rate=24000)
        async with asyncio.timeout(SECONDS):
            answer = await sending
            assert (answer.status_code, answer.headers["content-type"]) == (200, media)
            pieces = answer.aiter_raw()
            assert await anext(pieces) == b"first"  # before the rest has been spoken
            await say(broker, request_id, PIECE)
            await have_said(broker, request_id, b"last")
            assert b"".join([piece async for piece in pieces]) == PIECE + b"last"


async def test_the_same_as_events(runtime_dir: Path) -> None:
    async with playing(runtime_dir) as (broker, client):
        asking = post(client, stream_format="sse")
        request_id, _ = await expect_text(broker)
        await say(broker, request_id, PIECE, sample_rate=24000)
        await say(broker, request_id, b"")
        await have_said(broker, request_id, b"last")
        answer = await asking
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        *events, done = [line.removeprefix("data: ") for line in answer.text.split("\n") if line]
        first, last, end = map(json.loads, events)
        assert base64.b64decode(first["audio"]) + base64.b64decode(last["audio"]) == PIECE + b"last"
        assert {first["type"], last["type"]} == {"speech.audio.delta"}
        usage = {"input_tokens": 3, "output_tokens": 7, "total_tokens": 10}
        assert (end, done) == ({"type": "speech.audio.done", "usage": usage}, "[DONE]")


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
async def test_an_error_before_the_first_byte_is_json_however_long_it_takes(
    runtime_dir: Path, stream_format: str
) -> None:
    async with playing(runtime_dir, keepalive_seconds=0.02 if stream_format == "audio" else 10) as (broker, client):
        asking = post(client, stream_format=stream_format, voice="nobody")
        request_id, _ = await expect_text(broker)
        await asyncio.sleep(0.08)  # several times as long as streams stay silent
        await broker.error(request_id, Failure(Code.INVALID_REQUEST, "voice must be one of anna, bert", "voice"))
        answer = await asking
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
        assert answer.json()["error"]["param"] == "voice"


async def test_an_error_after_the_first_byte_cuts_the_connection(
    runtime_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with playing(runtime_dir) as (broker, client):
        async with asyncio.timeout(SECONDS), begun(broker, client) as (request_id, pieces):
            assert await anext(pieces) == PIECE
            await broker.error(request_id, DIED)
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                await anext(pieces)
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []
        asking = post(client)  # on a new connection
        request_id, _ = await expect_text(broker)
        await have_said(broker, request_id, b"all")
        assert (await asking).content == b"all"


async def test_an_error_after_the_first_event_has_its_frame(runtime_dir: Path) -> None:
    async with playing(runtime_dir) as (broker, client):
        async with asyncio.timeout(SECONDS), begun(broker, client, stream_format="sse") as (request_id, pieces):
            assert b"speech.audio.delta" in await anext(pieces)
            await broker.error(request_id, DIED)
            rest = b"".join([piece async for piece in pieces]).decode()
        error, done = [line.removeprefix("data: ") for line in rest.split("\n") if line.startswith("data: ")][-2:]
        assert (json.loads(error)["error"]["code"], done) == ("worker_died", "[DONE]")


async def test_a_client_that_leaves_cancels(runtime_dir: Path) -> None:
    async with playing(runtime_dir) as (broker, client):
        asking = post(client)
        request_id, _ = await expect_text(broker)
        asking.cancel()
        assert (await broker.expect(Cancel))[0] == request_id
        async with begun(broker, client) as (request_id, pieces):
            await anext(pieces)
        assert (await broker.expect(Cancel))[0] == request_id


async def slow_reader(client: httpx.AsyncClient) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that holds little on the client's side."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", client.base_url.port or 0))
    reader, writer = await asyncio.open_connection(sock=connection, limit=2**16)
    body = json.dumps(BODY).encode()
    writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (SPEECH.encode(), len(body), body))
    return reader, writer


async def say_in_turns(broker: PlayedBroker, request_id: bytes, pieces: int) -> None:
    """So many times 100 kB, not all at once: the gateway says of every 16 that it has read them."""
    for number in range(pieces):
        await say(broker, request_id, bytes([number]) * 100_000)
        if number % ACK_EVERY == ACK_EVERY - 1:
            await eventually(lambda: broker.read and broker.read[-1] > number)  # noqa: B023  # it is awaited at once


async def test_a_client_that_reads_as_slowly_as_it_plays_gets_everything(runtime_dir: Path) -> None:
    """Eight megabytes wait for it: minutes of speech."""
    async with playing(runtime_dir) as (broker, client):
        reader, writer = await slow_reader(client)
        request_id, _ = await expect_text(broker)
        await say_in_turns(broker, request_id, 80)
        await have_said(broker, request_id)
        async with asyncio.timeout(SECONDS):
            await reader.readuntil(b"\r\n\r\n")
            body = bytearray()
            while (size := int(await reader.readline(), 16)) > 0:
                body += await reader.readexactly(size)
                await reader.readexactly(2)
        writer.close()
        assert body == b"".join(bytes([number]) * 100_000 for number in range(80))


async def test_one_that_does_not_read_at_all_is_cancelled(runtime_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with playing(runtime_dir) as (broker, client):
        _reader, writer = await slow_reader(client)
        request_id, _ = await expect_text(broker)
        await say_in_turns(broker, request_id, 240)
        assert (await broker.expect(Cancel))[0] == request_id
        writer.transport.abort()
    [waited] = re.findall("reads too slowly, ([0-9]+) bytes waited", caplog.text)
    assert int(waited) > 16 << 20


async def test_voices(runtime_dir: Path) -> None:
    async with playing(runtime_dir) as (broker, client):
        asking = asyncio.create_task(client.get("/v1/audio/voices", params={"model": "org/kokoro"}))
        request_id, request = await broker.expect(InferenceRequest)
        assert (request.task, request.model) == (Task.VOICES, "org/kokoro")
        await broker.final(request_id, {"voices": ["anna", "bert"]})
        answer = await asking
        assert answer.json() == {"voices": [{"id": "anna", "name": "anna"}, {"id": "bert", "name": "bert"}]}
        asking = asyncio.create_task(client.get("/v1/audio/voices"))
        request_id, request = await broker.expect(InferenceRequest)
        assert request.model == "org/tiny"
        await broker.error(request_id, Failure(Code.INVALID_REQUEST, "model does not speak", "model"))
        answer = await asking
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "x" * 100_000}, "input"),
        ({"input": None}, "input"),
        ({"response_format": "opus"}, "response_format"),
        ({"speed": 9}, "speed"),
        ({"voice": 1}, "voice"),
    ],
)
async def test_bad_input_is_refused_by_name(runtime_dir: Path, fields: dict[str, Any], param: str) -> None:
    async with playing(runtime_dir) as (_broker, client):
        answer = await post(client, **fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
