"""The head of a response and its first piece are one write, and none of them waits for more than a turn of the loop."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.http.endpoints import Endpoint, Guard
from gateway.http.joined import JoinedHead
from gateway.openai.dialect import OPENAI
from tests.gateway.played_broker import SECONDS
from tests.gateway.running import Gateway, connected
from tests.gateway.served import served
from tests.gateway.test_second_link import ScriptedLink

pytestmark = pytest.mark.anyio

HEAD, FIRST, SECOND = b"HTTP/1.1 200 OK\r\n\r\n", b"one", b"two"


class Cycle:
    """As much of a response as the class under test uses, and its transport: what was done to it."""

    def __init__(self, *, closing: bool = False) -> None:
        self.transport: Any = self
        self.done: list[bytes | str] = []
        self._closing = closing

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return self._closing


def joined(cycle: Cycle) -> JoinedHead:
    head = cycle.transport = JoinedHead(cycle, asyncio.get_running_loop())  # type: ignore[arg-type]
    return head


async def test_a_head_waits_for_its_first_piece() -> None:
    cycle = Cycle()
    joined(cycle).write(HEAD)
    cycle.transport.write(FIRST)
    cycle.transport.write(SECOND)
    await asyncio.sleep(0)
    assert cycle.done == [HEAD + FIRST, SECOND]
    assert cycle.transport is cycle  # tokens take no way round


async def test_but_not_for_longer_than_a_turn_of_the_loop() -> None:
    cycle = Cycle()
    joined(cycle).write(HEAD)
    await asyncio.sleep(0)
    assert cycle.done == [HEAD]
    cycle.transport.write(FIRST)
    assert cycle.done == [HEAD, FIRST]


async def test_what_was_written_goes_before_the_end() -> None:
    cycle = Cycle()
    joined(cycle).write(HEAD)
    cycle.transport.close()
    await asyncio.sleep(0)
    assert cycle.done == [HEAD, "closed"]


async def test_a_client_that_has_gone_gets_nothing() -> None:
    cycle = Cycle(closing=True)
    joined(cycle).write(HEAD)
    assert cycle.transport.is_closing()
    cycle.transport.write(FIRST)
    await asyncio.sleep(0)
    assert cycle.done == []


async def test_headers_come_before_a_body_that_takes_its_time() -> None:
    goes_on = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        async with asyncio.timeout(SECONDS):
            await goes_on.wait()
        yield FIRST

    async def slow(_request: Request[Any]) -> Response:
        return StreamingResponse(pieces())

    row = Endpoint(method="GET", path="/slow", handler=slow, guard=Guard.OPEN, dialect=OPENAI)
    async with served(ScriptedLink([]), endpoints=[row]) as client, connected(_at(client)) as raw:
        raw.writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b" 200 OK" in await raw.read_until(b"\r\n\r\n")
        goes_on.set()
        assert FIRST in await raw.read_until(b"0\r\n\r\n")


def _at(client: httpx.AsyncClient) -> Gateway:
    return Gateway(port=client.base_url.port or 0)
