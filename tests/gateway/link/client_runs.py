"""A client of a broker, opened for a test, and what its calls give."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from broker.wire.paths import GATEWAY_SOCKET
from gateway.link.call import Call, Item, T
from gateway.link.client import BrokerClient
from tests.gateway.played_broker import SECONDS


@contextlib.asynccontextmanager
async def opened(runtime_dir: Path) -> AsyncIterator[BrokerClient]:
    client = BrokerClient(runtime_dir / GATEWAY_SOCKET)
    client.open()
    try:
        yield client
    finally:
        client.close()


async def take(call: Call[T]) -> list[Item[T]]:
    async with asyncio.timeout(SECONDS):
        return await call.take()


async def take_all(call: Call[T], count: int) -> list[Item[T]]:
    items: list[Item[T]] = []
    while len(items) < count:
        more = await take(call)
        items += more
    return items
