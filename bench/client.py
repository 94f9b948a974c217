"""The client of the benchmarks: HTTP on plain asyncio, as cheap per chunk as possible.

While an answer arrives, each chunk is only stored with its time. It is parsed after the end, outside of the
measurement. This file does not know what is measured.
"""

import asyncio
import bisect
import re
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import orjson

_EVENT = re.compile(rb"^data: (\{.*\})\r?$", re.MULTILINE)
_ANSWER_SECONDS = 120.0


class Answer(asyncio.Protocol):
    """One request over its own connection, and its answer. Times are monotonic seconds."""

    def __init__(self, request: bytes) -> None:
        self.sent_at = 0.0
        self.pieces: list[bytes] = []
        self.times: list[float] = []
        self._request = request
        self._wanted = -1
        self._loop = asyncio.get_running_loop()
        self._reached = self._loop.create_future()
        self._ended = self._loop.create_future()

    # ---- asyncio's side -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class does not inherit it

    def data_received(self, data: bytes) -> None:
        self.times.append(time.monotonic())
        self.pieces.append(data)
        if len(self.pieces) == self._wanted:
            self._reached.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():  # cancelled, if its waiter was
            self._ended.set_result(None)

    # ---- the benchmark's side -------------------------------------------------------------------------------------

    def send(self) -> "Answer":
        """Send the request over the connection."""
        self.sent_at = time.monotonic()
        self._transport.write(self._request)
        return self

    async def started(self, pieces: int = 1) -> "Answer":
        """Wait until this many pieces have come since the beginning. Raises AssertionError if they do not."""
        assert await self.has_started(pieces), f"{len(self.pieces)} of {pieces} pieces have come"
        return self

    async def has_started(self, pieces: int) -> bool:
        """Wait until this many pieces have come since the beginning, or the connection has ended: whether they have."""
        if len(self.pieces) < pieces:
            self._reached, self._wanted = self._loop.create_future(), pieces
            await asyncio.wait((self._reached, self._ended), timeout=_ANSWER_SECONDS, return_when="FIRST_COMPLETED")
        return len(self.pieces) >= pieces

    async def ended(self) -> "Answer":
        """Wait for the end of the connection."""
        await asyncio.wait_for(self._ended, _ANSWER_SECONDS)
        return self

    def leave(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    # ---- what it says ---------------------------------------------------------------------------------------------

    @property
    def raw(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def status(self) -> int:
        return int(self.raw[9:12] or 0)

    @property
    def body(self) -> Any:
        """The JSON of an answer that is not streamed. Raises AssertionError for any status but 200."""
        head, _, body = self.raw.partition(b"\r\n\r\n")
        assert self.status == 200, self.raw.decode(errors="replace")
        assert b"chunked" not in head.lower(), "not for streams"
        return orjson.loads(body)

    def events(self) -> "Events":
        """The server-sent events of a streamed answer. Raises AssertionError for any status but 200."""
        assert self.status == 200, self.raw.decode(errors="replace")
        return Events(self.pieces, self.times)


class Repeated(asyncio.Protocol):
    """Repeats one request over one connection until `leave`. count: answers so far.

    A status other than 200 ends the connection, and `leave` raises AssertionError.
    """

    def __init__(self, request: bytes) -> None:
        self.count = 0
        self._request = request
        self._received = b""
        self._leaving = False

    @classmethod
    async def connect(cls, port: int, path: str, body: object) -> "Repeated":
        """Connect and send the first request, whose answer is a JSON object."""
        content = orjson.dumps(body)
        client = cls(_head(port, "POST", path, len(content), "keep-alive") + content)
        await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", port)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.endswith(b"}"):
            return  # the head came alone
        if not self._received.startswith(b"HTTP/1.1 200"):
            self._transport.abort()
            return
        self._received = b""
        self.count += 1
        if not self._leaving:
            self._transport.write(self._request)

    def leave(self) -> None:
        assert not self._transport.is_closing(), self._received
        self._leaving = True
        self._transport.close()


async def answers_per_second(port: int, path: str, bodies: Sequence[object], seconds: float = 1.0) -> float:
    """The rate of all clients together. bodies: what each client repeats over its own connection."""
    clients = [await Repeated.connect(port, path, body) for body in bodies]
    before = sum(client.count for client in clients)
    began = time.monotonic()
    await asyncio.sleep(seconds)
    count, took = sum(client.count for client in clients) - before, time.monotonic() - began
    for client in clients:
        client.leave()
    return count / took


class Kept(asyncio.Protocol):
    """Asks for one token of a chat, streamed, again and again over one connection."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, port: int, model: str, content: str, choices: int = 1) -> "Kept":
        body = orjson.dumps(chat(model, content, 1) | ({"n": choices} if choices > 1 else {}))
        client = cls(_head(port, "POST", "/v1/chat/completions", len(body), "keep-alive") + body)
        await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", port)
        return client

    async def ask(self) -> float:
        """Seconds to the first piece of the answer; returns when it has ended. Raises AssertionError for any status but
        200."""
        self._received, self._first = b"", 0.0
        self._ended = self._loop.create_future()
        began = time.monotonic()
        self._transport.write(self._request)
        await asyncio.wait_for(self._ended, _ANSWER_SECONDS)
        assert self._received.startswith(b"HTTP/1.1 200"), self._received
        assert b"data: [DONE]" in self._received, self._received
        return self._first - began

    def leave(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._first = self._first or time.monotonic()
        self._received += data
        if self._received.endswith((b"0\r\n\r\n", b"}")) and not self._ended.done():  # its last chunk, or an error
            self._ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


class Events:
    """Texts, their times, and the end of the stream."""

    def __init__(self, pieces: Sequence[bytes], times: Sequence[float]) -> None:
        raw = b"".join(pieces)
        ends = []
        total = 0
        for piece in pieces:
            total += len(piece)
            ends.append(total)
        self.texts: list[str] = []
        self.times: list[float] = []
        self.usage: dict[str, int] = {}
        self.error: dict[str, Any] | None = None
        self.error_at = 0.0
        self.ended_at = times[-1]
        self.is_done = b"data: [DONE]" in raw
        for match in _EVENT.finditer(raw):
            event = orjson.loads(match[1])
            # The piece in which the event is complete.
            at = times[bisect.bisect_left(ends, match.end())]
            if "error" in event:
                self.error, self.error_at = event["error"], at
            self.usage = event.get("usage") or self.usage
            for choice in event.get("choices") or ():
                if text := choice["delta"].get("content"):
                    self.texts.append(text)
                    self.times.append(at)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def gaps(self) -> list[float]:
        """Seconds between one text and the next; 0 for texts that came in one piece."""
        return [later - earlier for earlier, later in pairwise(self.times)]

    def gaps_between(self, begin: float, end: float) -> list[float]:
        """The gaps that overlap this span of time."""
        return [later - earlier for earlier, later in pairwise(self.times) if later > begin and earlier < end]


async def prepared(port: int, method: str, path: str, body: object = None) -> Answer:
    """One request to this port of this machine: connected, not sent."""
    content = b"" if body is None else orjson.dumps(body)
    answer = Answer(_head(port, method, path, len(content), "close") + content)
    await asyncio.get_running_loop().create_connection(lambda: answer, "127.0.0.1", port)
    return answer


async def send(port: int, method: str, path: str, body: object = None) -> Answer:
    """Connect and send one request to this port of this machine; `sent_at` is before connecting."""
    began = time.monotonic()
    answer = (await prepared(port, method, path, body)).send()
    answer.sent_at = began
    return answer


def _head(port: int, method: str, path: str, length: int, connection: str) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: {connection}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def ask(port: int, method: str, path: str, body: object = None) -> Any:
    """The JSON that the server answers; AssertionError for any status but 200."""
    return (await (await send(port, method, path, body)).ended()).body


def chat(model: str, content: object, max_tokens: int, *, stream: bool = True) -> dict[str, Any]:
    """The body of a greedy chat completion. content: of the user's message, text or parts."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": stream,
    }
    return body | {"stream_options": {"include_usage": True}} if stream else body


async def prepared_stream(port: int, model: str, content: object, max_tokens: int) -> Answer:
    """A streamed chat completion: connected, not sent."""
    return await prepared(port, "POST", "/v1/chat/completions", chat(model, content, max_tokens))


async def stream(port: int, model: str, content: object, max_tokens: int, *, resume: bool = True) -> Answer:
    """A chat completion, streamed; as `send`. resume: whether it may go on in another process."""
    body = chat(model, content, max_tokens)
    return await send(port, "POST", "/v1/chat/completions", body if resume else body | {"resume": False})
