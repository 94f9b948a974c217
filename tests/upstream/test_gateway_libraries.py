"""Contracts of uvicorn, httpcore2 and pyzmq: see docs/upstream.md."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpcore2
import uvicorn
import zmq
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState
from zmq.utils.monitor import parse_monitor_message

REQUEST = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"


def test_uvicorn_response_cycle() -> None:
    """A chunk that goes to the cycle's transport stands between chunks of the application."""
    seen: list[Any] = []
    ended = asyncio.Event()

    class Protocol(HttpToolsProtocol):
        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            self.scope["state"]["cycle"] = self.cycle

    async def app(scope: Any, receive: Any, send: Any) -> None:
        cycle = scope["state"]["cycle"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        seen.append((cycle.chunked_encoding, cycle.flow.write_paused, cycle.disconnected))
        cycle.transport.write(b"1\r\nb\r\n")
        await send({"type": "http.response.body", "body": b"c", "more_body": True})
        while not cycle.disconnected:
            await receive()
        seen.append(cycle.disconnected)
        ended.set()

    async def talk() -> bytes:
        config = uvicorn.Config(app, lifespan="off", log_config=None)
        loop = asyncio.get_running_loop()
        make = lambda: Protocol(config=config, server_state=ServerState(), app_state={})  # noqa: E731
        server = await loop.create_server(make, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(REQUEST)
        answer = await reader.readuntil(b"1\r\nc\r\n")
        writer.close()
        async with asyncio.timeout(10):
            await ended.wait()
        server.close()
        return answer

    assert asyncio.run(talk()).endswith(b"\r\n\r\n1\r\na\r\n1\r\nb\r\n1\r\nc\r\n")
    assert seen == [(True, False, False), True]


def test_uvicorn_head_and_body() -> None:
    """A cycle writes its head at once and each piece apart, and uses no more of its transport than is stood in for."""
    writes: list[bytes] = []

    class Recorded:
        def __init__(self, cycle: RequestResponseCycle) -> None:
            self._transport = cycle.transport

        def write(self, data: bytes) -> None:
            writes.append(data)
            self._transport.write(data)

        def close(self) -> None:
            self._transport.close()

        def is_closing(self) -> bool:
            return self._transport.is_closing()

    class Protocol(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self.connections.add(self)
            self.transport, self.flow, self.scheme = transport, FlowControl(transport), "http"

        def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
            cycle.transport = Recorded(cycle)  # type: ignore[assignment]
            super()._start_asgi_task(cycle, app)

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    async def talk() -> bytes:
        config = uvicorn.Config(app, lifespan="off", log_config=None, interface="asgi3")
        make = lambda: Protocol(config=config, server_state=ServerState(), app_state={})  # noqa: E731
        server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(REQUEST)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        server.close()
        return answer

    answer = asyncio.run(talk())
    head, *pieces = writes
    assert head.startswith(STATUS_LINE[200])
    assert head.endswith(b"\r\n\r\n")
    assert pieces == [b"1\r\na\r\n", b"1\r\nb\r\n0\r\n\r\n"]
    assert answer == b"".join(writes)


def test_uvicorn_protocol() -> None:
    """One method starts each request, also one that has waited. A response with a preset length is sent as it is, and
    HEAD has no body."""
    started: list[str] = []

    class Protocol(HttpToolsProtocol):
        def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
            started.append(cycle.scope["path"])
            assert not cycle.response_started
            assert not cycle.response_complete
            super()._start_asgi_task(cycle, partial(app, cycle))

        def on_header(self, name: bytes, value: bytes) -> None:
            started.append(name.decode())
            super().on_header(name, value)

    async def app(cycle: RequestResponseCycle, _scope: Any, _receive: Any, send: Any) -> None:
        if cycle.scope["http_version"] == "1.0":
            cycle.chunked_encoding = False
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for body in (b"a", b"bc", b""):
            cycle.expected_content_length = len(body)
            await send({"type": "http.response.body", "body": body, "more_body": bool(body)})

    async def talk() -> bytes:
        config = uvicorn.Config(app, lifespan="off", log_config=None, interface="asgi3")
        config.load()
        config.loaded_app = app
        make = lambda: Protocol(config=config, server_state=ServerState(), app_state={})  # noqa: E731
        server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"HEAD /1 HTTP/1.1\r\nhost: h\r\n\r\nGET /2 HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        server.close()
        return answer

    head = b"\r\nconnection: close\r\n\r\n"
    answers = asyncio.run(talk())
    assert answers.startswith(STATUS_LINE[200])
    assert answers.endswith(head[2:] + b"abc"), answers
    assert answers.count(STATUS_LINE[200]) == 2
    assert started == ["host", "/1", "/2"]


def test_uvicorn_server_steps() -> None:
    """`serve` calls these methods in this order, and `servers` has the listening sockets after `startup`."""
    steps: list[str] = []

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            steps.append("capture_signals")
            yield

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            steps.append(f"startup of {len(self.servers[0].sockets)}")

        async def main_loop(self) -> None:
            steps.append(f"main_loop {await self.on_tick(0)}")
            self.handle_exit(15, None)
            steps.append(f"exit {await self.on_tick(0)}")

        async def shutdown(self, sockets: Any = None) -> None:
            await super().shutdown(sockets)
            steps.append("shutdown")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    asyncio.run(Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None)).serve())
    assert steps == ["capture_signals", "startup of 1", "main_loop False", "exit True", "shutdown"]


def test_httpcore_network_backend() -> None:
    """Every connection of a pool is made by the backend that it was given, by host and port."""
    asked: list[tuple[str, int]] = []
    listening = 0

    class Network(httpcore2.AnyIOBackend):
        async def connect_tcp(self, host: str, port: int, timeout: float | None = None, *rest: Any, **more: Any) -> Any:  # noqa: ASYNC109
            asked.append((host, port))
            return await super().connect_tcp("127.0.0.1", listening, timeout)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
        writer.close()

    async def get() -> bytes:
        nonlocal listening
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        listening = server.sockets[0].getsockname()[1]
        url = httpcore2.URL(scheme=b"http", host=b"an.example", port=81, target=b"/x")
        async with (
            httpcore2.AsyncConnectionPool(None, network_backend=Network()) as pool,
            pool.stream("GET", url, headers=[(b"host", b"an.example")], extensions={"timeout": {"connect": 5}}) as got,
        ):
            body = b"".join([chunk async for chunk in got.aiter_stream()])
        server.close()
        return body

    assert asyncio.run(get()) == b"hi"
    assert asked == [("an.example", 81)]


def test_pyzmq_monitor(tmp_path: Any) -> None:
    """Over ipc the monitor tells that the other side is there, and that it has gone."""
    endpoint = f"ipc://{os.path.relpath(tmp_path)}/s"  # relative: the path of a socket is limited
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        monitor = dealer.get_monitor_socket(zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED)
        dealer.connect(endpoint)
        with context.socket(zmq.ROUTER) as router:
            router.bind(endpoint)
            assert monitor.poll(10_000)
            assert parse_monitor_message(monitor.recv_multipart())["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
        assert monitor.poll(10_000)
        assert parse_monitor_message(monitor.recv_multipart())["event"] == zmq.EVENT_DISCONNECTED
        dealer.disable_monitor()
        monitor.close(0)
