"""A client that goes is heard of without a task that waits for it."""

import asyncio
from pathlib import Path

import pytest

from broker.wire.from_gateways import Cancel
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
