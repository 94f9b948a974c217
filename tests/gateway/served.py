"""A gateway in the test's own process: the real app behind the real server, with any link and endpoints."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
from starlette.types import ASGIApp

from gateway.app import ENDPOINTS, SUBTREES, create_app
from gateway.core.served import Observer
from gateway.http.endpoints import Endpoint, Subtree
from gateway.http.server import Server
from gateway.link.link import Link
from gateway.settings import Settings
from tests.gateway.played_broker import SECONDS


class ServedGateway(Server):
    """Says when it listens."""

    def __init__(self, settings: Settings, app: ASGIApp, link: Link, **options: Any) -> None:
        super().__init__(settings, app, link, **options)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()


@contextlib.asynccontextmanager
async def served(
    link: Link,
    settings: Settings | None = None,
    endpoints: Sequence[Endpoint] = ENDPOINTS,
    subtrees: Sequence[Subtree] = SUBTREES,
    observers: Sequence[Observer] = (),
    **options: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of such a gateway, on a port of its own. options: of the Server."""
    settings = settings or Settings(port=0, default_model="org/tiny")
    server = ServedGateway(settings, create_app(settings, link, endpoints, subtrees, observers), link, **options)
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(SECONDS):
            await server.listens.wait()
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
            yield client
    finally:
        server._on_signal(signal.SIGTERM)
        async with asyncio.timeout(SECONDS):
            await serving
