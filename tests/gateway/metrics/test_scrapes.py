"""GET /metrics of a real gateway: its forms, its guard, and scrapers that misbehave."""

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.wire.from_gateways import Cancel, InferenceRequest, Status
from gateway.core.served import Journal
from gateway.link.client import BrokerClient
from gateway.metrics import scrapes
from gateway.metrics.requests import MAX_MODELS, UNKNOWN, RequestMetrics
from gateway.metrics.scrapes import Scrapes
from gateway.settings import Settings
from tests.gateway.metrics.exposed import MODEL, OPEN, STATUS, Exposed, complaints, read
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import Gateway, chat, connected
from tests.gateway.served import served

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
BOSS = "boss"


@contextlib.asynccontextmanager
async def gateway_of(broker: PlayedBroker, runtime_dir: Path, **fields: Any) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(port=0, runtime_dir=runtime_dir, default_model="org/tiny", **fields)
    async with served(BrokerClient(settings.broker_socket), settings) as client:
        await broker.meet()
        yield client


@contextlib.asynccontextmanager
async def running(runtime_dir: Path, **fields: Any) -> AsyncIterator[tuple[PlayedBroker, httpx.AsyncClient]]:
    """A gateway whose broker answers STATUS by itself."""
    async with PlayedBroker(runtime_dir) as broker, gateway_of(broker, runtime_dir, **fields) as client:
        broker.status = STATUS
        yield broker, client


async def scrape(client: httpx.AsyncClient, **headers: str) -> Exposed:
    answer = await client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    return read(answer.text, answer.headers["content-type"])


async def ask(broker: PlayedBroker, client: httpx.AsyncClient, **body: Any) -> None:
    """One whole answer."""
    asking = asyncio.create_task(client.post(CHAT, json=chat(**body)))
    request_id, _work = await broker.expect_work()
    await broker.finish(request_id, "Hi")
    assert (await asking).status_code == 200


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scrape is written anew."""
    monkeypatch.setattr(scrapes, "FRESH_SECONDS", 0.0)


async def test_both_forms_say_the_same_and_promtool_accepts_it(runtime_dir: Path) -> None:
    async with running(runtime_dir) as (broker, client):
        await ask(broker, client)
        plain = await client.get("/metrics")
        opened = await client.get("/metrics", headers={"accept": f"{OPEN};q=0.6,text/plain;version=0.0.4;q=0.3"})
        assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert opened.headers["content-type"] == OPEN
        assert opened.text.endswith("# EOF\n")
        assert complaints(plain.text) == ""
        for seen in (read(answer.text, answer.headers["content-type"]) for answer in (plain, opened)):
            assert seen.value("requests_total", model="org/tiny", outcome="ok") == 1
            assert seen.value("worker_footprint_bytes", model="org/tiny") == 2000
            assert seen.value("up") == 1
            began = seen.value("gateway_start_time_seconds")
            assert began is not None
            assert abs(time.time() - began) < 60


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/html", "application/openmetrics-text;version=\u00e9;q", "a" * 5000]
)
async def test_any_accept_is_answered(runtime_dir: Path, accept: str) -> None:
    async with running(runtime_dir) as (_broker, client):
        answer = await client.get("/metrics", headers={b"accept": accept.encode()})
        assert answer.status_code == 200
        read(answer.text, answer.headers["content-type"])


NAMES = [
    "<img onerror=alert(1)>",
    'a"b\\c',
    "line\nfeed\r\x0b\x85\u2028",
    "{}=,# EOF",
    "\u00fc\U0001f600",
    "a/\\n",
    "\x7f\x1b[31m",
]


async def test_a_name_of_any_bytes_stays_valid(runtime_dir: Path) -> None:
    async with running(runtime_dir) as (broker, client):
        broker.status = {**STATUS, "models": [{**MODEL, "model_id": name} for name in NAMES]}
        for name in NAMES:
            await ask(broker, client, model=name)
        plain = await client.get("/metrics")
        opened = await client.get("/metrics", headers={"accept": OPEN})
        assert complaints(plain.text) == ""
        for answer in (plain, opened):
            seen = read(answer.text, answer.headers["content-type"])
            assert seen.labels("model_state", "model") == set(NAMES)
            assert seen.labels("requests", "model") == set(NAMES)


async def test_names_that_no_model_has_are_no_labels(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir, models=[]) as broker, gateway_of(broker, runtime_dir) as client:
        broker.status = STATUS
        for number in range(3):
            asking = asyncio.create_task(client.post(CHAT, json=chat(model=f"org/{number}")))
            request_id, _request = await broker.expect(InferenceRequest)
            await broker.final(request_id, {"not": "an answer"})
            await asking
        await client.post(CHAT, content=b"{")
        assert (await scrape(client)).labels("requests", "model") == {UNKNOWN}


# ---- who may read it ------------------------------------------------------------------------------------------------


async def test_the_admin_token_is_needed_where_there_is_one(runtime_dir: Path) -> None:
    async with running(runtime_dir, admin_token=BOSS, api_key="key") as (_broker, client):
        assert (await client.get("/metrics")).status_code == 401
        refused = await client.get("/metrics", headers={"authorization": "Bearer key"})
        assert (refused.status_code, list(refused.json())) == (401, ["detail"])
        await scrape(client, authorization=f"Bearer {BOSS}")


async def test_it_is_not_for_pages_of_other_sites(runtime_dir: Path) -> None:
    async with running(runtime_dir) as (_broker, client):
        assert (await client.get("/metrics", headers={"origin": "https://example.org"})).status_code == 403


async def test_a_setting_opens_it_to_everybody_and_nothing_else(runtime_dir: Path) -> None:
    async with running(runtime_dir, admin_token=BOSS, metrics_open=True) as (_broker, client):
        await scrape(client)
        assert (await client.get("/admin/models/status")).status_code == 401


# ---- a broker that is away, and two gateways ------------------------------------------------------------------------


async def test_without_a_broker_it_still_answers(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.link.client.STARTUP_GRACE", 0.0)
    settings = Settings(port=0, runtime_dir=runtime_dir)
    async with served(BrokerClient(settings.broker_socket), settings) as client:
        seen = await scrape(client)
        assert (seen.value("up"), seen.value("start_time_seconds")) == (0, None)
        assert seen.value("gateway_start_time_seconds") is not None


@pytest.mark.usefixtures("fresh")
async def test_a_broker_that_does_not_answer_in_time(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes, "BROKER_SECONDS", 0.1)
    async with PlayedBroker(runtime_dir) as broker, gateway_of(broker, runtime_dir) as client:
        began = time.monotonic()
        assert (await scrape(client)).value("up") == 0
        assert time.monotonic() - began < 2
        await broker.expect(Status)
        await broker.expect(Cancel)
        broker.status = STATUS
        monkeypatch.setattr(scrapes, "BROKER_SECONDS", SECONDS)  # as the machine may stall
        assert (await scrape(client)).value("up") == 1


@pytest.mark.usefixtures("fresh")
async def test_a_restart_of_the_broker_is_seen(runtime_dir: Path) -> None:
    async with running(runtime_dir) as (broker, client):
        assert (await scrape(client)).value("start_time_seconds") == 1700000000
        again = {**MODEL, "loads": 0, "generation_tokens": 0, "exits": {}}
        broker.status = {**STATUS, "started_at": 1700009999.5, "models": [again]}
        seen = await scrape(client)
        assert seen.value("start_time_seconds") == 1700009999.5
        assert seen.value("worker_generation_tokens_total", model="org/tiny") == 0


async def test_two_gateways_count_their_own_requests_and_say_the_same_of_the_broker(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        gateway_of(broker, runtime_dir) as one,
        gateway_of(broker, runtime_dir) as two,
    ):
        broker.status = STATUS
        await ask(broker, one)
        for _ in range(2):
            await ask(broker, two)
        first, second = await scrape(one), await scrape(two)
        counts = [seen.value("requests_total", model="org/tiny", outcome="ok") for seen in (first, second)]
        assert counts == [1, 2], "the dashboard's sum is 3"
        of_broker = [_samples_of_broker(seen) for seen in (first, second)]
        assert of_broker[0] == of_broker[1], "the dashboard's max is that of one"
        assert len(of_broker[0]) > 30


def _samples_of_broker(seen: Exposed) -> set[tuple[str, tuple[tuple[str, str], ...], float]]:
    """All samples of metrics that a broker which is away would not have."""
    own = {metric.name for metric in RequestMetrics(Journal()).families()} | {"mlx_broker_gateway_start_time_seconds"}
    return {
        (sample.name, tuple(sample.labels.items()), sample.value)
        for metric in seen.metrics.values()
        if metric.name not in own
        for sample in metric.samples
    }


# ---- scrapers that misbehave ----------------------------------------------------------------------------------------


async def test_scrapes_of_one_moment_ask_the_broker_once(runtime_dir: Path) -> None:
    async with running(runtime_dir) as (broker, client):
        texts = await asyncio.gather(*(client.get("/metrics") for _ in range(20)))
        assert len({answer.content for answer in texts}) == 1
        assert broker.statuses == 1


async def test_a_scraper_that_leaves_does_not_end_the_scrape_of_another(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir) as broker, gateway_of(broker, runtime_dir) as client:
        async with connected(Gateway(port=client.base_url.port or 0)) as leaving:
            leaving.writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            request_id, _status = await broker.expect(Status)
            staying = asyncio.create_task(client.get("/metrics"))
        await broker.final(request_id, STATUS)
        answer = await staying
        assert read(answer.text, answer.headers["content-type"]).value("up") == 1


async def test_scrapers_that_never_read_and_one_that_never_stops_disturb_no_stream(runtime_dir: Path) -> None:
    """50 hang with 20 requests each; another one scrapes every 10 ms."""
    models = [{**MODEL, "model_id": f"org/{number}"} for number in range(50)]
    async with running(runtime_dir) as (broker, client):
        broker.status = {**STATUS, "models": models}
        port = client.base_url.port or 0
        with contextlib.ExitStack() as hanging:
            for _ in range(50):
                scraper = hanging.enter_context(socket.socket())
                scraper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                scraper.connect(("127.0.0.1", port))
                scraper.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n" * 20)
            often = asyncio.create_task(_scrape_often(port))
            async with connected(Gateway(port=port)) as raw:
                await raw.post(CHAT, chat(stream=True))
                request_id, _work = await broker.expect_work()
                for number in range(200):
                    await broker.partial(request_id, f"<{number}>")
                    await raw.read_until(b"<%d>" % number)  # within SECONDS
                await broker.finish(request_id)
                await raw.read_until(b"[DONE]")
            assert (await scrape(client)).value("requests_total", model="org/tiny", outcome="ok") in (None, 1)
            assert not often.done(), often
            often.cancel()


async def _scrape_often(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
        while True:
            await scrape(client)
            await asyncio.sleep(0.01)


async def test_no_token_waits_for_a_large_scrape(runtime_dir: Path) -> None:
    """While it is written the loop gets its turn every few milliseconds of computing."""
    async with PlayedBroker(runtime_dir) as broker:
        link = BrokerClient(Settings(runtime_dir=runtime_dir).broker_socket)
        link.open()
        await broker.meet()
        broker.status = {**STATUS, "models": [{**MODEL, "model_id": f"org/{number}"} for number in range(200)]}
        journal = Journal()
        requests = RequestMetrics(journal)
        for number in range(MAX_MODELS):
            one = journal.begin("POST", 0.0)
            one.is_inference, one.model, one.is_known = True, f"org/{number}", True
            one.hear(0.5, 1)
            journal.end(one, 1.0)
            requests.observe(one)
        writing = asyncio.create_task(Scrapes(requests, link, 0.0).text(OPEN))
        turns, longest = 0, 0.0
        gc.freeze()  # a gateway does it at its start, and has no tests to look through
        while not writing.done():
            before = time.thread_time()
            await asyncio.sleep(0)
            turns, longest = turns + 1, max(longest, time.thread_time() - before)
        text, kind = await writing
        link.close()
        assert len(read(text.decode(), kind).labels("requests_in_progress", "model")) == MAX_MODELS
        assert text.count(b"\n") > 10_000
        assert turns > 200
        assert longest < 0.025, "seconds of computing between two turns"
