"""What a reload answers, and the settings file as this gateway and its broker read it: a played broker."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.wire.body import Body
from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Describe, Reload, ReloadSettings
from tests.gateway.admin.test_by_hand import BROKER
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import running_gateway

pytestmark = pytest.mark.anyio

LISTS = {"applied": ["max_models"], "at_next_load": ["a"], "needs_restart": ["allow_downloads"]}


async def ask(
    client: httpx.AsyncClient, broker: PlayedBroker, path: str, wanted: Body, answer: dict[str, Any] | Failure
) -> httpx.Response:
    asking = asyncio.create_task(client.post(path))
    request_id, body = await broker.expect(type(wanted))
    assert body == wanted
    await (broker.error(request_id, answer) if isinstance(answer, Failure) else broker.final(request_id, answer))
    return await asking


async def test_a_reload_is_answered_when_the_new_process_serves_or_with_the_reason(runtime_dir: Path) -> None:
    loaded = {"model_id": "org/a", "model_type": "text-gen", "size_bytes": 2**29, "pinned": False}
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        httpx.AsyncClient(base_url=f"{gateway.url}/admin/models/reload/", timeout=SECONDS) as client,
    ):
        answer = await ask(client, broker, "org/a", Reload("org/a"), loaded)
        told = {"status": "reloaded", "model_id": "org/a", "model_type": "text-gen", "size_gb": 0.5}
        assert (answer.status_code, answer.json()) == (200, told)
        assert (await ask(client, broker, "a?allow_gap=true", Reload("a", allow_gap=True), loaded)).status_code == 200
        for code, status in (
            (Code.INSUFFICIENT_MEMORY, 409),
            (Code.LOAD_FAILED, 500),
            (Code.NOT_LOADED, 404),
            (Code.MODEL_NOT_FOUND, 404),
            (Code.MODEL_IN_USE, 409),
            (Code.MODEL_UNAVAILABLE, 503),
        ):
            answer = await ask(client, broker, "a", Reload("a"), Failure(code, "why"))
            assert (answer.status_code, answer.json()) == (status, {"detail": "why"})
        assert (await client.post("a?allow_gap=perhaps")).status_code == 400


async def test_the_settings_are_read_by_both_and_mistakes_of_both_have_a_line_each(
    runtime_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.toml"
    file.touch()
    monkeypatch.setenv("MLX_BROKER_CONFIG", str(file))
    monkeypatch.setenv("MLX_BROKER_RUNTIME_DIR", str(runtime_dir))
    monkeypatch.setenv("MLX_BROKER_PORT", "0")
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
    ):

        async def reread(text: str, wanted: ReloadSettings, answer: dict[str, Any] | Failure) -> httpx.Response:
            file.write_text(text)
            return await ask(client, broker, "/admin/settings/reload", wanted, answer)

        answer = await reread("[gateway]\n", ReloadSettings(apply=True), LISTS)
        assert answer.json() == {"status": "reloaded", **LISTS, "gateway_applied": [], "gateway_needs_restart": []}

        broker.models = ["a"]
        changed = '[gateway]\nmax_images = 3\n[aliases]\nshort = "a"\n[models.a.defaults]\ntemperature = 0.5\n'
        answer = await reread(changed, ReloadSettings(apply=True), LISTS)
        told = answer.json()
        assert (told["gateway_applied"], told["gateway_needs_restart"]) == (["aliases", "models"], ["max_images"])
        in_force = asyncio.create_task(client.get("/admin/settings"))
        await broker.final((await broker.expect(Describe))[0], BROKER)
        shown = (await in_force).json()["gateway"]
        assert (shown["max_images"], shown["aliases"]["short"]["model"]) == (64, "a"), "those in force"
        body = {"model": "short", "messages": [{"role": "user", "content": "Hi"}]}
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        request_id, work = await broker.expect_work()
        assert work.temperature == 0.5, "the alias and the defaults of its model count at once"
        await broker.finish(request_id, "Hello")
        assert (await asking).json()["model"] == "short"

        nowhere = '[gateway]\n[aliases]\nshort = "b"\n'
        answer = await reread(nowhere, ReloadSettings(apply=False), LISTS)
        assert (answer.status_code, "short" in answer.json()["detail"]) == (400, True), answer.text

        wrong = "[gateway]\nmax_images = -1\nmax_body_mb = 0\n"
        mine = ["[gateway] max_body_mb (MLX_BROKER_MAX_BODY_MB)", "[gateway] max_images (MLX_BROKER_MAX_IMAGES)"]
        answer = await reread(wrong, ReloadSettings(apply=False), LISTS)
        assert answer.status_code == 400
        assert [line.partition(":")[0] for line in answer.json()["detail"].splitlines()] == mine
        both = await reread(
            wrong, ReloadSettings(apply=False), Failure(Code.INVALID_REQUEST, "[broker] one\n[broker] two")
        )
        assert both.status_code == 400
        assert both.json()["detail"].splitlines()[2:] == ["[broker] one", "[broker] two"]
        theirs = await reread("", ReloadSettings(apply=True), Failure(Code.INVALID_REQUEST, "[broker] one"))
        assert (theirs.status_code, theirs.json()) == (400, {"detail": "[broker] one"})
