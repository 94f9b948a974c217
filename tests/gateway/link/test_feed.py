"""One WATCH for all who listen: what the broker is asked, and what each listener gets. Links and time are real."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.wire.failure import Code, Failure, FailureError
from broker.wire.from_gateways import Cancel, Watch
from broker.wire.outputs import PARTIAL, Output
from broker.wire.paths import GATEWAY_SOCKET
from gateway.core.administration import StateChange
from gateway.link.call import Call
from gateway.link.client import BrokerClient
from gateway.link.feed import STEP_SECONDS, Feed
from tests.gateway.played_broker import SECONDS, PlayedBroker

pytestmark = pytest.mark.anyio


def change(model_id: str, state: str, **fields: Any) -> dict[str, Any]:
    return {"model_id": model_id, "state": state, "reason": None, "stage": None, "fraction": None, "at": 1.0, **fields}


def told(step: StateChange) -> str:
    """As the tests see a change."""
    return f"{step.model_id} {step.state} {step.fraction}"


class Watched:
    """A feed beside a played broker."""

    def __init__(self, broker: PlayedBroker, feed: Feed[str]) -> None:
        self.broker = broker
        self.feed = feed
        self.request_id = b""

    async def listen(self, model: str | None = None, *, is_first: bool = False) -> Call[str]:
        listening = asyncio.create_task(self.feed.listen(model))
        if is_first:
            self.request_id, body = await self.broker.expect(Watch)
            assert body == Watch(None)
        return await listening

    async def tell(self, *changes: dict[str, Any]) -> None:
        await self.broker.outputs(*(Output(self.request_id, PARTIAL, one) for one in changes))


async def taken(call: Call[str], count: int) -> list[Any]:
    items: list[Any] = []
    async with asyncio.timeout(SECONDS):
        while len(items) < count:
            items += [item for _index, item in await call.take()]
    return items


@pytest.fixture
async def watched(runtime_dir: Path) -> AsyncIterator[Watched]:
    async with PlayedBroker(runtime_dir) as broker:
        link = BrokerClient(runtime_dir / GATEWAY_SOCKET)
        link.open()
        feed = Feed(link, told)
        await broker.meet()
        yield Watched(broker, feed)
        feed.close()
        link.close()


async def test_two_hundred_listeners_are_one_watch(watched: Watched) -> None:
    first = await watched.listen(is_first=True)
    await watched.tell(change("a", "ready"), change("b", "failed"))
    assert await taken(first, 2) == ["a ready None", "b failed None"]
    calls = [await watched.listen() for _ in range(200)]
    only = await watched.listen("b")
    await watched.tell(change("a", "stopping"))
    for call in calls:  # the present states, from what the first one heard
        assert await taken(call, 3) == ["a ready None", "b failed None", "a stopping None"]
    assert await taken(only, 1) == ["b failed None"]
    await watched.tell(change("b", "unloaded"))
    assert await taken(only, 1) == ["b unloaded None"]
    for call in (first, *calls):
        call.close()
    await watched.tell(change("b", "loading"))
    assert await taken(only, 1) == ["b loading None"]  # for which the watch goes on
    only.close()
    assert (await watched.broker.expect(Cancel))[0] == watched.request_id  # and no other WATCH came before


async def test_who_listens_after_all_have_left_begins_anew(watched: Watched) -> None:
    (await watched.listen(is_first=True)).close()
    again = asyncio.create_task(watched.feed.listen(None))  # while the first watch is being ended
    assert (await watched.broker.expect(Cancel))[0] == watched.request_id
    watched.request_id, _ = await watched.broker.expect(Watch)
    await watched.tell(change("a", "ready"))
    assert await taken(await again, 1) == ["a ready None"]


async def test_steps_of_a_load_are_told_now_and_then_and_the_last_one_always(watched: Watched) -> None:
    call = await watched.listen(is_first=True)
    began = asyncio.get_running_loop().time()
    for step in range(1, 1001):
        await watched.tell(change("a", "loading", stage="weights", fraction=step / 1000))
    items: list[Any] = []
    while not items or items[-1] != "a loading 1.0":
        items += await taken(call, 1)
    took = asyncio.get_running_loop().time() - began
    assert len(items) <= 2 + took / STEP_SECONDS
    assert items[0] == "a loading 0.001"


async def test_a_change_of_state_reason_or_stage_does_not_wait(watched: Watched) -> None:
    call = await watched.listen(is_first=True)
    await watched.tell(
        change("a", "loading"),
        change("a", "loading", stage="tokenizer", fraction=1.0),
        change("a", "loading", stage="weights", fraction=0.5),
        change("a", "loading", stage="weights", fraction=0.6),  # a step: it would wait
        change("b", "loading", stage="weights", fraction=0.1),
        change("a", "ready"),
        change("a", "draining", reason="unload"),
        change("a", "draining", reason="again"),
    )
    assert await taken(call, 7) == [
        "a loading None",
        "a loading 1.0",
        "a loading 0.5",
        "b loading 0.1",
        "a ready None",
        "a draining None",
        "a draining None",
    ]
    late = await watched.listen()
    assert await taken(late, 2) == ["a draining None", "b loading 0.1"]
    done, _ = await asyncio.wait([asyncio.create_task(call.take())], timeout=2 * STEP_SECONDS)
    assert not done  # the step that was overtaken is not told


async def test_a_listener_that_never_reads_ends_and_the_others_go_on(watched: Watched) -> None:
    reading, sleeping = await watched.listen(is_first=True), await watched.listen()
    for _ in range(15):  # 1,500 of 256 bytes each, of which a listener may hold 256 KiB
        for number in range(100):
            await watched.tell(change("a", "ready" if number % 2 else "draining"))
        assert len(await taken(reading, 100)) == 100
    [end] = await taken(sleeping, 1)
    assert isinstance(end, Failure)
    assert (end.code, "too slowly" in end.message) == (Code.CANCELLED, True)
    await watched.tell(change("a", "unloaded"))
    assert await taken(reading, 1) == ["a unloaded None"]


async def test_the_end_of_the_broker_ends_all(watched: Watched) -> None:
    calls = [await watched.listen(is_first=True), await watched.listen("a")]
    gone = Failure(Code.MODEL_UNAVAILABLE, "the broker is shutting down")
    await watched.broker.error(watched.request_id, gone)
    assert [await taken(call, 1) for call in calls] == [[gone], [gone]]
    again = await watched.listen(is_first=True)
    await watched.tell(change("a", "ready"))
    assert await taken(again, 1) == ["a ready None"]


async def test_without_a_broker_nobody_listens(runtime_dir: Path) -> None:
    link = BrokerClient(runtime_dir / GATEWAY_SOCKET)
    link.open()
    link.refuse(Failure(Code.BROKER_UNAVAILABLE, "the gateway stops"))
    feed = Feed(link, told)
    for _ in range(2):
        with pytest.raises(FailureError, match="the gateway stops"):
            await feed.listen(None)
    link.close()
