"""A gateway beside a played broker, for tests of Ollama's API over HTTP."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from broker.wire.paths import GATEWAY_SOCKET
from gateway.link.client import BrokerClient
from gateway.settings import Settings
from tests.gateway.ollama.bodies import USER
from tests.gateway.played_broker import PlayedBroker
from tests.gateway.served import served

CHAT = {"model": "org/tiny:latest", "messages": [USER]}
LOADED = {"model_id": "org/tiny", "model_type": "text-gen", "size_bytes": 7, "pinned": False}


@contextlib.asynccontextmanager
async def ollama(
    runtime_dir: Path, models: Sequence[str] | None = None, **settings: Any
) -> AsyncIterator[tuple[PlayedBroker, httpx.AsyncClient]]:
    """A played broker, which has these models or whatever is asked for, and a client of a gateway beside it."""
    given = Settings(port=0, default_model="org/tiny", **settings)
    async with (
        PlayedBroker(runtime_dir, models=models) as broker,
        served(BrokerClient(runtime_dir / GATEWAY_SOCKET), given) as client,
    ):
        await broker.meet()
        yield broker, client


def asked(client: httpx.AsyncClient, path: str, body: dict[str, Any], **options: Any) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(client.post(path, json=body, **options))
