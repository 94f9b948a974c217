"""How an HTTP request waits for its call to the broker: for the whole answer, or chunk by chunk as server-sent events.

A client that goes cancels its work at once, streamed or not. Nothing of a stream is sent before the broker's first
output, so that until then an error is a plain response with a status; afterwards it is a frame of the stream.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from broker.wire.body import ProtocolError
from broker.wire.outputs import ERROR, FINAL
from gateway.http.errors import INTERNAL_ERROR, ApiError, failure_of
from gateway.link.call import Call, CallClosedError, Item
from gateway.openai.replies import KEEPALIVE, framed_error

log = logging.getLogger(__name__)

T = TypeVar("T")

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the stream back
]


async def collect(call: Call, receive: Receive) -> list[dict[str, Any]]:
    """The bodies of the FINALs, in the order of the units of work. Raises ApiError for the first ERROR,
    ProtocolError for output that is none of these, CallClosedError when the client goes."""
    finals: dict[int, dict[str, Any]] = {}
    async with _attended(call, receive):
        while len(finals) < call.size:
            items, error = _until_error(await call.take())
            if error is not None:
                raise error
            if any(kind != FINAL for _index, kind, _body in items):
                raise ProtocolError("PARTIAL for a request that is not streamed")
            finals.update((index, body) for index, _kind, body in items)
    return [finals[index] for index in range(call.size)]


class Renderer(Protocol):
    """Outputs -> the bytes of a stream."""

    @property
    def is_complete(self) -> bool:
        """Whether `render` has written the end of the stream."""

    def render(self, items: Sequence[Item]) -> bytes: ...


class Pipe(Protocol):
    """What a server may offer a response that has begun, as `pipe` in the request's state: to write without ASGI's
    `send`, and so without a task."""

    @property
    def is_open(self) -> bool:
        """Whether `write` would neither wait nor be in vain."""

    def write(self, body: bytes) -> None:
        """One more piece of the body."""


class EventStream(Response):
    """The response that sends a call's outputs as they come, and a comment after `keepalive` seconds without any.

    opening: what is sent at once, if anything; without it the response starts with the first output. After that outputs
    take the server's shortcut, where it has one.
    """

    def __init__(self, call: Call, chunks: Renderer, keepalive: float, opening: bytes = b"") -> None:
        self._call = call
        self._chunks = chunks
        self._opening = opening
        self._keepalive = keepalive
        self._is_started = False
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ApiError while nothing is sent."""
        self._loop = asyncio.get_running_loop()
        self._pipe: Pipe | None = scope["state"].get("pipe")
        async with _attended(self._call, receive):
            try:
                with self._keepalives():
                    await self._relay(send)
                return
            except CallClosedError:
                return
            except ApiError as error:
                if not self._is_started:
                    raise
                failure = error.failure
            except Exception:
                if not self._is_started:
                    raise
                log.exception("a stream failed")
                failure = INTERNAL_ERROR
            await self._send(send, framed_error(failure), is_last=True)

    async def _relay(self, send: Send) -> None:
        if self._opening:
            await self._send(send, self._opening)
        while not self._chunks.is_complete:
            items, error = _until_error(await self._call.take())
            if error is not None and not self._is_started:
                raise error
            if items:
                await self._send(send, self._chunks.render(items), is_last=self._chunks.is_complete)
                self._call.shortcut = self._write_partials
            elif error is None:
                await self._send(send, KEEPALIVE)
            if error is not None:
                raise error

    def _write_partials(self, items: list[Item]) -> bool:
        """The shortcut of nearly every token. A client that is behind is the task's."""
        if self._pipe is None or not self._pipe.is_open:
            return False
        try:
            self._pipe.write(self._chunks.render(items))
        except Exception:  # noqa: BLE001 # the task finds it again and ends the stream with it
            return False
        self._sent_at = self._loop.time()
        return True

    async def _send(self, send: Send, body: bytes, *, is_last: bool = False) -> None:
        if not self._is_started:
            self._is_started = True
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": body, "more_body": not is_last})
        self._sent_at = self._loop.time()

    @contextlib.contextmanager
    def _keepalives(self) -> Iterator[None]:
        # One timer per stream that looks when the last output was sent: setting one per output would cost more.
        loop = self._loop
        self._sent_at = loop.time()

        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            quiet = loop.time() - self._sent_at
            if quiet >= self._keepalive:
                self._call.wake()
                quiet = 0
            timer = loop.call_later(self._keepalive - quiet, look)

        timer = loop.call_later(self._keepalive, look)
        try:
            yield
        finally:
            timer.cancel()


def _until_error(items: list[Item]) -> tuple[list[Item], ApiError | None]:
    for position, (_index, kind, body) in enumerate(items):
        if kind == ERROR:
            return items[:position], ApiError(failure_of(body))
    return items, None


@contextlib.asynccontextmanager
async def _attended(call: Call, receive: Receive) -> AsyncIterator[None]:
    """Closes `call` at the end of the block, and as soon as the client goes."""
    watcher = asyncio.create_task(_close_when_gone(call, receive))
    try:
        yield
    finally:
        watcher.cancel()
        call.close()


async def _close_when_gone(call: Call, receive: Receive) -> None:
    await gone(receive)
    call.close()


async def gone(receive: Receive) -> CallClosedError:
    """Waits until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    return CallClosedError()


async def unless(work: Coroutine[Any, Any, T], *ends: Coroutine[Any, Any, Exception]) -> T:
    """The result of `work`, which is cancelled when one of `ends` returns: that one is raised instead."""
    working = asyncio.create_task(work)
    ending = [asyncio.create_task(end) for end in ends]
    try:
        await asyncio.wait([working, *ending], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise next(end.result() for end in ending if end.done())
    finally:
        for task in (working, *ending):
            task.cancel()
