"""How an HTTP request waits for its call: for the whole answer, or chunk by chunk as a stream of its dialect.

A client that goes cancels its work at once, streamed or not. Nothing of a stream is sent before the first output, so
that until then an error is a plain response with a status; afterwards it is a frame of the stream. This file knows no
dialect.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from broker.wire.failure import Failure, FailureError
from gateway.core.answer import ignored_in
from gateway.core.dialect import Renderer
from gateway.core.failure import IGNORED_HEADER, INTERNAL_ERROR, FieldNames, ignored_header, in_words_of
from gateway.core.served import CLIENT_LEFT, Served
from gateway.link.call import Call, CallClosedError, Item, T

log = logging.getLogger(__name__)

Done = TypeVar("Done")

_UNBUFFERED = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))  # nginx would hold the stream back
_IGNORED = IGNORED_HEADER.encode("latin-1")


async def collect(call: Call[T], scope: Scope, receive: Receive, names: FieldNames) -> list[T]:
    """What ends each unit of work, in their order; for work that is not streamed. Raises FailureError for the first one
    that fails, in the words of `names`, and CallClosedError when the client goes."""
    finals: dict[int, T] = {}
    with _attended(call, scope, receive):
        while len(finals) < call.size:
            outputs, failure = _until_failure(await call.take())
            if failure is not None:
                raise FailureError(in_words_of(names, failure))
            finals.update(outputs)
    return [finals[index] for index in range(call.size)]


class Pipe(Protocol):
    """What a server may offer a response, as `pipe` in the request's state: to write without ASGI's `send`, and to hear
    without its `receive` that the client has gone; so neither needs a task."""

    @property
    def is_open(self) -> bool:
        """Whether `write` would neither wait nor be in vain."""

    def write(self, body: bytes) -> None:
        """One more piece of the body, once the response has begun."""

    def cut(self) -> None:
        """Close the connection in the middle of the body, so that the client knows that its end is missing."""

    def when_gone(self, call: Callable[[], None] | None) -> None:
        """Call this once when the client has gone, at once if it has. None: nothing."""


class AnswerStream(Response, Generic[T]):
    """The response that sends a call's outputs as they come, and a keepalive after `keepalive` seconds of silence.

    names: the client's names of fields in failures. opening: what is sent at once, if anything; without it the response
    starts with the first output. After that outputs take the server's shortcut, where it has one. ignored: what of the
    request the dialect leaves out; what the worker leaves out comes with the first output, and is named if nothing was
    sent before that.
    """

    def __init__(
        self,
        call: Call[T],
        renderer: Renderer[T],
        keepalive: float,
        names: FieldNames,
        *,
        opening: bytes = b"",
        ignored: Sequence[str] = (),
    ) -> None:
        self.status_code = 200
        self.raw_headers = [*_UNBUFFERED]
        self._call = call
        self._renderer = renderer
        self._names = names
        self._opening = opening
        self._ignored = ignored
        self._keepalive = keepalive
        self._is_started = False
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises FailureError while nothing is sent."""
        self._loop = asyncio.get_running_loop()
        self._pipe: Pipe | None = scope["state"].get("pipe")
        self._served: Served = scope["state"]["served"]
        self._served.units = self._call.size
        with _attended(self._call, scope, receive):
            self._sent_at = self._loop.time()
            self._timer = self._loop.call_later(self._keepalive, self._look)
            try:
                await self._relay(send)
                return
            except CallClosedError:
                self._served.outcome = CLIENT_LEFT
                return
            except FailureError as error:
                if not self._is_started:
                    raise
                failure = error.failure
            except Exception:
                if not self._is_started:
                    raise
                log.exception("a stream failed")
                failure = INTERNAL_ERROR
            finally:
                self._timer.cancel()
            self._served.outcome = failure.code
            frames = self._renderer.error(failure)
            if frames is not None:
                await self._send(send, frames, is_last=True)
            elif self._pipe is not None:
                self._pipe.cut()
            else:  # the server closes what does not end
                raise FailureError(failure)

    async def _relay(self, send: Send) -> None:
        if self._opening:
            self._name_ignored()
            await self._send(send, self._opening)
        while not self._renderer.is_complete:
            outputs, failure = _until_failure(await self._call.take())
            if failure is not None and not self._is_started:
                raise FailureError(in_words_of(self._names, failure))
            if outputs:
                self._served.hear(time.monotonic(), len(outputs))
                self._served.count(outputs)
                if not self._is_started:
                    self._name_ignored(outputs)
                await self._send(send, self._renderer.render(outputs), is_last=self._renderer.is_complete)
                self._call.shortcut = self._write
            elif failure is None and (silence := self._renderer.keepalive()):
                if not self._is_started:  # what the worker leaves out comes too late for a header
                    self._name_ignored()
                await self._send(send, silence)
            if failure is not None:
                raise FailureError(in_words_of(self._names, failure))

    def _name_ignored(self, outputs: Sequence[tuple[int, T]] = ()) -> None:
        ignored = [*self._ignored, *ignored_in([output for _unit, output in outputs])]
        if value := ignored_header(self._names, ignored):
            self.raw_headers.append((_IGNORED, value.encode("latin-1")))

    def _write(self, outputs: list[tuple[int, T]]) -> bool:
        """The shortcut of nearly every token. If the client is behind, the task takes over."""
        if self._pipe is None or not self._pipe.is_open:
            return False
        try:
            body = self._renderer.render(outputs)
            self._pipe.write(body)
        except Exception:  # noqa: BLE001 # the task finds it again and ends the stream with it
            return False
        self._served.hear(time.monotonic(), len(outputs))
        if body:  # else the client still hears nothing
            self._sent_at = self._loop.time()
        return True

    async def _send(self, send: Send, body: bytes, *, is_last: bool = False) -> None:
        if not self._is_started:
            self._is_started = True
            headers = [(b"content-type", self._renderer.content_type.encode("latin-1")), *self.raw_headers]
            await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": not is_last})
        if body:
            self._sent_at = self._loop.time()

    def _look(self) -> None:
        """One timer per stream that looks when the last output was sent: setting one per output would cost more."""
        quiet = self._loop.time() - self._sent_at
        if quiet >= self._keepalive:
            self._call.wake()
            quiet = 0
        self._timer = self._loop.call_later(self._keepalive - quiet, self._look)


def _until_failure(items: list[Item[T]]) -> tuple[list[tuple[int, T]], Failure | None]:
    outputs: list[tuple[int, T]] = []
    for index, output in items:
        if isinstance(output, Failure):
            return outputs, output
        outputs.append((index, output))
    return outputs, None


@contextlib.contextmanager
def _attended(call: Call[T], scope: Scope, receive: Receive) -> Iterator[None]:
    """Closes `call` at the end of the block, and as soon as the client goes."""
    pipe: Pipe | None = scope["state"].get("pipe")
    watcher: asyncio.Task[None] | None = None
    if pipe is not None:
        pipe.when_gone(call.close)
    else:
        watcher = asyncio.create_task(_close_when_gone(call, receive))
    try:
        yield
    finally:
        if pipe is not None:
            pipe.when_gone(None)
        if watcher is not None:
            watcher.cancel()
        call.close()


async def _close_when_gone(call: Call[T], receive: Receive) -> None:
    await gone(receive)
    call.close()


async def gone(receive: Receive) -> CallClosedError:
    """Waits until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    return CallClosedError()


async def unless(work: Coroutine[Any, Any, Done], *ends: Coroutine[Any, Any, Exception]) -> Done:
    """The result of `work`, which is cancelled when one of `ends` returns: that one is raised instead. `work` has ended
    then."""
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
        await asyncio.wait([working])
