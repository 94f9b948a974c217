"""Ollama's API over HTTP: the real app and server in this process, a played broker."""

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Cancel, InferenceRequest, Keep, Load, Models, Pull, Remove, Status, Watch
from broker.wire.outputs import ERROR, FINAL, PARTIAL, Output
from broker.wire.packing import unpack
from broker.wire.work import Embed, Generate
from gateway.core.names import AliasSettings
from gateway.core.sampling import Defaults
from tests.gateway.http.test_gateway import STATUS
from tests.gateway.ollama.bodies import USER
from tests.gateway.ollama.serving import CHAT, LOADED, asked, ollama
from tests.gateway.running import MODEL

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_a_whole_answer_names_what_was_asked_for(runtime_dir: Path, path: str) -> None:
    async with ollama(runtime_dir) as (broker, client):
        body = {"model": "Org/Tiny:latest", "messages": [USER], "prompt": "Hi", "stream": False}
        asking = asked(client, path, {**body, "options": {"num_ctx": 9, "num_predict": 8}})
        request_id, work = await broker.expect_work()
        assert (work.messages, work.stream, work.max_tokens) == ([USER], False, 8)
        await broker.finish(request_id, "Hello.")
        answer = await asking
        told = answer.json()
        assert told["model"] == "Org/Tiny:latest"
        assert told.get("response") == "Hello." or told["message"] == {"role": "assistant", "content": "Hello."}
        assert (told["done"], told["done_reason"], told["eval_count"]) == (True, "stop", 3)
        assert told["total_duration"] > 0
        assert answer.headers["x-mlx-broker-ignored"] == "options.num_ctx"


async def test_a_stream_of_lines_with_lines_that_say_nothing(runtime_dir: Path) -> None:
    async with ollama(runtime_dir, keepalive_seconds=0.1) as (broker, client):
        async with client.stream("POST", "/api/chat", json=CHAT) as answer:
            request_id, work = await broker.expect_work()
            assert work.stream
            assert answer.headers["content-type"] == "application/x-ndjson"
            lines = (json.loads(line) async for line in answer.aiter_lines())
            assert (await anext(lines))["message"]["content"] == ""
            got = []
            for text in ("One", " two"):
                await broker.partial(request_id, text)
                while not (line := await anext(lines))["message"]["content"]:
                    assert not line["done"]
                got.append(line["message"]["content"])
            await broker.finish(request_id, " three", "length")
            last = [line async for line in lines]
        assert got == ["One", " two"]
        assert "".join(line["message"]["content"] for line in last) == " three"
        assert [line["done"] for line in last][-2:] == [False, True]
        assert last[-1]["done_reason"] == "length"


async def test_lines_that_say_nothing_while_the_pieces_of_a_call_come(runtime_dir: Path) -> None:
    async with (
        ollama(runtime_dir, keepalive_seconds=0.2) as (broker, client),
        client.stream("POST", "/api/chat", json=CHAT) as answer,
    ):
        request_id, _work = await broker.expect_work()
        await broker.partial(request_id, "Well")
        lines = (json.loads(line) async for line in answer.aiter_lines())
        while not (await anext(lines))["message"]["content"]:
            pass

        async def piece(kind: str, arguments: str) -> None:
            call = {"id": "c", "name": "f", "arguments": arguments, "piece": kind}
            await broker.outputs(Output(request_id, PARTIAL, {"text": "", "tool_calls": [call]}))

        async def pieces() -> None:
            await piece("first", "{")
            while True:
                await piece("middle", " ")
                await asyncio.sleep(0.02)

        collecting = asyncio.create_task(pieces())
        quiet = await anext(lines)
        collecting.cancel()
        assert (quiet["message"]["content"], quiet["done"]) == ("", False)
        await piece("last", "}")
        while not (calls := (await anext(lines))["message"].get("tool_calls")):
            pass
        assert calls[0]["function"] == {"index": 0, "name": "f", "arguments": {}}
        await broker.finish(request_id)


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_before_the_first_output_have_a_status(runtime_dir: Path, stream: bool) -> None:
    async with ollama(runtime_dir) as (broker, client):
        for failure, status, message in (
            (Failure(Code.MODEL_NOT_FOUND, "no model named 'x'", "model"), 404, "model not found: no model named 'x'"),
            (Failure(Code.INVALID_REQUEST, "json_schema: odd", "json_schema"), 400, "format: odd"),
            (Failure(Code.INVALID_REQUEST, "odd", "messages[0].parts[0]"), 400, "messages[0].content: odd"),
            (Failure(Code.RATE_LIMIT_EXCEEDED, "full", retry_after=1.5, retryable=True), 429, "full"),
            (Failure(Code.WORKER_DIED, "SIGKILL", retryable=True), 503, "SIGKILL"),
        ):
            asking = asked(client, "/api/chat", {**CHAT, "stream": stream})
            await broker.error((await broker.expect_work())[0], failure)
            answer = await asking
            assert (answer.status_code, answer.json()) == (status, {"error": message})
            assert answer.headers.get("retry-after") == ("2" if failure.retry_after else None)


async def test_an_error_in_the_middle_is_the_last_line(runtime_dir: Path) -> None:
    async with ollama(runtime_dir) as (broker, client):
        asking = client.build_request("POST", "/api/generate", json={"model": "org/tiny", "prompt": "Hi"})
        answering = asyncio.create_task(client.send(asking, stream=True))
        request_id, _ = await broker.expect_work()
        await broker.partial(request_id, "One")
        lines = (json.loads(line) async for line in (await answering).aiter_lines())
        assert (await anext(lines))["response"] == "One"
        await broker.outputs(Output(request_id, ERROR, {"code": "worker_died", "message": "signal SIGKILL"}))
        assert [line async for line in lines] == [{"error": "signal SIGKILL"}]


@pytest.mark.parametrize(
    ("path", "empty"),
    [("/api/chat", {"messages": []}), ("/api/chat", {}), ("/api/generate", {"prompt": ""}), ("/api/generate", {})],
)
async def test_without_a_question_the_model_is_loaded_or_leaves(
    runtime_dir: Path, path: str, empty: dict[str, Any]
) -> None:
    async with ollama(runtime_dir) as (broker, client):
        for said, seconds, reason in ((None, None, "load"), ("5m", 300.0, "load"), (0, 0.0, "unload")):
            asking = asked(client, path, {"model": "org/tiny:latest", "keep_alive": said, **empty})
            request_id, keep = await broker.expect(Keep)
            assert (keep.model, keep.seconds) == ("org/tiny", seconds)
            await broker.final(request_id, LOADED)
            answer = (await asking).json()
            assert (answer["model"], answer["done"], answer["done_reason"]) == ("org/tiny:latest", True, reason)
        asking = asked(client, path, {"model": "org/tiny", "keep_alive": -1, **empty})
        request_id, load = await broker.expect(Load)
        assert load.model == "org/tiny"
        await broker.final(request_id, LOADED)
        assert (await asking).json()["done_reason"] == "load"


async def test_requests_say_how_long_the_model_stays(runtime_dir: Path) -> None:
    async with ollama(runtime_dir) as (broker, client):
        for said, seconds in ((None, None), (0, 0.0), ("1h30m", 5400.0), (2.5, 2.5)):
            for stream in (True, False):
                asking = asked(client, "/api/chat", {**CHAT, "keep_alive": said, "stream": stream})
                request_id, request = await broker.expect(InferenceRequest)
                assert request.keep_alive == seconds
                await broker.finish(request_id, "Hi")
                assert (await asking).status_code == 200


async def test_minus_one_pins_before_it_answers(runtime_dir: Path) -> None:
    async with ollama(runtime_dir) as (broker, client):
        asking = asked(client, "/api/chat", {**CHAT, "keep_alive": "-1m", "stream": False})
        request_id, load = await broker.expect(Load)
        assert load.model == "org/tiny"
        await broker.final(request_id, LOADED)
        request_id, request = await broker.expect(InferenceRequest)
        assert request.keep_alive is None
        await broker.finish(request_id, "Hi")
        assert (await asking).json()["message"]["content"] == "Hi"


async def test_a_pin_downloads_nothing(runtime_dir: Path) -> None:
    async with ollama(runtime_dir, ["org/tiny"]) as (_broker, client):
        for messages in ([USER], []):
            body = {"model": "org/new", "keep_alive": -1, "messages": messages}
            answer = await client.post("/api/chat", json=body)
            assert (answer.status_code, answer.json()["error"]) == (
                404,
                "model not found: this machine has no model 'org/new'",
            )


async def test_vectors(runtime_dir: Path) -> None:
    final: dict[str, Any] = {"vectors": struct.pack("<4f", 0.25, 0.5, 1, 2), "size": 2, "prompt_tokens": 7}
    async with ollama(runtime_dir) as (broker, client):
        body = {
            "model": "m",
            "input": ["a", "b"],
            "keep_alive": "5m",
            "dimensions": 2,
            "options": {"num_ctx": None, "num_gpu": 1},
        }
        asking = asked(client, "/api/embed", body)
        request_id, request = await broker.expect(InferenceRequest)
        assert (request.task, request.keep_alive) == ("embed", 300.0)
        assert unpack(Embed, request.payload) == Embed(["a", "b"], 2, truncate=True)
        await broker.final(request_id, final)
        assert (await asking).headers["x-mlx-broker-ignored"] == "options.num_gpu"
        answer = (await asking).json()
        assert (answer["model"], answer["embeddings"]) == ("m", [[0.25, 0.5], [1.0, 2.0]])
        assert answer["prompt_eval_count"] == 7
        asking = asked(client, "/api/embeddings", {"model": "m", "prompt": "a"})
        request_id, request = await broker.expect(InferenceRequest)
        assert unpack(Embed, request.payload) == Embed(["a"], truncate=True)
        await broker.final(request_id, {**final, "vectors": final["vectors"][:8]})
        assert (await asking).json() == {"embedding": [0.25, 0.5]}
        for path in ("/api/embed", "/api/embeddings"):
            asking = asked(client, path, {"model": "m", "input": "", "prompt": ""})
            request_id, _ = await broker.expect(Keep)
            await broker.final(request_id, LOADED)
            assert list((await asking).json().values())[-1] in ([], 0)
        asking = asked(client, "/api/embed", {"model": "m", "input": ["a", ""]})
        request_id, _ = await broker.expect(InferenceRequest)
        await broker.error(request_id, Failure(Code.INVALID_REQUEST, "inputs[1] is empty", "inputs[1]"))
        assert (await asking).json() == {"error": "input[1] is empty"}


async def test_lists(runtime_dir: Path) -> None:
    async with ollama(runtime_dir) as (broker, client):
        asking = asyncio.create_task(client.get("/api/tags"))
        await broker.final((await broker.expect(Models))[0], {"models": [MODEL]})
        [entry] = (await asking).json()["models"]
        assert (entry["name"], entry["size"]) == ("org/tiny:latest", 2**29)
        asking = asyncio.create_task(client.get("/api/ps"))
        await broker.final((await broker.expect(Status))[0], STATUS)
        await broker.final((await broker.expect(Models))[0], {"models": [MODEL]})
        assert (await asking).json()["models"]
        asking = asked(client, "/api/show", {"model": "org/tiny:latest"})
        await broker.final((await broker.expect(Models))[0], {"models": [MODEL]})
        told = (await asking).json()
        assert told["model_info"]["llama.context_length"] == 2048
        asking = asked(client, "/api/show", {"name": "nobody"})
        await broker.final((await broker.expect(Models))[0], {"models": [MODEL]})
        assert (await asking).status_code == 404
        missing = await client.post("/api/show", json={})
        assert (missing.status_code, missing.json()) == (400, {"error": "model is required"})


async def test_an_alias_is_a_name_as_any_other(runtime_dir: Path) -> None:
    profile = AliasSettings(model="org/tiny", defaults=Defaults(temperature=0.2))
    async with ollama(runtime_dir, ["org/tiny"], aliases={"tiny:cool": profile}) as (broker, client):
        asking = asked(client, "/api/chat", {"model": "Tiny:Cool", "messages": [USER], "stream": False})
        request_id, request = await broker.expect(InferenceRequest)
        assert (request.model, unpack(Generate, request.payload).temperature) == ("org/tiny", 0.2)
        await broker.finish(request_id, "Hi")
        assert (await asking).json()["model"] == "Tiny:Cool"
        asking = asyncio.create_task(client.get("/api/tags"))
        await broker.final((await broker.expect(Models))[0], {"models": [MODEL]})
        assert [entry["name"] for entry in (await asking).json()["models"]] == ["org/tiny:latest", "tiny:cool"]
        asking = asked(client, "/api/show", {"model": "tiny:cool"})
        await broker.final((await broker.expect(Models))[0], {"models": [MODEL]})
        told = (await asking).json()
        assert told["model_info"]["general.basename"] == "tiny:cool"
        assert "0.2" in told["parameters"]
        refused = await client.request("DELETE", "/api/delete", json={"model": "tiny:cool"})
        assert (refused.status_code, "is an alias" in refused.json()["error"]) == (400, True)


async def test_a_download_and_a_deletion(runtime_dir: Path) -> None:
    async with ollama(runtime_dir) as (broker, client):
        asking = asked(client, "/api/pull", {"model": "hf.co/org/new:latest"})
        request_id, pull = await broker.expect(Pull)
        assert (pull.model, pull.stream) == ("org/new", True)
        progress = {"model_id": "org/new", "reason": None, "fraction": 0.5, "done_bytes": 5, "total_bytes": 10}
        await broker.outputs(Output(request_id, PARTIAL, progress))
        await broker.outputs(Output(request_id, FINAL, {"model_id": "org/new", "size_bytes": 10}))
        lines = [json.loads(line) for line in (await asking).text.splitlines()]
        assert [line.get("completed") for line in lines] == [None, 5, 10, None, None, None]
        assert lines[-1] == {"status": "success"}

        asking = asked(client, "/api/pull", {"name": "org/new", "stream": False})
        request_id, pull = await broker.expect(Pull)
        assert not pull.stream
        await broker.final(request_id, {"model_id": "org/new", "size_bytes": 10})
        assert (await asking).json() == {"status": "success"}

        asking = asyncio.create_task(client.request("DELETE", "/api/delete", json={"model": "org/new:latest"}))
        request_id, remove = await broker.expect(Remove)
        assert remove.model == "org/new"
        await broker.final(request_id, {"model_id": "org/new"})
        answer = await asking
        assert (answer.status_code, answer.content) == (200, b"")


IN_USE = Failure(Code.MODEL_IN_USE, "org/tiny is loaded")


async def test_an_idle_model_leaves_before_its_files(runtime_dir: Path) -> None:
    async with ollama(runtime_dir) as (broker, client):
        models: Any = STATUS["models"]
        entry = {**models[0], "model_id": "org/tiny", "state": "ready"}
        for idle_until, leaves in ((1.0, True), (None, False)):
            asking = asyncio.create_task(client.request("DELETE", "/api/delete", json={"model": "org/tiny"}))
            await broker.error((await broker.expect(Remove))[0], IN_USE)
            report = {**STATUS, "models": [{**entry, "idle_until": idle_until}]}
            await broker.final((await broker.expect(Status))[0], report)
            if leaves:
                request_id, keep = await broker.expect(Keep)
                assert (keep.model, keep.seconds) == ("org/tiny", 0)
                await broker.final(request_id, LOADED)
                request_id, _watch = await broker.expect(Watch)
                for state in ("ready", "stopping", "unloaded"):
                    await broker.outputs(Output(request_id, PARTIAL, {"model_id": "org/tiny", "state": state}))
                await broker.expect(Cancel)
                await broker.final((await broker.expect(Remove))[0], {"model_id": "org/tiny"})
            answer = await asking
            assert answer.status_code == (200 if leaves else 409)


async def test_what_programs_look_for(runtime_dir: Path) -> None:
    async with ollama(runtime_dir, api_key=SecretStr("key")) as (_broker, client):
        for method in ("GET", "HEAD"):
            answer = await client.request(method, "/")
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/plain")
            assert answer.text == ("Ollama is running" if method == "GET" else "")
            answer = await client.request(method, "/api/version")
            assert answer.status_code == 200
        version = (await client.get("/api/version")).json()["version"]
        major, minor, patch = map(int, version.split("."))
        assert (major, minor, patch) >= (0, 17, 6)


async def test_what_is_not_served_says_so(runtime_dir: Path) -> None:
    async with ollama(runtime_dir) as (_broker, client):
        digest = f"sha256:{'0' * 64}"
        for path in ("/api/create", "/api/copy", "/api/push", f"/api/blobs/{digest}"):
            answer = await client.post(path, json={"model": "a"})
            assert answer.status_code == 501
            assert answer.json()["error"].startswith(f"{path} is not served")
        assert (await client.head(f"/api/blobs/{digest}")).status_code == 501
        assert (await client.get("/api/nothing")).json() == {"error": "GET /api/nothing: there is no such path"}
        wrong = await client.get("/api/chat")
        assert (wrong.status_code, set(wrong.json())) == (405, {"error"})
        assert (await client.post("/api/chat", content=b"{")).json()["error"].startswith("the body is not JSON")
