"""A service whose broker is played: a gateway in this process, and a pool that says what the test wants it to say.

The browser is driven from a thread, so that the gateway's loop goes on meanwhile.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from broker.wire.failure import Failure
from broker.wire.from_gateways import InferenceRequest, Logs, Models, Pull, Status, Watch
from broker.wire.outputs import PARTIAL, Output
from broker.wire.packing import unpack
from broker.wire.work import Generate
from tests.gateway.http.test_gateway import LOADED, STATUS
from tests.gateway.played_broker import PlayedBroker
from tests.gateway.running import MODEL, running_gateway

GIB = 2**30
Chat = Callable[["PlayedPool", bytes, Generate], Any]


def entry(model_id: str, **fields: Any) -> dict[str, Any]:
    """A model of the status that is ready and busy."""
    return {
        **LOADED,
        "model_id": model_id,
        "memory_limit_bytes": 4 * GIB,
        "context_length": 8192,
        "tokens_per_second": 40.0,
        "prompt_tokens_per_second": 300.0,
        "ttft_seconds": 0.25,
        "pid": 4711,
        **fields,
    }


class PlayedPool:
    """What the pool says. chat: answers a request; without it nothing does. lines: of every log. pulls: downloads that
    go on. look: the models of each status, where they change. refusals: of the next commands of a kind."""

    def __init__(self, broker: PlayedBroker, models: list[dict[str, Any]], listed: list[dict[str, Any]]) -> None:
        self.broker = broker
        self.models = models
        self.listed = listed
        self.chat: Chat | None = None
        self.lines: list[str] = []
        self.look: Callable[[], list[dict[str, Any]]] | None = None
        self.broken: list[dict[str, str]] = []
        self.budget = 8 * GIB
        self.spares: list[dict[str, Any]] = []
        self.machine: dict[str, float] = {}
        self.asked: list[Generate] = []
        self.pulls: list[bytes] = []
        self.watches: list[bytes] = []
        self.commands: list[tuple[str, str]] = []
        self.refusals: dict[str, Failure] = {}

    async def run(self) -> None:
        """Answers until it is cancelled."""
        tasks = []
        while True:
            try:
                message = await self.broker.receive()
            except TimeoutError:  # a page that is hidden asks for nothing
                continue
            tasks.append(asyncio.create_task(self._answer(message.request_id, message.body)))

    async def _answer(self, request_id: bytes, body: object) -> None:
        match body:
            case Status():
                models = self.models if self.look is None else self.look()
                taken = sum(model["footprint_bytes"] or 0 for model in models)
                memory = {"max_memory_bytes": self.budget, "reserved_bytes": taken, "spares": self.spares}
                await self.broker.final(request_id, {**STATUS, "models": models, **memory, **self.machine})
            case Models():
                await self.broker.final(request_id, {"models": self.listed, "broken": self.broken, "folders": []})
            case Watch():
                self.watches.append(request_id)
            case Pull():
                self.pulls.append(request_id)
            case Logs():
                lines = [[1.0, 7, text] for text in self.lines]
                await self.broker.outputs(Output(request_id, PARTIAL, {"lines": lines}))
            case InferenceRequest():
                work = unpack(Generate, body.payload)
                self.asked.append(work)
                if self.chat is not None:
                    await self.chat(self, request_id, work)
            case _ if hasattr(body, "model"):
                kind = type(body).__name__
                self.commands.append((kind, body.model))
                if (failure := self.refusals.pop(kind, None)) is not None:
                    await self.fail(request_id, failure)
                    return
                loaded = {"model_type": "text-gen", "size_bytes": GIB, "pinned": False}
                await self.broker.final(request_id, {"model_id": body.model, "pid": 1, **loaded})

    async def change(self, model_id: str, state: str, **fields: Any) -> None:
        """Every watch hears it."""
        change = {"model_id": model_id, "state": state, "reason": None, "stage": None, "fraction": None, "at": 1.0}
        await self.broker.outputs(*(Output(watch, PARTIAL, {**change, **fields}) for watch in self.watches))

    async def fail(self, request_id: bytes, failure: Failure) -> None:
        await self.broker.error(request_id, failure)


def listing(model_id: str, **fields: Any) -> dict[str, Any]:
    """A model of this machine."""
    return {**MODEL, "model_id": model_id, "pinned": False, **fields}


@contextlib.asynccontextmanager
async def played(
    runtime_dir: Path, models: list[dict[str, Any]], listed: list[dict[str, Any]] | None = None, **settings: Any
) -> AsyncIterator[tuple[str, PlayedPool]]:
    """The gateway's address, and the pool behind it."""
    shown = [listing(model["model_id"]) for model in models] if listed is None else listed
    async with PlayedBroker(runtime_dir) as broker, running_gateway(broker, runtime_dir, **settings) as gateway:
        pool = PlayedPool(broker, models, shown)
        playing = asyncio.create_task(pool.run())
        try:
            yield gateway.url, pool
        finally:
            playing.cancel()
