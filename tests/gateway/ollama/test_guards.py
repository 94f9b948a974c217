"""Who may do what by Ollama's API: pages of other sites, and the two keys."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from broker.wire.from_gateways import Keep, Load, Pull
from tests.gateway.ollama.bodies import USER
from tests.gateway.ollama.serving import CHAT, LOADED, asked, ollama

pytestmark = pytest.mark.anyio

PAGE = {"origin": "http://page.example"}


@pytest.mark.parametrize("origins", ["", "*"])
async def test_pages_of_other_sites_change_nothing(runtime_dir: Path, origins: str) -> None:
    """Whatever `allowed_origins` says."""
    async with ollama(runtime_dir, allowed_origins=origins) as (broker, client):
        changes = [
            ("POST", "/api/pull", {"model": "org/new"}),
            ("DELETE", "/api/delete", {"model": "org/tiny"}),
            ("POST", "/api/chat", {**CHAT, "keep_alive": 0}),
            ("POST", "/api/chat", {"model": "org/tiny", "keep_alive": "5m"}),
            ("POST", "/api/generate", {"model": "org/tiny", "keep_alive": -1}),
            ("POST", "/api/embed", {"model": "m", "input": "a", "keep_alive": 0}),
            ("POST", "/api/embeddings", {"model": "m", "prompt": "a", "keep_alive": -1}),
        ]
        for method, path, body in changes:
            answer = await client.request(method, path, json=body, headers=PAGE)
            assert answer.status_code == 403, path
            assert answer.json()["error"].endswith("is not for pages of other sites")
        # A name may have been bent to this machine.
        bent = {"origin": "http://evil.example", "host": "evil.example"}
        assert (await client.post("/api/pull", json={"model": "a"}, headers=bent)).status_code == 403
        # It may ask, as it may ask all dialects.
        asking = asked(client, "/api/chat", {**CHAT, "stream": False}, headers=PAGE)
        await broker.finish((await broker.expect_work())[0], "Hi")
        assert (await asking).status_code == 200
        # And the page of this address may do all of it.
        own = {"origin": str(client.base_url).rstrip("/")}
        asking = asked(client, "/api/chat", {"model": "org/tiny", "keep_alive": 0}, headers=own)
        await broker.final((await broker.expect(Keep))[0], LOADED)
        assert (await asking).status_code == 200


KEYS: dict[str, Any] = {"api_key": SecretStr("user"), "admin_token": SecretStr("admin")}
USERS, ADMINS = {"authorization": "Bearer user"}, {"authorization": "Bearer admin"}
BOTH = {"authorization": "Bearer user", "x-api-key": "admin"}


@pytest.mark.usefixtures("quick_refusals")
async def test_the_users_key_loads_and_the_admins_key_changes(runtime_dir: Path) -> None:
    async with ollama(runtime_dir, **KEYS) as (broker, client):
        for headers in ({}, ADMINS):
            assert (await client.post("/api/chat", json=CHAT, headers=headers)).status_code == 401
            assert (await client.get("/api/tags", headers=headers)).status_code == 401
        asking = asked(client, "/api/generate", {"model": "org/tiny", "keep_alive": "5m"}, headers=USERS)
        await broker.final((await broker.expect(Keep))[0], LOADED)
        assert (await asking).status_code == 200
        for body in ({"keep_alive": -1}, {"keep_alive": -1, "messages": [USER]}):
            refused = await client.post("/api/chat", json=body, headers=USERS)
            assert (refused.status_code, set(refused.json())) == (401, {"error"})
        asking = asked(client, "/api/generate", {"model": "org/tiny", "keep_alive": -1}, headers=BOTH)
        await broker.final((await broker.expect(Load))[0], LOADED)
        assert (await asking).status_code == 200
        for method, path in (("POST", "/api/pull"), ("DELETE", "/api/delete")):
            assert (await client.request(method, path, json={"model": "a"}, headers=USERS)).status_code == 401
        asking = asked(client, "/api/pull", {"model": "a", "stream": False}, headers=ADMINS)
        await broker.final((await broker.expect(Pull))[0], {"model_id": "a", "size_bytes": 1})
        assert (await asking).status_code == 200


async def test_without_an_admins_key_the_users_key_is_enough_and_needed(runtime_dir: Path) -> None:
    async with ollama(runtime_dir, api_key=KEYS["api_key"]) as (broker, client):
        assert (await client.request("DELETE", "/api/delete", json={"model": "a"})).status_code == 401
        asking = asked(client, "/api/generate", {"model": "org/tiny", "keep_alive": -1}, headers=USERS)
        await broker.final((await broker.expect(Load))[0], LOADED)
        assert (await asking).status_code == 200
