"""One record for each request, whatever its dialect and however it ends."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import Cancel, InferenceRequest
from broker.wire.outputs import FINAL, PARTIAL, Output
from gateway.app import ENDPOINTS
from gateway.core.served import CLIENT_LEFT, OK, Served, Tokens
from gateway.link.client import BrokerClient
from gateway.settings import Settings
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import Gateway, chat, connected
from tests.gateway.served import served

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


class Records:
    """What the gateway tells of its requests."""

    def __init__(self, broker: PlayedBroker, client: httpx.AsyncClient, queue: "asyncio.Queue[Served]") -> None:
        self.broker = broker
        self.client = client
        self._queue = queue

    async def next(self) -> Served:
        async with asyncio.timeout(SECONDS):
            return await self._queue.get()

    @property
    def are_all_read(self) -> bool:
        return self._queue.empty()


@contextlib.asynccontextmanager
async def recording(runtime_dir: Path, models: list[str] | None = None, **fields: Any) -> AsyncIterator[Records]:
    queue: asyncio.Queue[Served] = asyncio.Queue()
    settings = Settings(port=0, runtime_dir=runtime_dir, default_model="org/tiny", **fields)
    link = BrokerClient(settings.broker_socket)
    async with (
        PlayedBroker(runtime_dir, models=models) as broker,
        served(link, settings, observers=[queue.put_nowait]) as client,
    ):
        await broker.meet()
        yield Records(broker, client, queue)
        assert queue.empty()


async def asked(records: Records, path: str, body: dict[str, Any], *answers: dict[str, Any]) -> Served:
    """The record of a request that the broker answers with these FINALs."""
    asking = asyncio.create_task(records.client.post(path, json=body))
    for answer in answers:
        request_id, _request = await records.broker.expect(InferenceRequest)
        await records.broker.final(request_id, answer)
    await asking
    return await records.next()


ANSWER = {"text": "Hi", "finish_reason": "stop", "prompt_tokens": 5, "completion_tokens": 3, "cached_tokens": 2}
TURN = [{"role": "user", "content": "Hi"}]
VECTORS = {"vectors": bytes(8), "size": 2, "prompt_tokens": 4}
WHOLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    CHAT: ({"messages": TURN}, ANSWER),
    "/chat/completions": ({"messages": TURN}, ANSWER),
    "/v1/completions": ({"prompt": "a"}, ANSWER),
    "/v1/responses": ({"input": "a"}, ANSWER),
    "/v1/messages": ({"messages": TURN, "max_tokens": 5}, ANSWER),
    "/api/chat": ({"messages": TURN, "stream": False}, ANSWER),
    "/api/generate": ({"prompt": "a", "stream": False}, ANSWER),
    "/v1/embeddings": ({"input": "a"}, VECTORS),
    "/api/embed": ({"input": "a"}, VECTORS),
    "/api/embeddings": ({"prompt": "a"}, VECTORS),
    "/v1/rerank": ({"query": "a", "documents": ["b"]}, {"scores": bytes(4), "prompt_tokens": 4}),
    "/v1/messages/count_tokens": ({"messages": TURN}, {"prompt_tokens": 5}),
}
TOKENS = {id(ANSWER): Tokens(5, 2, 3), id(VECTORS): Tokens(4)}


TRANSCRIPT = {"text": "Hi", "segments": [], "duration": 1.0, "completion_tokens": 3}
AUDIO: dict[str, tuple[dict[str, Any], dict[str, Any], Tokens]] = {
    "/v1/audio/transcriptions": ({"files": {"file": b"a"}}, TRANSCRIPT, Tokens(generated=3)),
    "/v1/audio/translations": ({"files": {"file": b"a"}}, TRANSCRIPT, Tokens(generated=3)),
    "/v1/audio/speech": (
        {"json": {"input": "a"}},
        {"audio": b"a", "prompt_tokens": 2, "completion_tokens": 4},
        Tokens(2, 0, 4),
    ),
    "/v1/audio/voices": ({}, {"voices": []}, Tokens()),
}


def test_every_route_that_asks_a_model_is_tried() -> None:
    assert {row.path for row in ENDPOINTS if row.is_inference} == {*WHOLE, *AUDIO}


async def test_audio(runtime_dir: Path) -> None:
    async with recording(runtime_dir) as records:
        for path, (sent, answer, tokens) in AUDIO.items():
            asking = asyncio.create_task(records.client.request("POST" if sent else "GET", path, **sent))
            request_id, _request = await records.broker.expect(InferenceRequest)
            await records.broker.final(request_id, answer)
            await asking
            record = await records.next()
            assert (record.path, record.is_inference, record.status, record.outcome) == (path, True, 200, OK)
            assert (record.model, record.tokens) == ("org/tiny", tokens)


async def test_streams_of_audio(runtime_dir: Path) -> None:
    """The first output counts from the end of the upload, and outputs are no tokens."""
    form = httpx.Request("POST", "http://a", data={"stream": "true"}, files={"file": b"a" * 100})
    kind = {"content-type": form.headers["content-type"]}
    middle: list[float] = []

    async def upload() -> AsyncIterator[bytes]:
        sent = form.read()
        yield sent[:50]
        middle.append(time.monotonic())
        yield sent[50:]

    async with recording(runtime_dir) as records:
        for path, sent, body in (
            ("/v1/audio/transcriptions", {"content": upload(), "headers": kind}, {"text": "One"}),
            ("/v1/audio/speech", {"json": {"input": "a"}}, {"audio": b"a"}),
        ):
            asking = asyncio.create_task(
                records.client.send(records.client.build_request("POST", path, **sent), stream=True)
            )
            request_id, _request = await records.broker.expect(InferenceRequest)
            await records.broker.outputs(Output(request_id, PARTIAL, body))
            answer = await asking
            pieces = answer.aiter_raw()
            await anext(pieces)
            await records.broker.outputs(Output(request_id, PARTIAL, body))
            await anext(pieces)
            await answer.aclose()
            await records.broker.expect(Cancel)
            record = await records.next()
            assert (record.outcome, record.outputs, record.tokens) == (CLIENT_LEFT, 2, Tokens())
            assert not record.is_by_token
            assert record.first_output is not None
            begun = record.started
            if path == "/v1/audio/transcriptions":
                assert record.uploaded is not None
                assert record.uploaded > middle[0]
                begun = record.uploaded
            assert record.first_seconds == record.first_output - begun


async def test_whole_answers_of_every_dialect(runtime_dir: Path) -> None:
    async with recording(runtime_dir) as records:
        for path, (body, answer) in WHOLE.items():
            record = await asked(records, path, {"model": "org/tiny", **body}, answer)
            assert (record.method, record.path, record.is_inference) == ("POST", path, True)
            assert (record.model, record.is_known, record.status, record.outcome) == ("org/tiny", True, 200, OK)
            tokens = Tokens(4) if path == "/v1/rerank" else TOKENS.get(id(answer), Tokens())  # a count computes none
            assert (path, record.tokens) == (path, tokens)
            assert record.first_output is None
            assert record.ended is not None
            assert record.started < record.ended < record.started + SECONDS


async def test_a_stream_has_its_first_output_its_tokens_and_the_gaps(runtime_dir: Path) -> None:
    async with recording(runtime_dir) as records, connected(_at(records)) as raw:
        await raw.post(CHAT, chat(stream=True))
        request_id, _work = await records.broker.expect_work()
        for text in ("One", "Two", "Three"):
            await records.broker.partial(request_id, text)
            await raw.read_until(text.encode())
        await records.broker.finish(request_id, tokens=9)
        await raw.read_until(b"[DONE]")
        record = await records.next()
        assert (record.status, record.outcome, record.tokens) == (200, OK, Tokens(5, 2, 9))
        assert record.first_output is not None
        assert record.ended is not None
        assert record.started < record.first_output < record.last_output <= record.ended
        assert (record.outputs, sum(record.gaps)) == (4, 3)


async def test_a_client_that_leaves_a_stream(runtime_dir: Path) -> None:
    async with recording(runtime_dir) as records:
        async with connected(_at(records)) as raw:
            await raw.post(CHAT, chat(stream=True))
            request_id, _work = await records.broker.expect_work()
            prompt = {"tokens": 7, "cached": 1}
            await records.broker.outputs(Output(request_id, PARTIAL, {"text": "One", "prompt": prompt}))
            await records.broker.partial(request_id, "Two")
            await raw.read_until(b"Two")
        record = await records.next()
        assert (record.status, record.outcome) == (200, CLIENT_LEFT)
        assert record.tokens == Tokens(7, 1, 2), "each output counts as one token"
        await records.broker.expect(Cancel)


async def test_a_client_that_leaves_before_the_answer(runtime_dir: Path) -> None:
    async with recording(runtime_dir) as records:
        async with connected(_at(records)) as raw:
            await raw.post(CHAT, chat())
            await records.broker.expect_work()
        record = await records.next()
        assert (record.status, record.outcome) == (499, CLIENT_LEFT)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_output(runtime_dir: Path, *, stream: bool) -> None:
    async with recording(runtime_dir) as records:
        asking = asyncio.create_task(records.client.post(CHAT, json=chat(stream=stream)))
        request_id, _work = await records.broker.expect_work()
        await records.broker.error(request_id, Failure(Code.RATE_LIMIT_EXCEEDED, "busy"))
        await asking
        record = await records.next()
        assert (record.status, record.outcome, record.tokens) == (429, "rate_limit_exceeded", Tokens())


async def test_a_stream_that_fails_in_the_middle(runtime_dir: Path) -> None:
    async with recording(runtime_dir) as records, connected(_at(records)) as raw:
        await raw.post(CHAT, chat(stream=True, n=2))
        (first, _), (second, _) = [await records.broker.expect_work() for _ in range(2)]
        await records.broker.outputs(Output(first, PARTIAL, {"text": "a"}), Output(second, PARTIAL, {"text": "b"}))
        await raw.read_until(b'"b"')
        await records.broker.final(first, {**ANSWER, "completion_tokens": 2})
        await records.broker.error(second, Failure(Code.WORKER_DIED, "it died"))
        await raw.read_until(b"[DONE]")
        record = await records.next()
        assert (record.status, record.outcome) == (200, "worker_died")
        assert record.tokens == Tokens(5, 2, 3), "more outputs than the ended choice had tokens"


@pytest.mark.parametrize(
    ("headers", "body", "status", "outcome"),
    [
        ({}, b"{", 400, "invalid_request"),
        ({"authorization": "Bearer wrong"}, b"{}", 401, "invalid_api_key"),
        ({}, b" " * 2**20, 413, "request_too_large"),
    ],
)
async def test_a_request_that_never_gets_to_a_model(
    runtime_dir: Path, headers: dict[str, str], body: bytes, status: int, outcome: str
) -> None:
    async with recording(runtime_dir, api_key="right", max_body_mb=0.5) as records:
        await records.client.post(CHAT, content=body, headers={"authorization": "Bearer right", **headers})
        record = await records.next()
        assert (record.path, record.is_inference, record.model) == (CHAT, True, None)
        assert (record.status, record.outcome) == (status, outcome)


async def test_a_name_that_no_model_has(runtime_dir: Path) -> None:
    async with recording(runtime_dir, models=[]) as records:
        asking = asyncio.create_task(records.client.post(CHAT, json=chat(model="org/nothing")))
        request_id, _work = await records.broker.expect_work()
        await records.broker.error(request_id, Failure(Code.MODEL_NOT_FOUND, "no"))
        await asking
        record = await records.next()
        assert (record.model, record.is_known, record.outcome) == ("org/nothing", False, "model_not_found")


async def test_other_routes_are_told_apart(runtime_dir: Path) -> None:
    async with recording(runtime_dir) as records:
        for method, path, template in (
            ("GET", "/api/version", "/api/version"),
            ("POST", "/admin/models/load/%0A/../x", "/admin/models/load/{model_id:path}"),
            ("GET", "/nowhere/at/all", None),
            ("GET", CHAT, CHAT),  # the wrong method
        ):
            asking = asyncio.create_task(records.client.request(method, path))
            if path.startswith("/admin"):
                request_id = (await records.broker.receive()).request_id
                await records.broker.error(request_id, Failure(Code.MODEL_NOT_FOUND, "no"))
            answer = await asking
            record = await records.next()
            assert (record.method, record.path, record.is_inference) == (method, template, False)
            assert record.status == answer.status_code


async def test_a_bug_is_a_record_too(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recording(runtime_dir) as records:
        monkeypatch.setattr("gateway.openai.text.ChatText.units", lambda *_: 1 / 0)
        answer = await records.client.post(CHAT, json=chat())
        record = await records.next()
        assert (answer.status_code, record.status, record.outcome) == (500, 500, "internal_error")


async def test_a_load_without_an_answer_has_no_tokens(runtime_dir: Path) -> None:
    async with recording(runtime_dir) as records:
        asking = asyncio.create_task(records.client.post("/api/chat", json={"model": "org/tiny"}))
        request_id = (await records.broker.receive()).request_id
        loaded = {"model_id": "org/tiny", "model_type": "text-gen", "size_bytes": 1}
        await records.broker.outputs(Output(request_id, FINAL, loaded))
        await asking
        record = await records.next()
        assert (record.path, record.model, record.outcome, record.tokens) == ("/api/chat", "org/tiny", OK, Tokens())


def _at(records: Records) -> Gateway:
    return Gateway(port=records.client.base_url.port or 0)
