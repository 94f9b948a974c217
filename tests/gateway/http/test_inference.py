"""Chat and completions over HTTP: a real gateway process, a played broker."""

import asyncio
import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Cancel, InferenceRequest
from broker.wire.outputs import ERROR, PARTIAL, Output
from broker.wire.packing import unpack
from broker.wire.work import Generate
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import Gateway, chat, connected, running_gateway, running_process

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


def http(gateway: Gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS)


@pytest.mark.parametrize("path", [CHAT, "/chat/completions"])
async def test_a_whole_answer(runtime_dir: Path, path: str) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        http(gateway) as client,
    ):
        asking = asyncio.create_task(client.post(path, json=chat(max_tokens=8, seed=1)))
        request_id, work = await broker.expect_work()
        assert work.messages == [{"role": "user", "content": "Hi"}]
        assert (work.stream, work.max_tokens, work.seed) == (False, 8, 1)
        await broker.finish(request_id, "Paris.")
        answer = await asking
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"] == {"role": "assistant", "content": "Paris."}
        assert answer.json()["model"] == "org/tiny"
        assert "server" not in answer.headers


async def test_choices_come_back_in_their_order(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        http(gateway) as client,
    ):
        body = {"model": "org/tiny", "prompt": ["a", "b"], "n": 2}
        asking = asyncio.create_task(client.post("/v1/completions", json=body))
        work = [await broker.expect_work() for _ in range(4)]
        for request_id, unit in reversed(work):
            await broker.finish(request_id, f"{unit.prompt}{work.index((request_id, unit))}")
        answer = (await asking).json()
        assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
            (0, "a0"),
            (1, "a1"),
            (2, "b2"),
            (3, "b3"),
        ]
        assert answer["usage"]["prompt_tokens"] == 10


async def test_a_stream_sends_each_output_as_it_comes(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        connected(gateway) as raw,
    ):
        await raw.post(CHAT, chat(stream=True, stream_options={"include_usage": True}))
        request_id, work = await broker.expect_work()
        assert work.stream
        for text in ("One", " two", " “three”\n"):
            await broker.partial(request_id, text)
            assert json.dumps(text, ensure_ascii=False).encode() in await raw.read_until(b"\n\n\r\n")
        await broker.finish(request_id, "", "length", tokens=3)
        rest = await raw.read_until(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert b'"finish_reason":"length"' in rest
        assert b'"completion_tokens":3' in rest


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_the_first_output_has_a_status(runtime_dir: Path, stream: bool) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        http(gateway) as client,
    ):
        for failure, status in (
            (Failure(Code.MODEL_NOT_FOUND, "no such model"), 404),
            (Failure(Code.RATE_LIMIT_EXCEEDED, "full", retry_after=1.5, retryable=True), 429),
            (Failure(Code.WORKER_DIED, "SIGKILL", retryable=True), 503),
        ):
            asking = asyncio.create_task(client.post(CHAT, json=chat(stream=stream)))
            await broker.error((await broker.expect_work())[0], failure)
            answer = await asking
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/json"
            assert answer.json()["error"]["code"] == failure.code
            assert answer.headers.get("retry-after") == ("2" if failure.retry_after else None)


async def test_an_error_within_a_stream_is_a_frame_of_it(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        connected(gateway) as raw,
    ):
        await raw.post(CHAT, chat(stream=True))
        request_id, _ = await broker.expect_work()
        await broker.partial(request_id, "One")
        await raw.read_until(b"\n\n")
        await broker.outputs(
            Output(request_id, PARTIAL, {"text": "Two"}),
            Output(request_id, ERROR, {"code": "worker_died", "message": "SIGKILL"}),
        )
        rest = await raw.read_until(b"0\r\n\r\n")
        assert rest.index(b"Two") < rest.index(b'data: {"error":{') < rest.index(b"worker_died")
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_one_failed_choice_ends_the_request_and_cancels_the_others(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        http(gateway) as client,
    ):
        asking = asyncio.create_task(client.post(CHAT, json=chat(n=2)))
        first, second = [(await broker.expect_work())[0] for _ in range(2)]
        await broker.error(first, Failure(Code.WORKER_DIED, "SIGKILL", retryable=True))
        assert (await asking).status_code == 503
        assert (await broker.expect(Cancel))[0] == second


async def test_an_output_that_cannot_be_read_ends_the_request(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        connected(gateway) as raw,
        http(gateway) as client,
    ):
        await raw.post(CHAT, chat(stream=True))
        request_id, _ = await broker.expect_work()
        await broker.partial(request_id, "One")
        await raw.read_until(b"\n\n")
        await broker.outputs(Output(request_id, PARTIAL, {"text": 2}))
        rest = await raw.read_until(b"0\r\n\r\n")
        assert b"internal_error" in rest
        assert b"data: [DONE]" in rest
        assert (await broker.expect(Cancel))[0] == request_id
        asking = asyncio.create_task(client.post(CHAT, json=chat()))
        await broker.final((await broker.expect_work())[0], {"text": "no counts"})
        answer = await asking
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal_error"
        asking = asyncio.create_task(client.post(CHAT, json=chat()))
        request_id, _ = await broker.expect_work()
        await broker.partial(request_id, "not asked for")
        assert (await asking).status_code == 500
        assert (await broker.expect(Cancel))[0] == request_id


@pytest.mark.parametrize("when", ["waiting", "streaming", "whole"])
async def test_a_client_that_goes_cancels_its_work(runtime_dir: Path, when: str) -> None:
    async with PlayedBroker(runtime_dir) as broker, running_gateway(broker, runtime_dir) as gateway:
        async with connected(gateway) as raw:
            await raw.post(CHAT, chat(stream=when != "whole", n=2))
            ids = {(await broker.expect_work())[0] for _ in range(2)}
            if when == "streaming":
                await broker.partial(min(ids), "One")
                await raw.read_until(b"\n\n")
        went = time.monotonic()
        assert {(await broker.expect(Cancel))[0] for _ in range(2)} == ids
        assert time.monotonic() - went < 5.0  # long before a comment would find it gone


async def test_a_quiet_stream_is_kept_alive_by_comments(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir, keepalive_seconds=0.1) as gateway,
        connected(gateway) as raw,
    ):
        await raw.post(CHAT, chat(stream=True))
        request_id, _ = await broker.expect_work()
        assert b"200 OK" in await raw.read_until(b": keepalive\n\n")
        await raw.read_until(b": keepalive\n\n")
        await broker.partial(request_id, "One")
        await raw.read_until(b'"One"')
        await raw.read_until(b": keepalive\n\n")
        await broker.error(request_id, Failure(Code.WORKER_DIED, "SIGKILL"))
        assert b"worker_died" in await raw.read_until(b"data: [DONE]\n\n")


async def test_a_client_that_does_not_read_is_cut_off_and_others_are_not(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        connected(gateway) as lazy,
        connected(gateway) as busy,
    ):
        await lazy.post(CHAT, chat(stream=True))
        lazy_id, _ = await broker.expect_work()
        await busy.post(CHAT, chat(stream=True))
        busy_id, _ = await broker.expect_work()
        cancelled = asyncio.create_task(broker.expect(Cancel))
        text = "x" * 100_000
        while not cancelled.done():  # until the kernel's buffers are full, and then the call's
            await broker.outputs(Output(lazy_id, PARTIAL, {"text": text}), Output(busy_id, PARTIAL, {"text": "y"}))
            assert b"y" in await busy.read_until(b"\n\n")
        assert (await cancelled)[0] == lazy_id
        await broker.finish(busy_id)
        await busy.read_until(b"data: [DONE]\n\n")
        async with asyncio.timeout(SECONDS):  # it reads on, after all
            while chunk := await lazy.reader.read(2**20):
                if b"too slowly" in chunk:
                    break
        assert chunk.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_outputs_without_text_end_nothing(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        connected(gateway) as raw,
        connected(gateway) as other,
    ):
        await raw.post(CHAT, chat(stream=True))
        request_id, _ = await broker.expect_work()
        await other.post(CHAT, chat(stream=True))
        other_id, _ = await broker.expect_work()
        one, nothing = ({"text": text} for text in ("One", ""))
        await broker.outputs(Output(request_id, PARTIAL, one), Output(other_id, PARTIAL, one))
        await raw.read_until(b'"One"')
        await broker.outputs(*[Output(request_id, PARTIAL, nothing)] * 2, Output(other_id, PARTIAL, {"text": "two"}))
        await other.read_until(b'"two"')  # so the others of that message have been dealt with
        await broker.partial(request_id, "three")
        assert b"\r\n0\r\n" not in await raw.read_until(b'"three"')
        await broker.finish(request_id)
        await raw.read_until(b"data: [DONE]\n\n")


async def test_a_client_that_pauses_misses_nothing(runtime_dir: Path) -> None:
    loop = asyncio.get_running_loop()
    async with PlayedBroker(runtime_dir) as broker, running_gateway(broker, runtime_dir) as gateway:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", gateway.port))
            body = json.dumps(chat(stream=True)).encode()
            await loop.sock_sendall(client, b"POST %b HTTP/1.1\r\nhost: x\r\n" % CHAT.encode())
            await loop.sock_sendall(client, b"content-length: %d\r\n\r\n%b" % (len(body), body))
            request_id, _ = await broker.expect_work()
            for number in range(60):  # more than the system and the connection hold, less than the call does
                await broker.partial(request_id, f"<{number}>" + "." * 4000)
            seen = b""
            async with asyncio.timeout(SECONDS):
                while b"<59>" not in seen:
                    seen += await loop.sock_recv(client, 2**16)
                await broker.partial(request_id, "<60>")
                await broker.finish(request_id)
                while b"data: [DONE]" not in seen:
                    seen += await loop.sock_recv(client, 2**16)
            assert re.findall(rb"<\d+>", seen) == [b"<%d>" % number for number in range(61)]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b'{"messages": []}', 400, "messages"),
        (json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode(), 400, "model"),
        (json.dumps(chat(max_tokens=0)).encode(), 400, "max_tokens"),
        (json.dumps(chat(chat_template_kwargs={}))[:-3].encode() + b'{"a": ' * 2000 + b"1" + b"}" * 2001, 400, None),
    ],
)
async def test_bad_requests_are_refused_here(runtime_dir: Path, body: bytes, status: int, param: str | None) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        http(gateway) as client,
    ):
        answer = await client.post(CHAT, content=body)
        assert answer.status_code == status
        assert answer.json()["error"]["param"] == param
        # and nothing went to the broker
        asking = asyncio.create_task(client.post(CHAT, json=chat()))
        await broker.finish((await broker.expect_work())[0], "ok")
        assert (await asking).status_code == 200


async def test_a_large_body_is_refused_without_being_read(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir, max_body_mb=0.5) as gateway,
        http(gateway) as client,
    ):
        body = json.dumps(chat(user="x" * 2**20)).encode()
        assert (await client.post(CHAT, content=body)).json()["error"]["code"] == "request_too_large"

        async def chunks() -> Any:
            for position in range(0, len(body), 4096):
                yield body[position : position + 4096]

        chunked = await client.post(CHAT, content=chunks())
        assert chunked.status_code == 413
        async with connected(gateway) as raw:
            raw.writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n")
            assert b"HTTP/1.1 413" in await raw.read_to_end()  # which comes although no byte of the body was sent


async def test_the_default_model_and_default_max_tokens(runtime_dir: Path) -> None:
    settings: dict[str, Any] = {"default_model": "org/other", "default_max_tokens": 77}
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_process(broker, runtime_dir, **settings) as gateway,
        http(gateway) as client,
    ):
        for named in (None, "default_model"):
            asking = asyncio.create_task(client.post(CHAT, json=chat(model=named)))
            request_id, request = await broker.expect(InferenceRequest)
            assert (request.model, unpack(Generate, request.payload).max_tokens) == ("org/other", 77)
            await broker.finish(request_id, "ok")
            assert (await asking).json()["model"] == "org/other"
        assert "org/other" in gateway.announcement


async def test_the_defaults_of_a_model(runtime_dir: Path) -> None:
    # Where the gateway of a test runs; broker and gateway read the same file.
    (runtime_dir / "mlx-broker.toml").write_text('[models."org/tiny".defaults]\ntemperature = 0\ntop_k = 3\n')
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_process(broker, runtime_dir) as gateway,
        http(gateway) as client,
    ):
        for model, temperature, top_k in (("org/tiny", 0, 3), ("org/other", 1, 0)):
            asking = asyncio.create_task(client.post(CHAT, json=chat(model=model)))
            request_id, work = await broker.expect_work()
            assert work.temperature == temperature
            assert work.top_k == top_k
            await broker.finish(request_id, "ok")
            assert (await asking).status_code == 200


async def test_default_model_is_a_name_like_others_where_there_is_none(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        http(gateway) as client,
    ):
        asking = asyncio.create_task(client.post(CHAT, json=chat(model="default_model")))
        request_id, request = await broker.expect(InferenceRequest)
        assert request.model == "default_model"
        await broker.finish(request_id, "ok")
        assert (await asking).status_code == 200
