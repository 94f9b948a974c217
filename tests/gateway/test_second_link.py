"""Other links, added without an edit in gateway/: two brokers behind one, and one that answers from a script."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.wire.failure import Code, Failure, FailureError
from broker.wire.from_gateways import InferenceRequest, Models, Resolve
from broker.wire.paths import GATEWAY_SOCKET
from gateway.core.ask import Ask
from gateway.link.call import Call, T
from gateway.link.client import BrokerClient
from tests.gateway.played_broker import PlayedBroker, ending, meant
from tests.gateway.running import MODEL
from tests.gateway.served import served

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


class TwoBrokers:
    """A Link: models whose name begins with `far/` are the second broker's, all else is the first one's."""

    def __init__(self, near: BrokerClient, far: BrokerClient) -> None:
        self._near, self._far = near, far
        self.connected = near.connected

    def open(self) -> None:
        self._near.open()
        self._far.open()

    def close(self) -> None:
        self._near.close()
        self._far.close()

    async def call(self, *asks: Ask[T]) -> Call[T]:
        is_far = all((ask.model or "").startswith("far/") for ask in asks)
        return await (self._far if is_far else self._near).call(*asks)

    def refuse(self, failure: Failure) -> None:
        self._near.refuse(failure)
        self._far.refuse(failure)

    async def refused(self) -> FailureError:
        return await self._near.refused()


class ScriptedLink:
    """A Link without a broker: every unit of work gets these bodies, the last one as its FINAL. models: those that it
    has, None for whatever is asked for."""

    def __init__(
        self, bodies: Sequence[dict[str, Any]], failure: Failure | None = None, models: Sequence[str] | None = None
    ) -> None:
        self.models = models
        self.asked: list[Ask[Any]] = []
        self.connected = asyncio.Event()
        self._stopped = asyncio.Event()
        self._bodies = bodies
        self._failure = failure

    def open(self) -> None:
        self.connected.set()

    def close(self) -> None:
        self.connected.clear()

    async def call(self, *asks: Ask[T]) -> Call[T]:
        call: Call[T] = Call(len(asks), lambda _call, _failure: None)
        for index, ask in enumerate(asks):
            if isinstance(ask.body, Resolve):
                call.end(index, ask.final(meant(ask.body, self.models)))
                continue
            self.asked.append(ask)
            *partials, final = self._bodies
            for body in partials:
                if (output := ask.partial(body)) is not None:
                    call.put(index, output)
            call.end(index, self._failure or ask.final(final))
        call.flush()
        return call

    def refuse(self, failure: Failure) -> None:
        self._stopped.set()

    async def refused(self) -> FailureError:
        await self._stopped.wait()
        return FailureError(Failure(Code.BROKER_UNAVAILABLE, "the script is over"))


@pytest.fixture
def far_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mlxb-") as directory:
        yield Path(directory)


async def test_two_brokers_behind_one_link(runtime_dir: Path, far_dir: Path) -> None:
    async with PlayedBroker(runtime_dir) as near, PlayedBroker(far_dir) as far:
        link = TwoBrokers(BrokerClient(runtime_dir / GATEWAY_SOCKET), BrokerClient(far_dir / GATEWAY_SOCKET))
        async with served(link) as client:
            await near.meet()
            await far.meet()
            for broker, model in ((near, "org/tiny"), (far, "far/tiny")):
                asking = asyncio.create_task(client.post("/v1/chat/completions", json={**CHAT, "model": model}))
                request_id, request = await broker.expect(InferenceRequest)
                assert request.model == model
                await broker.finish(request_id, model)
                assert (await asking).json()["choices"][0]["message"]["content"] == model
            asking = asyncio.create_task(client.get("/v1/models"))
            await near.final((await near.expect(Models))[0], {"models": [MODEL]})
            assert [model["id"] for model in (await asking).json()["data"]] == ["org/tiny"]

            # The far one dies in the middle of a stream; the near one's stream goes on.
            def stream(model: str) -> "asyncio.Task[httpx.Response]":
                body = {**CHAT, "model": model, "stream": True}
                return asyncio.create_task(client.post("/v1/chat/completions", json=body))

            near_stream, far_stream = stream("org/tiny"), stream("far/tiny")
            near_id, _ = await near.expect(InferenceRequest)
            await near.partial(near_id, "One")
            await far.partial((await far.expect(InferenceRequest))[0], "One")
            far.close()
            assert "broker_unavailable" in (await far_stream).text
            await near.finish(near_id, " two")
            whole = (await near_stream).text
            assert '" two"' in whole
            assert "error" not in whole


@pytest.mark.parametrize("stream", [False, True])
async def test_a_link_without_a_broker(stream: bool) -> None:
    link = ScriptedLink([{"text": "One"}, ending(" two")] if stream else [ending("One two")])
    async with served(link) as client:
        answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": stream, "n": 2})
        assert answer.status_code == 200
        if stream:
            assert answer.text.count('"content":"One two"') == 2
            assert answer.text.endswith("data: [DONE]\n\n")
        else:
            assert [choice["message"]["content"] for choice in answer.json()["choices"]] == ["One two"] * 2
    assert [ask.model for ask in link.asked] == ["org/tiny"] * 2


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_its_failures_are_those_of_any_link(path: str) -> None:
    link = ScriptedLink([ending()], Failure(Code.INVALID_REQUEST, "json_schema is odd", "json_schema"))
    async with served(link) as client:
        for stream in (False, True):
            answer = await client.post(path, json={**CHAT, "prompt": "Hi", "stream": stream})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, "response_format")
            assert error["message"] == "response_format is odd"
