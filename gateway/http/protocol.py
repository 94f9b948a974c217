"""uvicorn's HTTP/1.1, and stricter: what is refused before there is a route, and how answers are framed.

A malformed request gets the error object, whatever its path, and its connection closes. Headers and what stands between
the chunks of a body are bounded in bytes, headers also in time. HTTP/1.0 gets plain bytes and then the end of the
connection; HEAD gets headers alone, of streams too.
"""

import asyncio
import contextvars
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import httptools
import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from broker.wire.failure import Code, Failure
from gateway.awake import AwakeTimer
from gateway.core.failure import STATUS, error_object
from gateway.http.errors import LINGER_SECONDS, LingeringJson
from gateway.http.joined import JoinedHead
from gateway.trace import HEADER, set_trace, trace_for

MAX_HEADER_BYTES = 65_536
HEADER_SECONDS = 30.0  # from a connection, or the first byte of its next request, to the end of the headers

_TOO_LARGE = Failure(Code.HEADERS_TOO_LARGE, f"the headers have more than {MAX_HEADER_BYTES} bytes")
_NOT_HTTP = Failure(Code.INVALID_REQUEST, "this is not HTTP/1.1")
_TOO_SLOW = Failure(Code.REQUEST_TIMEOUT, f"the headers must be complete within {HEADER_SECONDS:g} s", retryable=True)


def fault_of(scope: Mapping[str, Any]) -> Failure | None:
    """What is wrong with the headers of a request, if anything. Pure."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    size, hosts = len(scope["raw_path"]) + len(scope["query_string"]), 0
    for name, value in headers:
        size += len(name) + len(value) + 4
        hosts += name == b"host"
    if size > MAX_HEADER_BYTES:
        return _TOO_LARGE
    if hosts > 1 or (hosts == 0 and scope["http_version"] == "1.1"):
        return Failure(Code.INVALID_REQUEST, f"a request must have one Host header, this one has {hosts}")
    return _coding_fault(headers)


def _coding_fault(headers: list[tuple[bytes, bytes]]) -> Failure | None:
    for coding in _values(headers, b"transfer-encoding"):
        if coding.strip().lower() != b"chunked":
            name = coding.decode("latin-1")
            return Failure(Code.NOT_IMPLEMENTED, f"Transfer-Encoding must be chunked, not {name!r:.80}")
    return None


def _values(headers: list[tuple[bytes, bytes]], wanted: bytes) -> Iterator[bytes]:
    return (value for name, value in headers if name == wanted)


def _rest_of(headers: list[tuple[bytes, bytes]]) -> bytes:
    """A head for the body that these headers announce, empty without one."""
    framing = [(name, value) for name, value in headers if name in (b"content-length", b"transfer-encoding")]
    lines = b"".join(b"%b: %b\r\n" % line for line in framing)
    return b"POST / HTTP/1.1\r\n" + lines + b"\r\n" if lines else b""


class _ChunkedBody:
    """A `Pipe` into a response of uvicorn's."""

    __slots__ = ("_cycle", "_leave")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        # The cycle refers to this through its scope: a strong reference would leave every request to the collector.
        self._cycle = weakref.proxy(cycle)
        self._leave: Callable[[], None] | None = None

    @property
    def is_open(self) -> bool:
        cycle = self._cycle
        return bool(cycle.chunked_encoding) and not (cycle.flow.write_paused or cycle.disconnected)

    def write(self, body: bytes) -> None:
        if body:  # an empty chunk would be the end
            self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(body), body))

    def cut(self) -> None:
        self._cycle.disconnected = True  # else uvicorn logs that the response has no end
        self._cycle.transport.close()

    def when_gone(self, call: Callable[[], None] | None) -> None:
        self._leave = call
        self.look()

    def look(self) -> None:
        """Whether the client has gone."""
        if self._leave is not None and self._cycle.disconnected:
            leave, self._leave = self._leave, None
            leave()


class Protocol(HttpToolsProtocol):
    """One connection. It offers a `Pipe` to each response: sending a token through four coroutines takes longer than
    all other work on it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headers, self.url = [], b""  # which uvicorn sets when a request begins
        self._answering: RequestResponseCycle | None = None  # `cycle` may be a later one that waits
        self._is_refused = False
        self._is_in_headers = True
        self._has_begun = False  # a request whose headers are not complete
        # Java's client offers h2c with a first request that has a body, and the parser takes that body for h2c. So the
        # parser gets a second head, which says how long the body is and begins no request.
        self._declined = b""
        self._is_continued = False
        self._outside_bodies = 0  # bytes since the parser last saw a piece of a body or the end of headers
        self._deadline: AwakeTimer | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        # As uvicorn's, which also asks the system seven times for the addresses of both ends. Nothing here reads them.
        self.connections.add(self)
        self.transport, self.flow, self.scheme = transport, FlowControl(transport), "http"
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        for cycle in (self._answering, self.cycle):  # the first of two pipelined requests, and the last
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
                _tell_gone(cycle)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return  # it lingers, see `_refuse`
        self._unset_keepalive_if_required()
        self._outside_bodies += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            # The parser takes paths of up to 65,535 bytes.
            is_long = len(self.url) >= MAX_HEADER_BYTES
            self._refuse(_TOO_LARGE if is_long else _coding_fault(self.headers) or _NOT_HTTP)
            return
        if self._outside_bodies > MAX_HEADER_BYTES:
            self._refuse(_TOO_LARGE)
        elif self._is_in_headers and self._deadline is None and (self._has_begun or not self._is_answering):
            self._await_headers()  # not while nothing has come since a request: uvicorn closes what is idle

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                # Another protocol was offered, and the parser has stopped where that would begin. It is declined.
                data = self._declined + data[offer.args[0] :]
                self._is_continued = bool(self._declined)
                if self._declined:  # after `Connection: close` the old one would read no body
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            else:
                return

    def on_message_begin(self) -> None:
        if not self._is_continued:
            self._has_begun = True
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_continued:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Else it is a trailer, which must not pass for a header.
        if self._is_in_headers and not self._is_continued:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_headers = self._has_begun = False
        self._outside_bodies = 0
        if self._is_continued:
            self._is_continued, self._declined = False, b""
            return
        self._stop_waiting()
        self._declined = _rest_of(self.headers) if self.parser.should_upgrade() else b""
        before = self.cycle
        super().on_headers_complete()
        # For a task that has not begun yet. HEAD has nothing to write, and its client goes with the headers.
        if self.cycle is not before and self.scope["method"] != "HEAD":
            self.scope["state"]["pipe"] = _ChunkedBody(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._outside_bodies = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_headers, self._outside_bodies = True, 0
        if not self._declined:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        cycle.transport = JoinedHead(cycle, self.loop)  # type: ignore[assignment]  # as much of one as a cycle uses
        fault = fault_of(cycle.scope)
        if fault is not None:
            app = LingeringJson(error_object(fault), STATUS[fault.code], {"connection": "close"})
        if cycle.scope["method"] == "HEAD":
            app = _headers_alone(app)
        elif cycle.scope["http_version"] != "1.1":
            app = _plain(app, cycle)
        trace = trace_for(cycle.scope["headers"])
        cycle.default_headers = [*cycle.default_headers, (HEADER, trace.encode())]
        context = contextvars.copy_context()
        context.run(set_trace, trace)
        context.run(super()._start_asgi_task, cycle, app)

    def _refuse(self, failure: Failure) -> None:
        """Answer and close; but first read on for a moment, or a client that still writes would lose the answer."""
        self._is_refused = True
        self._stop_waiting()
        cycle = self._answering
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            _tell_gone(cycle)
            if cycle.response_started:  # another answer must not stand in the middle of this one
                self.transport.close()
                return
        body = orjson.dumps(error_object(failure))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        name = b"%b: %b\r\n\r\n" % (HEADER, trace_for(self.headers).encode())
        self.transport.write(STATUS_LINE[STATUS[failure.code]] + head + name + body)
        with suppress(OSError, RuntimeError):  # it may be closing already
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    @property
    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _await_headers(self) -> None:
        self._deadline = AwakeTimer(self.loop, HEADER_SECONDS, self._on_deadline)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        if self._is_answering:
            self._await_headers()  # of the next request; this one is not to suffer
        elif self._has_begun:
            self._refuse(_TOO_SLOW)
        else:
            self.transport.close()  # it has not said anything


def _tell_gone(cycle: RequestResponseCycle | None) -> None:
    pipe: _ChunkedBody | None = cycle.scope["state"].get("pipe") if cycle is not None else None
    if pipe is not None:
        pipe.look()


def _headers_alone(app: ASGIApp) -> ASGIApp:
    """Ends the response with its headers: a stream has no other end that a HEAD could wait for."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        is_sent = False

        async def send_headers(message: Message) -> None:
            nonlocal is_sent
            if not is_sent:
                is_sent = True
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await app(scope, receive, send_headers)

    return wrapped


def _plain(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """Sends bodies as they are, for clients that know no chunks: the end of the connection ends them."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        cycle.chunked_encoding = False

        async def send_plain(message: Message) -> None:
            cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_plain)

    return wrapped
