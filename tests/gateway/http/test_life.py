"""How a gateway begins and ends."""

import asyncio
import contextlib
import shlex
import signal
import time
from pathlib import Path

import httpx
import pytest

from broker.wire.from_gateways import Goodbye, Models
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import MODEL, GatewayProcess, chat, connected, gateway_process, running_process
from tests.service import free_port

pytestmark = pytest.mark.anyio


def http(gateway: GatewayProcess) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS)


async def test_the_announced_line_works(runtime_dir: Path) -> None:
    models = (MODEL | {"model_id": "a/vision", "model_type": "vision"}, MODEL)
    async with PlayedBroker(runtime_dir) as broker, running_process(broker, runtime_dir, models) as gateway:
        curl = shlex.split(gateway.announcement.splitlines()[1])
        assert curl[0] == "curl"
        async with http(gateway) as client:
            asking = asyncio.create_task(client.post(curl[1], content=curl[curl.index("-d") + 1]))
            request_id, work = await broker.expect_work()
            assert work.messages == [{"role": "user", "content": "What is the capital of France?"}]
            await broker.finish(request_id, "Paris.")
            assert (await asking).json()["model"] == "org/tiny"


async def test_a_gateway_before_its_broker(runtime_dir: Path) -> None:
    port = free_port()
    async with gateway_process(runtime_dir, port=port) as gateway:
        gateway.url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(SECONDS), http(gateway) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    assert (await client.get("/health")).status_code == 503
                    break
        async with PlayedBroker(runtime_dir) as broker:
            await broker.meet()
            await broker.final((await broker.expect(Models))[0], {"models": []})
            assert gateway.process.stdout is not None
            async with asyncio.timeout(SECONDS):
                assert b"no text model" in await gateway.process.stdout.readline()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_ends_everything_in_time(runtime_dir: Path, number: signal.Signals) -> None:
    async with PlayedBroker(runtime_dir) as broker, running_process(broker, runtime_dir) as gateway:
        async with connected(gateway) as idle, connected(gateway) as open_stream, connected(gateway) as whole:
            await open_stream.post("/v1/chat/completions", chat(stream=True))
            stream_id, _ = await broker.expect_work()
            await broker.partial(stream_id, "One")
            await open_stream.read_until(b"\n\n")
            await whole.post("/v1/chat/completions", chat())
            whole_id, _ = await broker.expect_work()
            began = time.monotonic()
            gateway.process.send_signal(number)
            rest = await open_stream.read_to_end()
            assert b"the gateway is shutting down" in rest
            assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            answer = await whole.read_to_end()
            assert b"HTTP/1.1 503" in answer
            assert b'"retryable":true' in answer
            assert await idle.read_to_end() == b""
            assert await gateway.ended() == 0
            assert time.monotonic() - began < 4.0
        ended = {(await broker.receive()).request_id for _ in range(2)}
        assert ended == {stream_id, whole_id}
        await broker.expect(Goodbye)
        assert "Traceback" not in await gateway.log()


async def test_a_stop_does_not_wait_for_clients_that_do_not_read(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_process(broker, runtime_dir) as gateway,
        connected(gateway) as raw,
    ):
        await raw.post("/v1/chat/completions", chat(stream=True))
        request_id, _ = await broker.expect_work()
        for _ in range(80):
            await broker.partial(request_id, "x" * 100_000)
        began = time.monotonic()
        gateway.process.terminate()
        assert await gateway.ended() == 0
        assert time.monotonic() - began < 4.0
