"""A reverse proxy that serves a gateway below a path, one request for each connection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from urllib.parse import urlsplit


@contextlib.asynccontextmanager
async def proxied(url: str, prefix: str) -> AsyncIterator[str]:
    """The address of the gateway at `url` behind it. What is not below `prefix` is a 404."""
    there = urlsplit(url)

    async def serve(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await client.readuntil(b"\r\n\r\n")
            method, path, rest = head.split(b" ", 2)
            if not path.startswith(f"{prefix}/".encode()):
                back.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            else:
                gateway, forth = await asyncio.open_connection(there.hostname, there.port)
                forth.write(b" ".join([method, path.removeprefix(prefix.encode()), rest[:-2]]))
                forth.write(b"connection: close\r\n\r\n")
                await _first_to_end(_copy(client, forth), _copy(gateway, back))
                forth.close()
        back.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{prefix}"
    finally:
        server.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()


async def _first_to_end(*copies: Coroutine[None, None, None]) -> None:
    tasks = [asyncio.create_task(copy) for copy in copies]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
