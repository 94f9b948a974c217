"""What the page and the command do, asked by hand: a gateway with a played broker."""

import asyncio
import json
import os
import platform
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.wire.body import Body
from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Cancel, CancelPull, Describe, Models, Pin, Pull
from broker.wire.outputs import PARTIAL, Output
from broker.wire.version import VERSION
from gateway.admin.answers import CatalogAnswer, SettingsAnswer, VersionsAnswer
from gateway.core.administration import PullProgress
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import MODEL, running_gateway

pytestmark = pytest.mark.anyio

BROKER: dict[str, Any] = {
    "version": "0.1.0",
    "pid": 4711,
    "started_at": 1700000000.5,
    "has_metal": None,
    "settings": {"max_models": 4, "models_dir": "/models"},
}
TOLD = {"model_id": "org/new", "reason": None, "fraction": 0.5, "done_bytes": 5, "total_bytes": 10}


async def answered(
    broker: PlayedBroker, asked: Coroutine[Any, Any, httpx.Response], wanted: Body, answer: dict[str, Any]
) -> httpx.Response:
    """What the client gets once the broker has got `wanted` and answered it."""
    asking = asyncio.create_task(asked)
    request_id, body = await broker.expect(type(wanted))
    assert body == wanted
    await broker.final(request_id, answer)
    return await asking


async def begun(broker: PlayedBroker) -> bytes:
    """The id of a pull whose progress has been told once."""
    request_id, _ = await broker.expect(Pull)
    await broker.outputs(Output(request_id, PARTIAL, TOLD))
    return request_id


async def test_the_models_of_this_machine_and_what_is_broken(runtime_dir: Path) -> None:
    broken = {"model_id": "<img src=x onerror=alert(1)>", "path": "/models/x", "reason": "no model*.safetensors"}
    folders = [{"path": "/models", "exists": True}, {"path": "/hub", "exists": False}]
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
    ):
        found = {"models": [{**MODEL, "pinned": True}], "broken": [broken], "folders": folders}
        response = await answered(broker, client.get("/admin/models"), Models(with_broken=True), found)
        answer = CatalogAnswer.model_validate_json(response.content)
        [model] = answer.models
        assert (model.model_id, model.size_gb, model.pinned, model.state) == ("org/tiny", 0.5, True, "unloaded")
        assert (model.architecture, model.parameters, model.capabilities) == ("llama", 1000, ["generate", "tools"])
        assert response.json()["broken"] == [broken]
        assert response.json()["folders"] == folders
        assert response.headers["content-type"] == "application/json"


async def test_pin_and_cancel(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
    ):
        path = "/admin/models/{}/org/tiny"
        response = await answered(broker, client.post(path.format("pin")), Pin("org/tiny"), {"model_id": "org/tiny"})
        assert (response.status_code, response.json()) == (200, {"status": "pinned", "model_id": "org/tiny"})
        wanted = CancelPull("org/tiny")
        response = await answered(broker, client.post(path.format("cancel")), wanted, {"model_id": "org/tiny"})
        assert (response.status_code, response.json()) == (200, {"status": "cancelled", "model_id": "org/tiny"})
        asking = asyncio.create_task(client.post(path.format("cancel")))
        failure = Failure(Code.NOT_LOADED, "Model not being downloaded: org/tiny")
        await broker.error((await broker.expect(CancelPull))[0], failure)
        assert ((await asking).status_code, (await asking).json()) == (404, {"detail": failure.message})


async def test_versions(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
    ):
        response = await answered(broker, client.get("/admin/version"), Describe(), BROKER)
        answer = VersionsAnswer.model_validate_json(response.content)
        assert (answer.version, answer.python) == (VERSION, platform.python_version())
        assert (answer.broker.pid, answer.broker.started_at, answer.metal) == (4711, 1700000000.5, None)
        assert answer.gateway.pid == os.getpid()  # the gateway of this test
        assert {"mlx-lm", "pyzmq", "starlette"} <= answer.libraries.keys()


async def test_settings_in_force_tell_no_secret(runtime_dir: Path) -> None:
    secrets: dict[str, Any] = {"api_key": "the-key-of-clients", "admin_token": "the-token"}
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir, **secrets, max_images=3) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS, headers={"x-api-key": "the-token"}) as client,
    ):
        response = await answered(broker, client.get("/admin/settings"), Describe(), BROKER)
        answer = SettingsAnswer.model_validate_json(response.content)
        assert answer.broker == BROKER["settings"]
        assert (answer.gateway["max_images"], answer.gateway["runtime_dir"]) == (3, str(runtime_dir))
        assert (answer.gateway["api_key"], answer.gateway["admin_token"]) == ("set", "set")
        assert not any(secret in response.text for secret in secrets.values())


async def test_a_secret_that_is_not_set_is_null(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
    ):
        response = await answered(broker, client.get("/admin/settings"), Describe(), BROKER)
        assert (response.json()["gateway"]["api_key"], response.json()["gateway"]["admin_token"]) == (None, None)


async def test_a_pull_as_a_stream(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
    ):
        asking = asyncio.create_task(client.post("/admin/models/pull/org/new?stream=true"))
        request_id, body = await broker.expect(Pull)
        assert body == Pull("org/new", stream=True)
        await broker.outputs(Output(request_id, PARTIAL, TOLD))
        await broker.final(request_id, {"model_id": "org/new", "size_bytes": 2**29})
        response = await asking
        assert response.headers["content-type"].startswith("text/event-stream")
        told, pulled, done, nothing = response.text.split("\n\n")
        assert PullProgress.model_validate_json(told.removeprefix("data: ")).model_dump() == TOLD
        assert json.loads(pulled.removeprefix("data: ")) == {
            "status": "pulled",
            "model_id": "org/new",
            "size_gb": 0.5,
        }
        assert (done, nothing) == ("data: [DONE]", "")


async def test_a_pull_that_fails_before_and_after_its_first_event(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
    ):
        failure = Failure(Code.MODEL_UNAVAILABLE, "no network")
        path = "/admin/models/pull/org/new?stream=true"
        asking = asyncio.create_task(client.post(path))
        await broker.error((await broker.expect(Pull))[0], failure)
        assert ((await asking).status_code, (await asking).json()) == (503, {"detail": "no network"})
        beginning = asyncio.create_task(begun(broker))
        async with client.stream("POST", path) as response:
            lines = response.aiter_lines()
            assert json.loads((await anext(lines)).removeprefix("data: ")) == TOLD
            await broker.error(await beginning, failure)
            error, done = [line async for line in lines if line]
        assert json.loads(error.removeprefix("data: "))["error"]["message"] == "no network"
        assert done == "data: [DONE]"


async def test_a_client_that_leaves_a_pull_ends_the_answer_alone(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
    ):
        beginning = asyncio.create_task(begun(broker))
        async with client.stream("POST", "/admin/models/pull/org/new?stream=true"):
            pass
        assert (await broker.expect(Cancel))[0] == await beginning


async def test_a_wrong_parameter_of_a_pull_is_named(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
    ):
        response = await client.post("/admin/models/pull/org/new?stream=perhaps")
        assert (response.status_code, "stream" in response.json()["detail"]) == (400, True)


async def test_without_the_broker_it_is_a_503(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
    ):
        broker.close()
        for response in await asyncio.gather(*(client.get(f"/admin/{n}") for n in ("models", "version", "settings"))):
            assert (response.status_code, response.json().keys()) == (503, {"detail"})
