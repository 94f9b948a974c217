"""The access line: what it says, and that it can be turned off."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import InferenceRequest, Logs
from broker.wire.outputs import FINAL, PARTIAL, Output
from gateway.http.access import log_access
from gateway.link.client import BrokerClient
from gateway.settings import Settings
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import chat
from tests.gateway.served import served

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
END = {"text": "!", "finish_reason": "stop", "prompt_tokens": 12, "completion_tokens": 2, "cached_tokens": 5}


class Lines(logging.Handler):
    """The access lines, as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._records: asyncio.Queue[logging.LogRecord] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self._records.put_nowait(record)

    async def next(self) -> tuple[str, dict[str, Any]]:
        async with asyncio.timeout(SECONDS):
            record = await self._records.get()
        return record.getMessage(), vars(record)

    @property
    def is_empty(self) -> bool:
        return self._records.empty()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, logger="access")
    handler = Lines()
    logging.getLogger("access").addHandler(handler)
    yield handler
    logging.getLogger("access").removeHandler(handler)


def settings_for(runtime_dir: Path, **fields: Any) -> Settings:
    return Settings(port=0, runtime_dir=runtime_dir, default_model="org/tiny", **fields)


async def test_a_stream(runtime_dir: Path, lines: Lines) -> None:
    settings = settings_for(runtime_dir)
    async with PlayedBroker(runtime_dir) as broker, served(BrokerClient(settings.broker_socket), settings) as client:
        await broker.meet()
        asking = asyncio.create_task(client.post(f"{CHAT}?key=secret", json=chat(stream=True)))
        request_id, _ = await broker.expect(InferenceRequest)
        await broker.outputs(Output(request_id, PARTIAL, {"text": "Hello"}))
        await broker.outputs(Output(request_id, FINAL, END))
        await asking
        message, fields = await lines.next()
        words = message.split()
        assert words[:5] == ["POST", CHAT, "200", "ok", "org/tiny"]
        assert " prompt 12 (5 cached), completion 2 tokens ttft 0." in message
        assert "secret" not in message
        assert fields["status"] == 200
        assert (fields["prompt_tokens"], fields["cached_tokens"], fields["completion_tokens"]) == (12, 5, 2)
        assert 0 < fields["ttft_seconds"] <= fields["duration_seconds"] < SECONDS

        asking = asyncio.create_task(
            client.send(client.build_request("POST", CHAT, json=chat(stream=True)), stream=True)
        )
        request_id, _ = await broker.expect(InferenceRequest)
        await broker.outputs(Output(request_id, PARTIAL, {"text": "Hello"}))
        answer = await asking  # it has begun
        await broker.error(request_id, Failure(Code.WORKER_DIED, "it died"))
        await answer.aread()
        message, _ = await lines.next()
        assert message.startswith(f"POST {CHAT} 200 worker_died org/tiny prompt 0, completion 1 tokens ttft ")


async def test_a_stream_of_events_or_lines_has_no_tokens(runtime_dir: Path, lines: Lines) -> None:
    settings = settings_for(runtime_dir)
    async with PlayedBroker(runtime_dir) as broker, served(BrokerClient(settings.broker_socket), settings) as client:
        await broker.meet()
        asking = asyncio.create_task(client.get("/admin/models/org/tiny/logs?follow=false"))
        await broker.final((await broker.expect(Logs))[0], {"lines": [[1.5, 7, "a"], [1.5, 7, "b"]]})
        await asking
        message, fields = await lines.next()
        assert message.startswith("GET /admin/models/org/tiny/logs 200 ok duration ")
        assert not {"prompt_tokens", "completion_tokens", "ttft_seconds"} & fields.keys()


async def test_errors_and_names_that_clients_invent(runtime_dir: Path, lines: Lines) -> None:
    settings = settings_for(runtime_dir, api_key="key")
    async with (
        PlayedBroker(runtime_dir, models=["org/tiny"]) as broker,
        served(BrokerClient(settings.broker_socket), settings) as client,
    ):
        await broker.meet()
        await client.get(CHAT, headers={"authorization": "Bearer sk-wrong"})
        assert (await lines.next())[0].startswith(f"GET {CHAT} 401 invalid_api_key duration ")
        await client.post(CHAT, json=chat(), headers={"authorization": "Bearer sk-wrong"})
        message, _ = await lines.next()
        assert message.startswith(f"POST {CHAT} 401 invalid_api_key duration ")
        await client.get("/" + "x" * 5000)
        assert (await lines.next())[0].startswith("GET /" + "x" * 199 + " 404 not_found duration ")
        key = {"authorization": "Bearer key"}
        asking = asyncio.create_task(client.post(CHAT, json=chat(model="a secret name"), headers=key))
        request_id, _ = await broker.expect(InferenceRequest)
        await broker.error(request_id, Failure(Code.MODEL_NOT_FOUND, "no model named 'a secret name'"))
        await asking
        message, fields = await lines.next()
        assert message.startswith(f"POST {CHAT} 404 model_not_found duration ")
        assert fields["model"] is None


async def test_it_can_be_turned_off(runtime_dir: Path, lines: Lines) -> None:
    settings = settings_for(runtime_dir, access_log=False)
    async with PlayedBroker(runtime_dir) as broker, served(BrokerClient(settings.broker_socket), settings) as client:
        await broker.meet()
        assert (await client.get("/nothing")).status_code == 404
    assert lines.is_empty


def test_it_is_on_by_default_and_a_level_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    from gateway.core.served import Served

    assert Settings().access_log
    with caplog.at_level(logging.WARNING, logger="access"):
        log_access(Served("GET", 0.0))
    assert caplog.records == []
