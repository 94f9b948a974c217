"""A client that goes is heard of without a task that waits for it, and an answer leaves nothing behind."""

import asyncio
import gc
from pathlib import Path

import pytest

from broker.wire.from_gateways import Cancel
from gateway.core.served import Served
from tests.gateway.played_broker import PlayedBroker
from tests.gateway.running import chat, connected, running_gateway

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"


@pytest.mark.parametrize("stream", [True, False])
async def test_no_task_waits_for_a_client_to_go(runtime_dir: Path, *, stream: bool) -> None:
    async with PlayedBroker(runtime_dir) as broker, running_gateway(broker, runtime_dir) as gateway:
        before = asyncio.all_tasks()
        async with connected(gateway) as raw:
            await raw.post(PATH, chat(stream=stream))
            request_id, _ = await broker.expect_work()
            assert len(asyncio.all_tasks() - before) == 1  # the request's own
            raw.writer.close()
            assert (await broker.expect(Cancel))[0] == request_id


async def test_one_that_has_gone_before_is_heard_of_too(runtime_dir: Path) -> None:
    """The broker is asked what the name means while the client goes."""
    async with PlayedBroker(runtime_dir) as broker, running_gateway(broker, runtime_dir) as gateway:
        async with connected(gateway) as raw:
            await raw.post(PATH, chat(model="one/more"))
            raw.writer.close()
            await raw.writer.wait_closed()
        request_id, _ = await broker.expect_work()
        assert (await broker.expect(Cancel))[0] == request_id


async def test_the_first_of_two_requests_on_a_connection_is_heard_of_too(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir) as broker, running_gateway(broker, runtime_dir) as gateway:
        async with connected(gateway) as raw:
            await raw.post(PATH, chat(stream=True))
            await raw.post(PATH, chat(stream=True))
            request_id, _ = await broker.expect_work()
            raw.writer.transport.abort()
            await broker.partial(request_id, "One")  # reading is paused while a request waits: the write tells
        while (await broker.expect(Cancel))[0] != request_id:
            pass


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_leaves_nothing_to_the_collector(runtime_dir: Path, *, stream: bool) -> None:
    async with PlayedBroker(runtime_dir) as broker, running_gateway(broker, runtime_dir) as gateway:
        gc.collect()
        gc.disable()
        try:
            async with connected(gateway) as raw:
                await raw.post(PATH, chat(stream=stream))
                request_id, _ = await broker.expect_work()
                if stream:
                    await broker.partial(request_id, "One")
                    await raw.read_until(b"One")
                    await broker.partial(request_id, "two")
                await broker.finish(request_id, "three")
                await raw.read_until(b"[DONE]" if stream else b"}}}")
            for _ in range(200):  # until the connection has closed
                left = [one for one in gc.get_objects() if isinstance(one, Served)]
                if not left:
                    break
                del left
                await asyncio.sleep(0.01)
            else:
                pytest.fail("the record of a request is still there")
        finally:
            gc.enable()
