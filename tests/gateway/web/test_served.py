"""The page as the gateway serves it: which address, which headers, and to whom."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Status
from gateway.web.endpoints import FILES
from tests.gateway.http.test_gateway import STATUS
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import running_gateway

pytestmark = pytest.mark.anyio
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@contextlib.asynccontextmanager
async def gateway(runtime_dir: Path, **settings: Any) -> AsyncIterator[tuple[PlayedBroker, httpx.AsyncClient]]:
    """A gateway that has met a played broker, and its client."""
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir, **settings) as served,
        httpx.AsyncClient(base_url=served.url, timeout=SECONDS) as client,
    ):
        yield broker, client


@pytest.fixture
async def client(runtime_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Of a gateway with every key."""
    async with gateway(runtime_dir, api_key=SecretStr("key"), admin_token=SecretStr("root")) as (_broker, client):
        yield client


async def test_a_browser_gets_the_page_and_a_program_the_text(client: httpx.AsyncClient) -> None:
    for accept in (BROWSER, "text/html", "application/json, TEXT/HTML;q=0.5"):
        answer = await client.get("/", headers={"accept": accept})
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["vary"] == "accept"
        assert answer.content == FILES["index.html"].read_bytes()
    for accept in ("*/*", "application/json", "text/plain", ""):
        answer = await client.get("/", headers={"accept": accept})
        assert answer.text == "Ollama is running"
        assert answer.headers["content-type"].startswith("text/plain")
    assert (await client.get("/ui", headers={"accept": "*/*"})).content == FILES["index.html"].read_bytes()


async def test_every_file_has_its_type_and_the_strict_headers(client: httpx.AsyncClient) -> None:
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
    for name, path in FILES.items():
        answer = await client.get(f"/ui/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(types[path.suffix])
        assert answer.content == path.read_bytes()
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
        policy = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data:",
            "connect-src": "'self'",
            "frame-ancestors": "'none'",
            "base-uri": "'none'",
            "form-action": "'none'",
        }


@pytest.mark.parametrize("path", ["/ui", "/ui/app.js", "/ui/vendor/uPlot.iife.min.js"])
async def test_a_file_is_sent_once_and_then_named(client: httpx.AsyncClient, path: str) -> None:
    first = await client.get(path)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await client.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert "content-security-policy" in again.headers
    assert (await client.get(path, headers={"if-none-match": '"other"'})).status_code == 200
    head = await client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(first.content)


@pytest.mark.parametrize(
    "name",
    [
        "nothing.js",
        "endpoints.py",
        "..%2fendpoints.py",
        "vendor/",
        "static/app.js",
        "%00",
    ],
)
async def test_no_other_file_is_served(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(f"/ui/{name}")
    assert answer.status_code == 404
    assert set(answer.json()) == {"detail"}


async def test_the_page_is_open_and_what_it_reads_is_not(client: httpx.AsyncClient) -> None:
    assert (await client.get("/ui")).status_code == 200
    for path in ("/admin/models/status?max_age=1", "/admin/events", "/v1/models"):
        assert (await client.get(path)).status_code == 401
    assert (await client.post("/ui")).status_code == 405


async def test_a_name_from_the_internet_reads_nothing_without_a_key(runtime_dir: Path) -> None:
    async with gateway(runtime_dir) as (_broker, client):
        evil = {"host": "evil.example:8080"}
        assert (await client.get("/ui", headers=evil)).status_code == 200
        answer = await client.get("/admin/models/status", headers=evil)
        assert answer.status_code == 403
        assert "localhost" in answer.json()["detail"]
        assert "MLX_BROKER_ADMIN_TOKEN" in answer.json()["detail"]


async def test_no_page_of_another_site_may_read_it(runtime_dir: Path) -> None:
    origin = {"origin": "https://elsewhere.example"}
    async with gateway(runtime_dir, allowed_origins=["https://elsewhere.example"]) as (_broker, client):
        assert (await client.get("/v1/nothing", headers=origin)).headers["access-control-allow-origin"]
        for path in ("/ui", "/ui/app.js", "/admin/models/status"):
            answer = await client.get(path, headers=origin)
            assert "access-control-allow-origin" not in answer.headers, path


async def test_twenty_pages_share_one_status(runtime_dir: Path) -> None:
    async with gateway(runtime_dir) as (broker, client):
        path = "/admin/models/status?max_age=60"
        asking = [asyncio.create_task(client.get(path)) for _ in range(20)]
        request_id, _ = await broker.expect(Status)
        await broker.final(request_id, {**STATUS, "uptime_seconds": 1.0})
        answers = [(await each).json() for each in asking]
        assert [answer["uptime_seconds"] for answer in answers] == [1.0] * 20
        # Whoever does not say how old it may be gets the newest, and so do the others then.
        asked = asyncio.create_task(client.get("/admin/models/status"))
        request_id, _ = await broker.expect(Status)
        await broker.final(request_id, {**STATUS, "uptime_seconds": 2.0})
        assert (await asked).json()["uptime_seconds"] == 2.0
        assert (await client.get(path)).json()["uptime_seconds"] == 2.0


async def test_a_failure_of_the_status_is_nobody_elses(runtime_dir: Path) -> None:
    async with gateway(runtime_dir) as (broker, client):
        path = "/admin/models/status?max_age=60"
        asked = asyncio.create_task(client.get(path))
        request_id, _ = await broker.expect(Status)
        await broker.error(request_id, Failure(Code.BROKER_UNAVAILABLE, "gone"))
        assert (await asked).status_code == 503
        asked = asyncio.create_task(client.get(path))
        request_id, _ = await broker.expect(Status)
        await broker.final(request_id, STATUS)
        assert (await asked).status_code == 200
        for wrong in ("x", "-1", "nan"):
            answer = await client.get(f"/admin/models/status?max_age={wrong}")
            assert answer.status_code == 400
            assert "max_age" in answer.json()["detail"]
