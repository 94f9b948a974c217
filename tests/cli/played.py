"""A gateway behind which the test plays the broker, and the command in this process.

Both run in a thread of their own, so that tests can be written as what a person does in a terminal: one command after
the other. What the broker answers is a table, message -> coroutine, which a test may change.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from broker.wire.body import Body
from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Cancel, Models, Status, Watch
from tests.gateway.http.test_gateway import STATUS
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import MODEL, running_gateway

HELD = {**MODEL, "pinned": False}
Handler = Callable[[PlayedBroker, bytes, Any], Awaitable[None]]


class PlayedService:
    """`url` is its gateway's. handlers: what the broker does with a message; without one it is refused. messages: all
    that came but Status and Models."""

    def __init__(self, runtime_dir: Path, **settings: Any) -> None:
        self.url = ""
        self.handlers: dict[type[Body], Handler]
        self.messages: list[Body]
        self.status: dict[str, Any]
        self.models: list[dict[str, Any]]
        self.broken: list[dict[str, Any]]
        self._broker: PlayedBroker | None = None
        self.reset()
        self._runtime_dir = runtime_dir
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def reset(self) -> None:
        """As if nothing had been asked."""
        self.handlers, self.messages = {}, []
        self.status, self.models, self.broken = STATUS, [HELD], []
        self.knows(None)

    def knows(self, names: list[str] | None) -> None:
        """Which names it resolves; None for all."""
        if self._broker is not None:
            self._broker.models = names

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(SECONDS), "the gateway has not met its broker"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(SECONDS)
        self._loop.close()

    def on(self, kind: type[Body], handler: Handler) -> None:
        self.handlers[kind] = handler

    def finals(self, kind: type[Body], body: dict[str, Any]) -> None:
        """Every such message is answered with this."""

        async def answer(broker: PlayedBroker, request_id: bytes, _body: Body) -> None:
            await broker.final(request_id, body)

        self.on(kind, answer)

    def refuses(self, kind: type[Body], code: Code, message: str, **fields: Any) -> None:
        async def answer(broker: PlayedBroker, request_id: bytes, _body: Body) -> None:
            await broker.error(request_id, Failure(code, message, **fields))

        self.on(kind, answer)

    async def _serve(self) -> None:
        # Signals belong to the main thread, where the test runs.
        self._loop.add_signal_handler = lambda *_: None  # type: ignore[method-assign]
        async with (
            PlayedBroker(self._runtime_dir) as broker,
            running_gateway(broker, self._runtime_dir, (MODEL,), **self._settings) as gateway,
            httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
        ):
            self._broker = broker
            answering = asyncio.create_task(self._answer(broker))
            await client.get("/health")  # by then it has printed its address
            self.url = gateway.url
            self._ready.set()
            await self._end.wait()
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answering

    async def _answer(self, broker: PlayedBroker) -> None:
        tasks: set[asyncio.Future[None]] = set()
        while True:
            try:
                message = await broker.receive()
            except TimeoutError:
                continue
            body = message.body
            if isinstance(body, Status) and Status not in self.handlers:
                await broker.final(message.request_id, self.status)
            elif isinstance(body, Models) and Models not in self.handlers:
                more = {"broken": self.broken, "folders": []} if body.with_broken else {}
                await broker.final(message.request_id, {"models": self.models, **more})
            else:
                self.messages.append(body)
                handler = self.handlers.get(type(body))
                if handler is not None:
                    task = asyncio.ensure_future(handler(broker, message.request_id, body))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                elif not isinstance(body, Cancel | Watch):  # which has no end of its own
                    await broker.error(message.request_id, Failure(Code.NOT_LOADED, f"nobody plays {body}"))


@contextlib.contextmanager
def played_service(runtime_dir: Path, **settings: Any) -> Iterator[PlayedService]:
    service = PlayedService(runtime_dir, **settings)
    service.start()
    try:
        yield service
    finally:
        service.stop()
