"""A wrong admin token: its refusal comes late, and nobody else waits for that."""

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.wire.from_gateways import Describe, InferenceRequest
from gateway.http.refusals import SECONDS as DELAY
from gateway.http.refusals import Refusals
from tests.gateway.admin.test_by_hand import BROKER
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import chat, running_gateway

pytestmark = pytest.mark.anyio

KEYS: dict[str, Any] = {"api_key": "key", "admin_token": "root"}
RIGHT, WRONG, USER = ({"authorization": f"Bearer {key}"} for key in ("root", "wrong", "key"))
PATH = "/admin/settings"


async def ask(broker: PlayedBroker, client: httpx.AsyncClient) -> int:
    """With the right token."""
    asking = asyncio.create_task(client.get(PATH, headers=RIGHT))
    await broker.final((await broker.expect(Describe))[0], BROKER)
    return (await asking).status_code


async def test_only_a_wrong_admin_token_waits(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir, **KEYS) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
    ):
        began = time.monotonic()
        guesses = [
            asyncio.create_task(client.get(PATH, headers=WRONG)),
            asyncio.create_task(client.post("/admin/models/kill/a", headers=USER)),
            asyncio.create_task(client.post("/api/pull", json={"model": "a"}, headers=WRONG)),
            asyncio.create_task(client.delete("/admin/nothing", headers=WRONG)),
            asyncio.create_task(
                client.post("/api/generate", json={"model": "a", "keep_alive": -1}, headers=USER)
            ),  # a pin is the admin's
        ]
        at_once = [
            await client.get(PATH),
            await client.get("/v1/models", headers=WRONG),
            await client.get(PATH, headers={"authorization": "Basic root"}),
        ]
        assert [response.status_code for response in at_once] == [401] * 3
        assert not any(guess.done() for guess in guesses)
        assert await ask(broker, client) == 200
        assert not any(guess.done() for guess in guesses)
        assert [(await guess).status_code for guess in guesses] == [401] * 5
        assert time.monotonic() - began >= DELAY - 0.01
        # The next right one is as quick: nothing is remembered.
        began = time.monotonic()
        assert await ask(broker, client) == 200
        assert time.monotonic() - began < DELAY


async def test_one_request_is_not_a_thousand_guesses(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir, **KEYS) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
    ):
        guesses = [("x-api-key", f"guess {number}") for number in range(1000)]
        assert (await client.get(PATH, headers=[*guesses, ("x-api-key", "root")])).status_code == 401


async def test_a_flood_of_wrong_tokens_piles_nothing_up_and_stops_no_stream(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.app.Refusals", partial(Refusals, 60.0))  # longer than any machine takes for the flood
    limits = httpx.Limits(max_connections=400)
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir, **KEYS) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS, limits=limits) as client,
    ):
        feeding = asyncio.create_task(broker.expect(InferenceRequest))

        async def first(text: str) -> None:
            await broker.partial((await feeding)[0], text)

        beginning = asyncio.create_task(first("one"))
        body = chat(stream=True)
        async with client.stream("POST", "/v1/chat/completions", json=body, headers=USER) as stream:
            await beginning
            lines = stream.aiter_lines()
            guesses = [asyncio.create_task(client.get(PATH, headers=WRONG)) for _ in range(200)]
            first_ones = asyncio.as_completed(guesses)
            for _ in range(200 - 64):
                await next(first_ones)
            assert await ask(broker, client) == 200
            await broker.partial((await feeding)[0], "two")
            while '"two"' not in await anext(lines):
                pass
            at_once = [guess.result().status_code for guess in guesses if guess.done()]
            assert at_once == [401] * (200 - 64)
            for guess in guesses:  # the others wait on
                guess.cancel()
            await asyncio.wait(guesses)


async def test_a_refusal_whose_client_leaves_makes_room_for_another() -> None:
    refusals = Refusals(30.0)
    waiting = [asyncio.create_task(refusals.delay()) for _ in range(64)]
    await asyncio.sleep(0)
    await refusals.delay()  # no room: at once
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    late = asyncio.create_task(refusals.delay())
    done, _ = await asyncio.wait([late], timeout=0.05)
    assert not done
    for task in (*waiting, late):
        task.cancel()
    await asyncio.wait([*waiting, late])
