"""Models, administration, keys, start and stop over HTTP: a real gateway process, a played broker."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Forget, Kill, Load, Models, Pull, Remove, Status, Unload, Unpin
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import MODEL, Gateway, chat, running_gateway, running_process

pytestmark = pytest.mark.anyio


def http(gateway: Gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS)


BEARER = {"authorization": "Bearer key"}
COUNTED = {
    "tokens_per_second": 12.5,
    "prompt_tokens_per_second": 0.0,
    "ttft_seconds": None,
    "prompt_tokens": 100,
    "cached_prompt_tokens": 60,
    "generation_tokens": 40,
    "loads": 2,
    "load_seconds": {"tokenizer": 0.5, "weights": 1.5},
    "replays": 1,
    "resumes": 0,
    "evictions": 0,
    "exits": {"SIGKILL": 1},
    "heartbeat_age_seconds": 0.25,
    "live": 1,
    "waiting": 0,
    "prefilling": 0,
    "disk_cache_bytes": 0,
    "disk_cache_files": 0,
    "disk_cache_hits": 0,
    "decode_steps": 0,
    "late_steps": 0,
    "disk_cache_queue_bytes": 0,
}
LOADED = {
    "model_id": "org/tiny",
    "model_type": "text-gen",
    "state": "ready",
    "reason": None,
    "pinned": True,
    "since": 1700000001.0,
    "size_bytes": 2**29,
    "loaded_at": 1700000001.5,
    "last_used": None,
    "pid": 4711,
    "rss_bytes": 2**28,
    "footprint_bytes": 2**28,
    "mlx_active_bytes": 2**30,
    "mlx_cache_bytes": 2**29,
    "mlx_peak_bytes": 2**31,
    "cpu_percent": 1.5,
    "in_flight": 1,
    "queued": 0,
    "restarts": 0,
    "last_exit": None,
    **COUNTED,
}
FAILED = (
    LOADED
    | {"model_id": "bad", "state": "failed", "pinned": False, "pid": None, "loaded_at": None}
    | dict.fromkeys(("rss_bytes", "footprint_bytes", "mlx_active_bytes", "mlx_cache_bytes", "mlx_peak_bytes"))
)
STATUS = {
    "models": [LOADED, FAILED],
    "spares": [],
    "workers": 1,
    "max_memory_bytes": 8 * 2**30,
    "budget_origin": "metal",
    "working_set_bytes": 8 * 2**30,
    "reserved_bytes": 2**30,
    "missing_bytes": 0,
    "pressure": "normal",
    "max_models": 4,
    "queued": 0,
    "uptime_seconds": 12.5,
    "machine_total_bytes": 16 * 2**30,
    "machine_available_bytes": 4 * 2**30,
    "started_at": 1700000000.0,
    "version": "0.1.0",
}


async def test_models_in_openais_shape(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        http(gateway) as client,
    ):
        expected = {
            "id": "org/tiny",
            "object": "model",
            "created": 1700000000,
            "owned_by": "org",
            "model_type": "text-gen",
            "size_gb": 0.5,
            "quantization": "4-bit",
            "context_length": 2048,
            "capabilities": ["generate", "tools"],
            "architecture": "llama",
            "parameters": 1000,
            "state": "unloaded",
        }

        async def ask(path: str) -> httpx.Response:
            asking = asyncio.create_task(client.get(path))
            await broker.final((await broker.expect(Models))[0], {"models": [MODEL]})
            return await asking

        for path in ("/v1/models", "/models"):
            assert (await ask(path)).json() == {"object": "list", "data": [expected]}
        assert (await ask("/v1/models/org/tiny")).json() == expected
        missing = await ask("/v1/models/org/other")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "model_not_found"


async def test_status_to_the_letter_of_the_contract(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        http(gateway) as client,
    ):
        asking = asyncio.create_task(client.get("/admin/models/status"))
        await broker.final((await broker.expect(Status))[0], STATUS)
        status = (await asking).json()
        [loaded] = status["loaded_models"]
        contract = {"model_id", "model_type", "size_gb", "preloaded", "last_used", "loaded_at"}
        assert {name: loaded[name] for name in contract} == {
            "model_id": "org/tiny",
            "model_type": "text-gen",
            "size_gb": 0.5,
            "preloaded": True,
            "last_used": 1700000001.5,  # never used yet: since it is there
            "loaded_at": 1700000001.5,
        }
        assert (loaded["pid"], loaded["state"], loaded["in_flight"]) == (4711, "ready", 1)
        assert status["total_models"] == 1
        assert status["memory"] == {
            "active_gb": 1.0,
            "cache_gb": 0.5,
            "peak_gb": 2.0,
            "rss_gb": 0.25,
            "footprint_gb": 0.25,
        }
        assert (status["max_memory_gb"], status["max_models"]) == (8.0, 4)
        budget = {"origin": "metal", "metal_gb": 8.0, "taken_gb": 1.0, "missing_gb": 0.0, "pressure": "normal"}
        assert status["budget"] == budget
        assert {name: loaded[name] for name in COUNTED} == COUNTED
        assert status["machine"] == {"total_gb": 16.0, "available_gb": 4.0}
        assert (status["started_at"], status["version"]) == (1700000000.0, "0.1.0")
        assert [model["state"] for model in status["models"]] == ["ready", "failed"]


async def test_admin_calls_to_the_letter_of_the_contract(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        http(gateway) as client,
    ):

        async def call(method: str, path: str, body: Any, answer: dict[str, Any] | Failure) -> httpx.Response:
            asking = asyncio.create_task(
                client.request(method, path if path.startswith("/") else f"/admin/models/{path}")
            )
            request_id, got = await broker.expect(type(body))
            assert got == body
            await (
                broker.error(request_id, answer) if isinstance(answer, Failure) else broker.final(request_id, answer)
            )
            return await asking

        post = partial(call, "POST")
        loaded = {"model_id": "org/tiny", "model_type": "text-gen", "size_bytes": 2**29, "pinned": True}
        response = await post("load/org/tiny", Load("org/tiny"), loaded)
        assert response.json() == {
            "status": "loaded",
            "model_id": "org/tiny",
            "model_type": "text-gen",
            "size_gb": 0.5,
            "preloaded": True,
        }
        for failure in (Failure(Code.MODEL_NOT_FOUND, "why"), Failure(Code.INSUFFICIENT_MEMORY, "why", retry_after=3)):
            response = await post("load/org/tiny", Load("org/tiny"), failure)
            assert (response.status_code, response.json()) == (500, {"detail": "why"})

        response = await post("pull/org/tiny", Pull("org/tiny"), {"model_id": "org/tiny", "size_bytes": 2**29})
        assert response.json() == {"status": "pulled", "model_id": "org/tiny", "size_gb": 0.5}
        response = await post("pull/org/tiny", Pull("org/tiny"), Failure(Code.MODEL_UNAVAILABLE, "no network"))
        assert (response.status_code, response.json()) == (503, {"detail": "no network"})
        response = await call("POST", "/admin/cache/forget/org/tiny", Forget("org/tiny"), {"model_id": "org/tiny"})
        assert response.json() == {"status": "forgotten", "model_id": "org/tiny"}
        response = await call("POST", "/admin/cache/forget", Forget(None), {"model_id": None})
        assert response.json() == {"status": "forgotten", "model_id": None}
        response = await call("DELETE", "org/tiny", Remove("org/tiny"), {"model_id": "org/tiny"})
        assert response.json() == {"status": "removed", "model_id": "org/tiny"}
        response = await call("DELETE", "a", Remove("a"), Failure(Code.MODEL_IN_USE, "a is loaded"))
        assert (response.status_code, response.json()) == (409, {"detail": "a is loaded"})

        response = await post("unload/org/tiny", Unload("org/tiny"), {"model_id": "org/tiny"})
        assert response.json() == {"status": "unloaded", "model_id": "org/tiny"}
        response = await post("unload/a?timeout=0.5&force=true", Unload("a", 0.5, force=True), {"model_id": "a"})
        assert response.status_code == 200
        response = await post("unload/a/b", Unload("a/b"), Failure(Code.NOT_LOADED, "Model not loaded: a/b"))
        assert (response.status_code, response.json()) == (404, {"detail": "Model not loaded: a/b"})
        response = await post("unload/a", Unload("a"), Failure(Code.DRAIN_TIMEOUT, "still busy"))
        assert (response.status_code, response.json()) == (409, {"detail": "still busy"})
        for query in ("timeout=soon", "timeout=-1", "timeout=nan", "timeout=inf", "force=perhaps"):
            response = await client.post(f"/admin/models/unload/a?{query}")
            assert response.status_code == 400
            assert query.split("=")[0] in response.json()["detail"]

        response = await post("kill/a", Kill("a"), {"model_id": "a", "pid": 4711})
        assert response.json() == {"status": "killed", "model_id": "a", "pid": 4711}
        response = await post("kill/a", Kill("a"), Failure(Code.NOT_LOADED, "no process"))
        assert (response.status_code, response.json()) == (404, {"detail": "no process"})
        response = await post("unpin/a", Unpin("a"), {"model_id": "a"})
        assert response.json() == {"status": "unpinned", "model_id": "a"}


async def test_health_is_what_the_broker_says(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        http(gateway) as client,
    ):
        for path in ("/admin/health", "/health"):
            asking = asyncio.create_task(client.get(path))
            await broker.final((await broker.expect(Status))[0], STATUS)
            response = await asking
            assert (response.status_code, response.json()) == (200, {"status": "healthy"})
        silent = await client.get("/admin/health")
        assert silent.status_code == 503
        assert silent.json()["status"] == "unhealthy"
        broker.close()
        gone = await client.get("/admin/health")
        assert (gone.status_code, gone.json()["status"]) == (503, "unhealthy")
        load = await client.post("/admin/models/load/a")
        assert load.status_code == 500
        inference = await client.post("/v1/chat/completions", json=chat())
        assert inference.status_code == 503
        assert inference.json()["error"]["code"] == "broker_unavailable"


async def test_unknown_paths_and_methods_are_json(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        http(gateway) as client,
    ):
        for path in ("/nothing", "/v1/nothing", "/v2/chat/completions"):
            response = await client.get(path)
            assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
        wrong = await client.get("/v1/chat/completions")
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
        assert wrong.headers["allow"] == "POST"
        for path in ("/v1/chat/completions/", "/chat/completions/", "/v1/embeddings/"):
            response = await client.post(path, json={})
            assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found"), path
        for path in ("/admin/nothing", "/admin/nothing/else"):
            nothing = await client.get(path)
            assert (nothing.status_code, list(nothing.json())) == (404, ["detail"])
        getting = ["/health", "/admin/health", "/admin/events", "/admin/models/status", "/admin/models/a/b/progress"]
        getting += ["/admin/models", "/admin/version", "/admin/settings"]
        posting = [f"/admin/models/{verb}/a/b" for verb in ("load", "pull", "cancel", "unload", "kill", "pin", "unpin")]
        posting += ["/v1/completions", "/v1/embeddings", "/v1/rerank"]
        for method, paths in (("POST", [*getting, "/v1/models", "/v1/models/a/b"]), ("GET", posting)):
            for path in paths:
                wrong = await client.request(method, path)
                assert wrong.status_code == 405, path
                assert ("GET" if method == "POST" else "POST") in wrong.headers["allow"]


async def test_keys(runtime_dir: Path) -> None:
    keys: dict[str, Any] = {"api_key": "käse", "admin_token": "root"}
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_process(broker, runtime_dir, **keys) as gateway,
        http(gateway) as client,
    ):
        paths = ("/v1/models", "/models", "/v1/nothing", "/admin/models/status", "/admin/nothing")
        given: tuple[dict[str, str], ...] = ({}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic root"})
        together = [client.get(path, headers=header) for path in paths for header in given]
        for response in await asyncio.gather(*together):  # a wrong admin token waits for its answer
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
        assert (await client.get("/v1/models")).json()["error"]["type"] == "authentication_error"
        assert "detail" in (await client.get("/admin/models/status")).json()
        for path in ("/v1/models", "/models"):
            assert (await client.get(path, headers={"authorization": "Bearer root"})).status_code == 401
        assert (await client.post("/chat/completions", json=chat())).status_code == 401
        together = [
            client.request(method, f"/admin/models/{path}", headers=other)
            for method, path in (("POST", "pull/a"), ("DELETE", "a"))
            for other in ({}, {b"authorization": "Bearer käse".encode()})
        ]
        assert [response.status_code for response in await asyncio.gather(*together)] == [401] * 4

        for path, key, kind, body in (
            ("/v1/models", "käse", Models, {"models": []}),
            ("/admin/models/status", "root", Status, STATUS),
            ("/admin/health", "", Status, STATUS),
        ):
            headers = {b"authorization": f"bearer {key}".encode()} if key else {}
            asking = asyncio.create_task(client.get(path, headers=headers))
            await broker.final((await broker.expect(kind))[0], body)
            assert (await asking).status_code == 200
        assert "$MLX_BROKER_API_KEY" in gateway.announcement
        assert "käse" not in gateway.announcement


@pytest.mark.parametrize("allowed", ["http://page", "*"])
async def test_pages_of_chosen_origins_may_call(runtime_dir: Path, allowed: str) -> None:
    settings: dict[str, Any] = {"allowed_origins": f"http://b,{allowed}", "api_key": "key"}
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir, **settings) as gateway,
        http(gateway) as client,
    ):
        page = {"origin": "http://page"}
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-api-key"}
        for path in ("/v1/chat/completions", "/chat/completions", "/v1/models"):
            preflight = await client.options(path, headers=page | asks)  # browsers send no key with it
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == allowed
            assert "POST" in preflight.headers["access-control-allow-methods"]
            assert preflight.headers["access-control-allow-headers"] == "authorization,x-api-key"
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=chat(stream=True), headers=BEARER | page))
        request_id, _ = await broker.expect_work()
        await broker.finish(request_id, "One")
        answer = await asking
        assert answer.headers["access-control-allow-origin"] == allowed
        assert answer.text.endswith("data: [DONE]\n\n")
        for path, status in (("/v1/models", 401), ("/chat/completions", 405), ("/nothing", 404)):
            refused = await client.get(path, headers=page)
            assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (status, allowed)
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=chat(), headers=BEARER | page))
        failure = Failure(Code.RATE_LIMIT_EXCEEDED, "full", retry_after=1, retryable=True)
        await broker.error((await broker.expect_work())[0], failure)
        assert (await asking).headers[
            "access-control-expose-headers"
        ] == "retry-after, x-request-id, x-mlx-broker-ignored"

        other = {"origin": "http://other"}
        preflight = await client.options("/v1/models", headers=other | asks)
        assert preflight.is_success == (allowed == "*")
        for path in ("/admin/models/kill/a", "/admin/models/status", "/admin/health", "/admin"):
            for answer in (
                await client.options(path, headers=page | asks),
                await client.post(path, headers=page),
            ):
                assert not answer.is_success
                assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_no_page_may_call_unless_the_settings_say_so(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        http(gateway) as client,
    ):
        headers = {"origin": "http://page", "access-control-request-method": "POST"}
        answer = await client.options("/v1/chat/completions", headers=headers)
        assert answer.status_code == 405
        assert "access-control-allow-origin" not in answer.headers


async def test_openais_own_client(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir) as broker, running_gateway(broker, runtime_dir) as gateway:
        client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=SECONDS)
        async with client:
            asking = asyncio.create_task(client.chat.completions.create(**chat(), stream=True))
            request_id, _ = await broker.expect_work()
            await broker.partial(request_id, "One")
            await broker.finish(request_id, " two", "length")
            chunks = [chunk async for chunk in await asking]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "One two"
            assert chunks[-1].choices[0].finish_reason == "length"
            asking = asyncio.create_task(client.chat.completions.create(**chat()))
            await broker.error((await broker.expect_work())[0], Failure(Code.MODEL_NOT_FOUND, "no such model", "model"))
            with pytest.raises(openai.NotFoundError) as caught:
                await asking
            assert caught.value.code == "model_not_found"
