"""GET /admin/models/{id}/logs: the last lines, then each as it comes."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Cancel, Logs
from broker.wire.outputs import PARTIAL, Output
from gateway.link.client import BrokerClient
from gateway.settings import Settings
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import Gateway, connected
from tests.gateway.served import served

pytestmark = pytest.mark.anyio

PATH = "/admin/models/org/tiny/logs"


class House:
    def __init__(self, broker: PlayedBroker, client: httpx.AsyncClient) -> None:
        self.broker, self.client = broker, client


@pytest.fixture
async def house(runtime_dir: Path) -> AsyncIterator[House]:
    settings = Settings(port=0, runtime_dir=runtime_dir, default_model="org/tiny")
    async with PlayedBroker(runtime_dir) as broker, served(BrokerClient(settings.broker_socket), settings) as client:
        await broker.meet()
        yield House(broker, client)


def lines(*texts: str, pid: int = 7) -> dict[str, Any]:
    return {"lines": [[1.5, pid, text] for text in texts]}


def event(text: str, pid: int = 7) -> str:
    return f"data: {json.dumps({'at': 1.5, 'pid': pid, 'text': text}, separators=(',', ':'))}"


async def test_the_last_lines_alone(house: House) -> None:
    asking = asyncio.create_task(house.client.get(PATH, params={"tail": "2", "follow": "false"}))
    request_id, wanted = await house.broker.expect(Logs)
    assert wanted == Logs("org/tiny", 2, follow=False)
    await house.broker.final(request_id, lines("a", "b"))
    answer = await asking
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == f"{event('a')}\n\n{event('b')}\n\ndata: [DONE]\n\n"


async def test_a_model_that_never_ran(house: House) -> None:
    asking = asyncio.create_task(house.client.get(PATH, params={"follow": "false"}))
    await house.broker.final((await house.broker.expect(Logs))[0], lines())
    assert (await asking).text == "data: [DONE]\n\n"


async def test_following(house: House) -> None:
    async with asyncio.timeout(SECONDS), house.client.stream("GET", PATH) as answer:
        request_id, wanted = await house.broker.expect(Logs)
        assert wanted == Logs("org/tiny", 100, follow=True)
        read = answer.aiter_lines()
        assert await anext(read) == ": following"  # at once: there may be nothing to show for long
        for texts, pid in ((("a", "b"), 7), (("of the next process",), 8)):
            await house.broker.outputs(Output(request_id, PARTIAL, lines(*texts, pid=pid)))
            for text in texts:
                assert await anext(read) == ""
                assert await anext(read) == event(text, pid)
    assert (await house.broker.expect(Cancel))[0] == request_id


async def test_it_ends_with_the_broker(house: House) -> None:
    asking = asyncio.create_task(house.client.get(PATH))
    request_id, _ = await house.broker.expect(Logs)
    await house.broker.error(request_id, Failure(Code.BROKER_UNAVAILABLE, "the broker has gone"))
    text = (await asking).text
    assert text.startswith(': following\n\ndata: {"error":{"message":"the broker has gone"')
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("query", "what"),
    [("tail=-1", "tail"), ("tail=1001", "tail"), ("tail=x", "tail"), ("tail=", "tail"), ("follow=perhaps", "follow")],
)
async def test_bad_parameters_are_named(house: House, query: str, what: str) -> None:
    answer = await house.client.get(f"{PATH}?{query}")
    assert answer.status_code == 400
    assert what in answer.json()["detail"]


async def test_what_cannot_be_a_name(house: House) -> None:
    answer = await house.client.get("/admin/models/a%20b%00/logs")
    assert answer.status_code == 404
    assert "is not a model name" in answer.json()["detail"]


async def test_a_client_that_does_not_read_is_let_go(house: House) -> None:
    """So that its lines do not pile up here."""
    gateway = Gateway(str(house.client.base_url), house.client.base_url.port or 0)
    async with connected(gateway) as raw:
        # Else the system takes megabytes in for it.
        raw.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.writer.write(f"GET {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        request_id, _ = await house.broker.expect(Logs)
        for _ in range(400):  # 24 MB
            await house.broker.outputs(Output(request_id, PARTIAL, lines(*["x" * 2000] * 30)))
        assert (await house.broker.expect(Cancel))[0] == request_id
