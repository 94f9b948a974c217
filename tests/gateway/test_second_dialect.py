"""Another dialect, added without an edit in gateway/: the toy one in the real app, with a played broker."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, TypeAdapter

from broker.wire.body import to_map
from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Cancel, Models
from broker.wire.outputs import ERROR, PARTIAL, Output
from broker.wire.paths import GATEWAY_SOCKET
from gateway.app import ENDPOINTS, SUBTREES
from gateway.link.client import BrokerClient
from gateway.settings import Settings
from tests.gateway import toy
from tests.gateway.played_broker import PlayedBroker
from tests.gateway.running import MODEL
from tests.gateway.served import served
from tests.gateway.test_second_link import ScriptedLink

pytestmark = pytest.mark.anyio

TURNS = [{"who": "system", "says": "Be brief."}, {"who": "user", "says": "What?", "pictures": [toy.picture(b"png")]}]


@contextlib.asynccontextmanager
async def toy_gateway(runtime_dir: Path, **settings: Any) -> AsyncIterator[tuple[PlayedBroker, httpx.AsyncClient]]:
    """A played broker and a client of the gateway that has both dialects."""
    given = Settings(port=0, default_model="org/tiny", **settings)
    async with (
        PlayedBroker(runtime_dir) as broker,
        served(
            BrokerClient(runtime_dir / GATEWAY_SOCKET), given, (*toy.ENDPOINTS, *ENDPOINTS), (toy.SUBTREE, *SUBTREES)
        ) as client,
    ):
        await broker.meet()
        yield broker, client


async def test_a_whole_answer(runtime_dir: Path) -> None:
    async with toy_gateway(runtime_dir) as (broker, client):
        body = {"llm": "org/other", "turns": TURNS, "shape": {"type": "object"}, "limit": 9}
        asking = asyncio.create_task(client.post("/toy/tell", json=body))
        request_id, work = await broker.expect_work()
        assert (work.stream, work.max_tokens, work.json_schema) == (False, 9, {"type": "object"})
        assert work.images == [b"png"]
        await broker.finish(request_id, "A cat.")
        answer = await asking
        assert answer.json() == {"said": "A cat.", "why": "stop", "spent": 8}
        TypeAdapter(toy.TellAnswer).validate_json(answer.content)


async def test_a_stream_in_its_own_form(runtime_dir: Path) -> None:
    async with toy_gateway(runtime_dir, keepalive_seconds=0.1) as (broker, client):
        async with client.stream("POST", "/v1/tell", json={"turns": TURNS, "live": True}) as answer:
            # Response headers come with the first line, which says that nothing has come yet.
            request_id, work = await broker.expect_work()
            assert work.stream
            assert answer.headers["content-type"] == "application/x-ndjson"
            stream = answer.aiter_lines()
            assert await anext(stream) == "{}"
            got = []
            for text in ("One", " two"):
                await broker.partial(request_id, text)
                while (line := await anext(stream)) == "{}":
                    pass
                got.append(json.loads(line))
            await broker.finish(request_id, " three", "length")
            got += [json.loads(line) async for line in stream if line != "{}"]
        assert got == [{"more": "One"}, {"more": " two"}, {"more": " three"}, {"over": "length"}]


@pytest.mark.parametrize("live", [False, True])
async def test_an_error_before_the_answer_has_a_status_and_its_own_form(runtime_dir: Path, live: bool) -> None:
    async with toy_gateway(runtime_dir) as (broker, client):
        for failure, status, at in (
            (Failure(Code.INVALID_REQUEST, "json_schema: odd", "json_schema"), 400, "shape"),
            (Failure(Code.INVALID_REQUEST, "odd", "messages[1].parts[0]"), 400, "turns.1.says"),
            (Failure(Code.INVALID_REQUEST, "odd", "messages[1].parts[1]"), 400, "turns.1.pictures.0"),
            (Failure(Code.INVALID_REQUEST, "odd", "images[0]"), 400, "turns.1.pictures.0"),
            (Failure(Code.RATE_LIMIT_EXCEEDED, "full", retry_after=1, retryable=True), 529, None),
            (Failure(Code.WORKER_DIED, "SIGKILL", retryable=True), 503, None),
        ):
            asking = asyncio.create_task(client.post("/toy/tell", json={"turns": TURNS, "live": live}))
            await broker.error((await broker.expect_work())[0], failure)
            answer = await asking
            told = answer.json()
            assert (answer.status_code, told["oops"], told["at"]) == (status, failure.code, at)
            assert told["what"] == failure.message.replace("json_schema", "shape")
            assert answer.headers.get("retry-after") == ("1" if failure.retry_after else None)


@pytest.mark.parametrize(
    ("kind", "body", "code", "at"),
    [
        (ERROR, to_map(Failure(Code.INVALID_REQUEST, "the schema grew", "json_schema")), "invalid_request", "shape"),
        (PARTIAL, {"text": 2}, "internal_error", None),
    ],
)
async def test_an_error_in_the_middle_of_a_stream_ends_it_in_its_own_form(
    runtime_dir: Path, kind: int, body: dict[str, Any], code: str, at: str | None
) -> None:
    async with toy_gateway(runtime_dir) as (broker, client):
        asking = client.build_request("POST", "/toy/tell", json={"turns": TURNS, "live": True})
        answering = asyncio.create_task(client.send(asking, stream=True))
        request_id, _ = await broker.expect_work()
        await broker.partial(request_id, "One")
        answer = await answering
        assert answer.status_code == 200
        stream = answer.aiter_lines()
        assert json.loads(await anext(stream)) == {"more": "One"}
        await broker.outputs(Output(request_id, kind, body))
        [last] = [json.loads(line) async for line in stream]
        assert (last["oops"], last["at"]) == (code, at)
        if kind == PARTIAL:  # what cannot be read is not wanted any more
            assert (await broker.expect(Cancel))[0] == request_id


async def test_errors_of_a_route_are_its_dialects_wherever_it_stands(runtime_dir: Path) -> None:
    async with toy_gateway(runtime_dir, api_key=SecretStr("key")) as (_broker, client):
        toys = [
            (await client.post("/toy/tell", json={}), 401),
            (await client.post("/v1/tell", json={}), 401),
            (await client.post("/v1/tell", json={}, headers={"authorization": "Bearer key"}), 400),
            (await client.get("/toy/tell"), 405),
            (await client.get("/v1/tell", headers={"authorization": "Bearer key"}), 405),
            (await client.get("/toy/nothing"), 404),
        ]
        for answer, status in toys:
            assert (answer.status_code, set(answer.json())) == (status, {"oops", "what", "at"})
        assert toys[2][0].json()["at"] == "turns"
        others = [
            (await client.get("/v1/tell"), 401),  # which does not reveal that there is such a path
            (await client.get("/v1/nothing"), 401),
            (await client.post("/v1/chat/completions", json={}), 401),
            (await client.get("/nothing"), 404),
        ]
        assert [answer.status_code for answer, _ in others] == [status for _, status in others]
        assert [set(answer.json()) for answer, _ in others[1:]] == [{"error"}] * 3
        assert set((await client.get("/admin/nothing")).json()) == {"detail"}


async def test_other_dialects_go_on_beside_it(runtime_dir: Path) -> None:
    async with toy_gateway(runtime_dir) as (broker, client):
        chat = {"messages": [{"role": "user", "content": "Hi"}]}
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=chat))
        await broker.finish((await broker.expect_work())[0], "Hello.")
        assert (await asking).json()["choices"][0]["message"]["content"] == "Hello."
        asking = asyncio.create_task(client.get("/toy/names"))
        await broker.final((await broker.expect(Models))[0], {"models": [MODEL]})
        assert (await asking).json() == {"names": ["org/tiny"]}


async def test_two_dialects_share_a_path() -> None:
    link = ScriptedLink([{"models": [MODEL]}])
    settings = Settings(port=0, api_key=SecretStr("key"))
    async with served(
        link, settings, (*ENDPOINTS, *toy.ENDPOINTS), (*SUBTREES[:-1], toy.SUBTREE, SUBTREES[-1])
    ) as client:
        mine, key = {"x-toy": "1"}, {"authorization": "Bearer key"}
        assert (await client.get("/v1/models", headers=mine | key)).json() == {"names": ["org/tiny"]}
        assert (await client.get("/v1/models", headers=key)).json()["object"] == "list"
        # errors too are those of the dialect that the client speaks
        assert (await client.get("/v1/models", headers=mine)).json()["oops"] == "invalid_api_key"
        assert (await client.get("/v1/models")).json()["error"]["code"] == "invalid_api_key"
        assert (await client.post("/v1/models", headers=mine | key)).json()["oops"] == "method_not_allowed"
        assert (await client.post("/v1/models", headers=key)).json()["error"]["code"] == "method_not_allowed"
        assert (await client.get("/v1/models/org/tiny", headers=mine | key)).json()["id"] == "org/tiny"
