"""Transcriptions whose client, gateway or broker goes: no file stays. By a broker that the test plays."""

import asyncio
import contextlib
import signal
from pathlib import Path

import httpx
import pytest

from broker.wire.from_gateways import Cancel
from gateway.http.uploads import FOLDER
from tests.gateway.openai.audio.playing import (
    AUDIO,
    FORM,
    TRANSCRIPTIONS,
    eventually,
    expect_audio,
    no_upload_left,
    part,
    playing,
    post,
    uploaded,
)
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import running_process

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("stream", ["true", ""])
async def test_a_client_that_leaves_cancels_and_takes_its_file_along(runtime_dir: Path, stream: str) -> None:
    async with playing(runtime_dir) as (broker, client):
        asking = post(client, stream=stream)
        request_id, _ = await expect_audio(broker)
        asking.cancel()
        assert (await broker.expect(Cancel))[0] == request_id
        await no_upload_left(runtime_dir)


async def test_one_that_leaves_in_the_middle_of_its_upload_leaves_nothing(runtime_dir: Path) -> None:
    async with playing(runtime_dir) as (_broker, client):
        _reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n"
        writer.write(f"{head}Content-Type: {FORM['content-type']}\r\n\r\n".encode() + part("file", AUDIO * 100))
        await eventually(lambda: any(path.stat().st_size for path in uploaded(runtime_dir)))
        writer.close()
        await no_upload_left(runtime_dir)


async def test_a_gateway_that_is_killed_leaves_its_files_to_the_next_one(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_process(broker, runtime_dir) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        asking = post(client, model="org/tiny")
        _, unit = await expect_audio(broker)
        gateway.process.kill()
        await gateway.ended()
        with pytest.raises(httpx.TransportError):
            await asking
        assert uploaded(runtime_dir) == [Path(unit.path)]
    async with playing(runtime_dir):
        assert uploaded(runtime_dir) == []


async def test_a_gateway_that_stops_ends_uploads_and_leaves_nothing(runtime_dir: Path) -> None:
    """Of a client that sends no form its log has no more than the access line."""
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_process(broker, runtime_dir, log_level="debug") as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        assert (await client.post(TRANSCRIPTIONS, content=b"no boundary", headers=FORM)).status_code == 400
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n"
        writer.write(f"{head}Content-Type: {FORM['content-type']}\r\n\r\n".encode() + part("file", AUDIO * 100))
        await eventually(lambda: uploaded(runtime_dir))
        async with asyncio.timeout(SECONDS):
            gateway.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(ConnectionResetError):  # what it has not read of the upload may do that
                assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        writer.close()
        assert await gateway.ended() == 0
        assert list((runtime_dir / FOLDER).iterdir()) == []
        assert "boundary" not in (await gateway.log()).lower()


async def test_a_broker_that_goes_ends_the_request_and_its_file(runtime_dir: Path) -> None:
    async with playing(runtime_dir) as (broker, client):
        asking = post(client)
        await expect_audio(broker)
        broker.close()
        answer = await asking
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "broker_unavailable")
        assert uploaded(runtime_dir) == []
