"""A relay between a client program and the gateway that keeps every byte of both directions.

`with Recorder(port) as recorder:` listens on `recorder.port`; once the client has gone, `recorder.exchanges()` are its
requests with their answers.
"""

import contextlib
import json
import socket
import threading
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

import httptools

_PIECE_BYTES = 65536
# Of a request, what says in which form it wants its answer.
_HEADERS = ("content-type", "accept", "anthropic-version", "anthropic-beta", "content-encoding")


@dataclass
class Exchange:
    """One request and its answer. body: as JSON, None without one; answer: text."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int = 0
    answer_type: str = ""
    answer: str = ""

    def to_map(self) -> dict[str, Any]:
        """For a fixture."""
        return asdict(self)


@dataclass
class _Message:
    method: str = ""
    url: bytes = b""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


class _Reader:
    """One direction of a connection, read as HTTP."""

    def __init__(self, *, of_client: bool) -> None:
        self.messages: list[_Message] = []
        self._parser: Any = (httptools.HttpRequestParser if of_client else httptools.HttpResponseParser)(self)
        self._of_client = of_client

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._now = _Message()

    def on_url(self, url: bytes) -> None:
        self._now.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._now.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._now.body += body

    def on_message_complete(self) -> None:
        if self._of_client:
            self._now.method = self._parser.get_method().decode()
        else:
            self._now.status = self._parser.get_status_code()
        self.messages.append(self._now)


class Recorder:
    """See the top of this file. port: of the gateway."""

    def __init__(self, port: int) -> None:
        self._gateway = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[tuple[bytearray, bytearray]] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), "a client of the recorder is still there"

    def exchanges(self) -> list[Exchange]:
        """In the order of their connections."""
        return [exchange for asked, answered in self._connections for exchange in _exchanges(asked, answered)]

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:  # closed
                return
            asked, answered = bytearray(), bytearray()
            self._connections.append((asked, answered))
            thread = threading.Thread(target=self._serve, args=(client, asked, answered))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, asked: bytearray, answered: bytearray) -> None:
        with client, socket.create_connection(("127.0.0.1", self._gateway)) as gateway:
            back = threading.Thread(target=_relay, args=(gateway, client, answered))
            back.start()
            _relay(client, gateway, asked)
            back.join()


def _relay(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
    with contextlib.suppress(OSError):  # either side may go
        while piece := source.recv(_PIECE_BYTES):
            kept += piece
            target.sendall(piece)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _exchanges(asked: bytearray, answered: bytearray) -> list[Exchange]:
    requests, responses = _Reader(of_client=True), _Reader(of_client=False)
    requests.feed(bytes(asked))
    responses.feed(bytes(answered))
    exchanges = []
    for request, response in zip(requests.messages, responses.messages, strict=False):
        headers = {name: value for name, value in request.headers.items() if name in _HEADERS}
        body = json.loads(request.body) if request.body else None
        exchange = Exchange(request.method, request.url.decode(), headers, body)
        exchange.status, exchange.answer = response.status, response.body.decode()
        exchange.answer_type = response.headers.get("content-type", "")
        exchanges.append(exchange)
    return exchanges
