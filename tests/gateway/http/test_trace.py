"""x-request-id: on every answer, the client's own or a fresh one, and in the work that goes to the broker."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import InferenceRequest
from broker.wire.outputs import FINAL, PARTIAL, Output
from gateway.link.client import BrokerClient
from gateway.settings import Settings
from gateway.trace import current_trace
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import Connection, Gateway, chat, connected
from tests.gateway.served import served

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
FRESH = re.compile(r"req_[0-9a-f]{24}")
KEY = {"authorization": "Bearer key"}


class House:
    def __init__(self, broker: PlayedBroker, client: httpx.AsyncClient) -> None:
        self.broker, self.client = broker, client
        self.gateway = Gateway(str(client.base_url), client.base_url.port or 0)


@pytest.fixture
async def house(runtime_dir: Path) -> AsyncIterator[House]:
    settings = Settings(port=0, runtime_dir=runtime_dir, default_model="org/tiny", api_key="key", max_body_mb=0.01)  # type: ignore[arg-type]
    async with (
        PlayedBroker(runtime_dir) as broker,
        served(BrokerClient(settings.broker_socket), settings) as client,
    ):
        await broker.meet()
        yield House(broker, client)


async def test_every_answer_has_one(house: House) -> None:
    client, big = house.client, {"content": "x" * 20_000}
    answers = [
        await client.get("/nothing"),
        await client.get("/v1/nothing", headers=KEY),
        await client.get(CHAT, headers=KEY),
        await client.post(CHAT, json=chat()),  # no key
        await client.post(CHAT, content=b"not json", headers=KEY),
        await client.post(CHAT, json=chat() | big, headers=KEY),
        await client.post("/v1/messages", json={}, headers=KEY),
        await client.post("/api/chat", content=b"{", headers=KEY),
        await client.post("/admin/models/unload/x?timeout=never"),
        await client.get("/admin/models/%00/logs"),
        await client.head("/"),
        await client.get("/openapi.json"),
    ]
    ids = [answer.headers.get_list("x-request-id") for answer in answers]
    assert all(len(one) == 1 and FRESH.fullmatch(one[0]) for one in ids), ids
    assert len({one for [one] in ids}) == len(ids)
    assert {answer.status_code for answer in answers} >= {200, 400, 401, 404, 405, 413}


async def asked(house: House, **headers: str) -> tuple[InferenceRequest, httpx.Response]:
    asking = asyncio.create_task(house.client.post(CHAT, json=chat(), headers=KEY | headers))
    request_id, request = await house.broker.expect(InferenceRequest)
    await house.broker.finish(request_id, "Hello")
    return request, await asking


@pytest.mark.parametrize("own", ["a", "x" * 128, 'spaces, "quotes" & more'])
async def test_the_clients_own_is_kept(house: House, own: str) -> None:
    request, answer = await asked(house, **{"x-request-id": own})
    assert answer.headers["x-request-id"] == request.trace == own


@pytest.mark.parametrize("own", [b"x" * 129, b"\xc3\xbc", b"a\tb", b""])
async def test_what_cannot_be_kept_gets_a_fresh_one(house: House, own: bytes) -> None:
    answer = await house.client.get("/nothing", headers=[(b"x-request-id", own)])
    assert FRESH.fullmatch(answer.headers["x-request-id"])


async def test_a_fresh_one_goes_to_the_broker_too(house: House) -> None:
    request, answer = await asked(house)
    assert FRESH.fullmatch(request.trace)
    assert answer.headers["x-request-id"] == request.trace


async def test_streams_and_their_errors_have_it(house: House) -> None:
    for failing in (False, True):
        body = chat(stream=True)
        sent = house.client.build_request("POST", CHAT, json=body, headers=KEY | {"x-request-id": "mine"})
        asking = asyncio.create_task(house.client.send(sent, stream=True))
        request_id, request = await house.broker.expect(InferenceRequest)
        assert request.trace == "mine"
        await house.broker.outputs(Output(request_id, PARTIAL, {"text": "Hello"}))
        answer = await asking  # it has begun
        if failing:
            await house.broker.error(request_id, Failure(Code.WORKER_DIED, "it died"))
        else:
            await house.broker.finish(request_id)
        assert ("worker_died" in (await answer.aread()).decode()) is failing
        assert answer.headers.get_list("x-request-id") == ["mine"]


async def test_all_choices_have_the_id_of_their_request(house: House) -> None:
    asking = asyncio.create_task(house.client.post(CHAT, json=chat(n=2), headers=KEY | {"x-request-id": "mine"}))
    for _ in range(2):
        request_id, request = await house.broker.expect(InferenceRequest)
        assert request.trace == "mine"
        await house.broker.finish(request_id, "Hello")
    assert (await asking).status_code == 200


async def head_of(raw: Connection) -> str:
    return (await raw.read_until(b"\r\n\r\n")).decode("latin-1")


async def test_requests_in_a_row_on_one_connection_have_their_own(house: House) -> None:
    async with connected(house.gateway) as raw:
        for name in (b"one", b"two"):  # both are there before the first is answered
            raw.writer.write(b"GET /nothing HTTP/1.1\r\nhost: x\r\nx-request-id: %b\r\n\r\n" % name)
        text = await head_of(raw)
        assert "x-request-id: one\r\n" in text
        await raw.reader.readexactly(int(text.split("content-length: ")[1].split("\r\n")[0]))
        assert "x-request-id: two\r\n" in await head_of(raw)


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nx-request-id: mine\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\ntransfer-encoding: gzip\r\n\r\n",
        b"GET /nothing HTTP/1.0\r\nx-request-id: mine\r\n\r\n",
    ],
)
async def test_so_have_answers_before_there_is_a_route(house: House, sent: bytes) -> None:
    async with connected(house.gateway) as raw:
        raw.writer.write(sent)
        [found] = re.findall(r"x-request-id: (.+)\r\n", await head_of(raw))
        assert found == "mine" if b"mine" in sent else FRESH.fullmatch(found)


async def test_lines_about_a_request_that_fails_here_have_it(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    traces: asyncio.Queue[str] = asyncio.Queue()

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not record.name.startswith("httpx"):
                traces.put_nowait(getattr(record, "request_id", "") or current_trace())

    seen = Seen()
    logging.getLogger().addHandler(seen)
    try:
        asking = asyncio.create_task(house.client.post(CHAT, json=chat(), headers=KEY | {"x-request-id": "mine"}))
        request_id, _ = await house.broker.expect(InferenceRequest)
        await house.broker.outputs(Output(request_id, FINAL, {"text": 3}))  # which cannot be read
        assert (await asking).status_code == 500
        async with asyncio.timeout(SECONDS):
            assert [await traces.get() for _ in range(2)] == ["mine", "mine"]  # the fault, and the access line
    finally:
        logging.getLogger().removeHandler(seen)
