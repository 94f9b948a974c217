"""A broker played by the test: a real ROUTER socket where gateways look for one, which sends what the test wants."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import zmq
import zmq.asyncio

from broker.wire.body import Body, to_map
from broker.wire.codec import Message, decode, encode
from broker.wire.failure import Failure
from broker.wire.frames import gateway_of
from broker.wire.from_gateways import InferenceRequest, InferenceRequests, Resolve, Status
from broker.wire.from_peers import Ack, Heartbeat, Hello
from broker.wire.model_names import folded
from broker.wire.outputs import ERROR, FINAL, PARTIAL, Output, encode_outputs
from broker.wire.packing import unpack
from broker.wire.paths import GATEWAY_SOCKET
from broker.wire.work import Generate

T = TypeVar("T", bound=Body)

SECONDS = 10.0


class PlayedBroker:
    """`async with PlayedBroker(runtime_dir) as broker`. Every wait in it is bounded.

    heartbeats: whether it sends one a second, as a broker does. models: those that it has, None for whatever is asked
    for. status: what it answers to STATUS at once, None if the test does.
    """

    def __init__(self, runtime_dir: Path, *, heartbeats: bool = True, models: Sequence[str] | None = None) -> None:
        self.models = models
        self.status: dict[str, Any] | None = None
        self.statuses = 0  # answered
        self._heartbeats = heartbeats
        self._tasks: list[asyncio.Task[None]] = []
        self._messages: asyncio.Queue[tuple[bytes, Message]] | None = None  # once somebody waits for one
        self.read: list[int] = []
        self.together: list[int] = []  # how many requests came in one message
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, 0)
        self._socket.bind(f"ipc://{runtime_dir / GATEWAY_SOCKET}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._context.destroy(linger=0)

    async def receive(self) -> Message:
        """The next message. Acknowledgements of outputs are skipped; `read` has their numbers. Which model a name means
        is answered at once. Requests that come in one message are messages of their own."""
        return (await self._next())[1]

    async def _next(self) -> tuple[bytes, Message]:
        if self._messages is None:
            self._messages = asyncio.Queue()
            self._tasks.append(asyncio.create_task(self._receive(self._messages)))
        async with asyncio.timeout(SECONDS):
            return await self._messages.get()

    async def _receive(self, messages: "asyncio.Queue[tuple[bytes, Message]]") -> None:
        while True:
            gateway, *frames = await self._socket.recv_multipart()
            message = decode(frames)
            if isinstance(message.body, Ack):
                self.read.append(message.body.total)
            elif isinstance(message.body, Resolve):
                await self.final(message.request_id, meant(message.body, self.models))
            elif isinstance(message.body, Status) and self.status is not None:
                self.statuses += 1
                await self.final(message.request_id, self.status)
            elif isinstance(message.body, InferenceRequests):
                self.together.append(len(message.body.request_ids))
                for request_id, request in message.body.each():
                    messages.put_nowait((bytes(gateway), Message(request_id, request)))
            else:
                messages.put_nowait((bytes(gateway), message))

    async def expect(self, kind: type[T]) -> tuple[bytes, T]:
        """The next message, which must be of this kind: its request id and body."""
        message = await self.receive()
        assert isinstance(message.body, kind), message
        return message.request_id, message.body

    async def expect_work(self) -> tuple[bytes, Generate]:
        """The next message, which must be a request."""
        request_id, request = await self.expect(InferenceRequest)
        return request_id, unpack(Generate, request.payload)

    async def meet(self) -> bytes:
        """The gateway that says hello."""
        gateway, message = await self._next()
        assert isinstance(message.body, Hello)
        if self._heartbeats:
            self._tasks.append(asyncio.create_task(self._beat(gateway)))
        return gateway

    async def _beat(self, gateway: bytes) -> None:
        while True:
            await self.say_body(gateway, Heartbeat())
            await asyncio.sleep(1)

    async def say(self, gateway: bytes, *frames: bytes) -> None:
        await self._socket.send_multipart([gateway, *frames])

    async def say_body(self, gateway: bytes, body: Body) -> None:
        await self.say(gateway, *encode(body))

    async def outputs(self, *outputs: Output) -> None:
        await self.say(gateway_of(outputs[0].request_id), *encode_outputs(list(outputs)))

    async def partial(self, request_id: bytes, text: str) -> None:
        await self.outputs(Output(request_id, PARTIAL, {"text": text}))

    async def final(self, request_id: bytes, body: dict[str, Any]) -> None:
        await self.outputs(Output(request_id, FINAL, body))

    async def finish(self, request_id: bytes, text: str = "", reason: str = "stop", tokens: int = 3) -> None:
        await self.final(request_id, ending(text, reason, tokens))

    async def error(self, request_id: bytes, failure: Failure) -> None:
        await self.outputs(Output(request_id, ERROR, to_map(failure)))


def meant(asked: Resolve, models: Sequence[str] | None) -> dict[str, Any]:
    """The FINAL of a Resolve by who has these models, or whatever is asked for. What begins with `hub/` could be
    downloaded."""
    known = [asked.model] if models is None else models
    model_id = next((model for model in known if folded(model) == folded(asked.model)), None)
    return {"model_id": model_id, "fetchable": model_id is None and asked.model.startswith("hub/")}


def ending(text: str = "", reason: str = "stop", tokens: int = 3, prompt: int = 5, cached: int = 2) -> dict[str, Any]:
    """The FINAL of a Generate."""
    return {
        "text": text,
        "finish_reason": reason,
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "cached_tokens": cached,
    }
