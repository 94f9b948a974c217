"""A host of images on loopback that answers with the bytes that the test gives it, good or bad."""

import asyncio
from types import TracebackType
from typing import Self

MISSING = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def found(body: bytes = PNG, media_type: str = "image/png", length: int | None = None, more: str = "") -> bytes:
    """A response with status 200. length: what it says of itself, negative for nothing; more: further headers."""
    size = len(body) if length is None else length
    headers = f"content-type: {media_type}\r\n" + more + (f"content-length: {size}\r\n" if size >= 0 else "")
    return f"HTTP/1.1 200 OK\r\n{headers}\r\n".encode() + body


def moved(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()


class ImageHost:
    """`async with ImageHost() as host`. answers: what it sends to a request for a path, else 404.

    requests: the heads of all requests; stalls: paths after whose answer it keeps the connection open and says nothing
    until the client goes, which sets `left`. waits_for: it answers nothing before.
    """

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.stalls: set[str] = set()
        self.requests: list[str] = []
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self.waits_for: asyncio.Event | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        await self._server.wait_closed()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.readexactly(1)
            if first == b"\x16":  # a TLS handshake
                return
            head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            self.requests.append(head)
            self.asked.set()
            if self.waits_for is not None:
                await self.waits_for.wait()
            writer.write(self.answers.get(path, b"" if path in self.stalls else MISSING))
            if path in self.stalls:
                await reader.read()
                self.left.set()
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
