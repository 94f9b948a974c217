"""How long a model stays, as clients state it to a real broker."""

import asyncio
from collections.abc import Callable

from broker.wire.failure import Failure
from broker.wire.paths import GATEWAY_SOCKET
from broker.wire.work import Generate
from gateway.core import ask
from gateway.core.administration import LoadReport
from gateway.core.ask import Ask
from gateway.link.call import T
from gateway.link.client import BrokerClient
from tests.conftest import ECHO
from tests.service import Service

SECONDS = 10.0


class Client:
    """A gateway that only asks."""

    def __init__(self, link: BrokerClient) -> None:
        self._link = link

    async def ask(self, work: Ask[T]) -> T:
        async with asyncio.timeout(SECONDS):
            [(_, answer)] = await (await self._link.call(work)).take()
        assert not isinstance(answer, Failure), answer
        return answer

    async def idle_until(self, model_id: str) -> float | None:
        """When it leaves; it is ready."""
        [model] = [m for m in (await self.ask(ask.status())).models if m.model_id == model_id]
        assert model.state == "ready"
        return model.idle_until

    async def left(self, model_id: str) -> None:
        """Returns when it has gone."""
        call = await self._link.call(ask.watch(model_id))
        async with asyncio.timeout(SECONDS):
            while True:
                for _, change in await call.take():
                    if not isinstance(change, Failure) and change.state == "unloaded":
                        call.close()
                        return


def test_a_model_stays_as_long_as_clients_say(make_service: Callable[..., Service]) -> None:
    service = make_service(start=False, models={"echo": ECHO})
    service.start_broker()

    async def act() -> None:
        link = BrokerClient(service.directory / "run" / GATEWAY_SOCKET)
        link.open()
        client = Client(link)
        try:
            idle = await client.ask(ask.keep("echo", 0))
            assert (idle.size_bytes, idle.model_dump()["pinned"]) == (0, False)
            assert (await client.ask(ask.status())).workers <= 1  # a spare

            kept: LoadReport = await client.ask(ask.keep("echo", 300))
            assert kept.size_bytes > 0
            first = await client.idle_until("echo")
            await client.ask(ask.keep("echo", -1))
            assert await client.idle_until("echo") is None
            await client.ask(ask.generate_whole("echo", Generate(prompt="hello"), keep_alive=600))
            second = await client.idle_until("echo")
            assert first is not None
            assert second is not None
            assert 299 < second - first < 299 + SECONDS
            await client.ask(ask.generate_whole("echo", Generate(prompt="hello"), keep_alive=0))
            await client.left("echo")

            await client.ask(ask.keep("echo", 0.2))
            await client.left("echo")
        finally:
            link.close()

    asyncio.run(act())
