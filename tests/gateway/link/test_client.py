import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from broker.wire.clock import Clock
from broker.wire.failure import Code, Failure, FailureError
from broker.wire.frames import VERSION
from broker.wire.from_gateways import Cancel, Goodbye, InferenceRequest, Status
from broker.wire.from_peers import Heartbeat, Hello
from broker.wire.outputs import ACK_EVERY, ERROR, FINAL, PARTIAL, Output, Outputs
from broker.wire.paths import GATEWAY_SOCKET
from broker.wire.to_workers import Shutdown
from broker.wire.work import Generate
from gateway.core.answer import Delta, End
from gateway.core.ask import Ask, generate_stream, generate_whole
from gateway.link import client as broker_client
from gateway.link import connection
from gateway.link.call import MAX_WAITING_BYTES, CallClosedError
from gateway.link.client import BrokerClient
from tests.gateway.link.client_runs import opened, take, take_all
from tests.gateway.played_broker import SECONDS, PlayedBroker, ending

pytestmark = pytest.mark.anyio

# Work whose outputs are read as the maps that came.
RAW: Ask[dict[str, Any]] = Ask(None, Status(), dict, dict)
STREAM = generate_stream("m", Generate(prompt="Hi", stream=True))
WHOLE = generate_whole("m", Generate(prompt="Hi"))


def failure_of(item: tuple[int, object]) -> Failure:
    assert isinstance(item[1], Failure)
    return item[1]


def failure_code(item: tuple[int, object]) -> str:
    return failure_of(item).code


async def test_a_gateway_says_hello_with_an_identity_of_its_own(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir) as broker, opened(runtime_dir) as client:
        assert await broker.meet() == client.identity
        assert len(client.identity) == 8
        assert BrokerClient(runtime_dir / GATEWAY_SOCKET).identity != client.identity


async def test_outputs_reach_the_call_that_waits_for_them(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir) as broker, opened(runtime_dir) as client:
        await broker.meet()
        one, two = await client.call(RAW), await client.call(RAW, RAW)
        ids = [(await broker.expect(Status))[0] for _ in range(3)]
        await broker.outputs(
            Output(ids[2], PARTIAL, {"text": "c"}),
            Output(ids[0], PARTIAL, {"text": "a"}),
            Output(ids[1], FINAL, {"text": "b"}),
        )
        assert await take(one) == [(0, {"text": "a"})]
        assert await take(two) == [(1, {"text": "c"}), (0, {"text": "b"})]
        await broker.outputs(Output(ids[2], ERROR, {"code": "worker_died", "message": "gone"}))
        assert await take(two) == [(1, Failure(Code.WORKER_DIED, "gone"))]
        assert not two.pending
        assert list(one.pending) == [ids[0]]


async def test_many_outputs_arrive_once_each_and_in_order(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir) as broker, opened(runtime_dir) as client:
        await broker.meet()
        calls = [await client.call(RAW) for _ in range(20)]
        ids = [(await broker.expect(Status))[0] for _ in calls]
        for step in range(500):
            kind = FINAL if step == 499 else PARTIAL
            await broker.outputs(*(Output(request_id, kind, {"step": step}) for request_id in ids))
        for call in calls:
            assert [body["step"] for _, body in await take_all(call, 500) if isinstance(body, dict)] == list(range(500))


async def test_a_closed_call_is_cancelled_at_the_broker_and_its_late_outputs_are_ignored(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir) as broker, opened(runtime_dir) as client:
        await broker.meet()
        call = await client.call(RAW, RAW)
        first, second = [(await broker.expect(Status))[0] for _ in range(2)]
        await broker.final(first, {})
        await take(call)
        waiting = asyncio.create_task(take(call))
        await asyncio.sleep(0)
        call.close()
        with pytest.raises(CallClosedError):
            await waiting
        assert (await broker.expect(Cancel))[0] == second
        await broker.partial(second, "late")
        await broker.error(second, Failure(Code.CANCELLED, "the client has gone"))
        other = await client.call(RAW)
        await broker.final((await broker.expect(Status))[0], {"ok": True})
        assert await take(other) == [(0, {"ok": True})]


async def test_the_requests_of_one_call_are_one_message(runtime_dir: Path) -> None:
    """If they have the same model; each ends, and is cancelled, alone."""
    asks = [generate_whole("m", Generate(prompt=prompt)) for prompt in ("one", "two", "three")]
    async with PlayedBroker(runtime_dir) as broker, opened(runtime_dir) as client:
        await broker.meet()
        call = await client.call(*asks)
        got = [await broker.expect_work() for _ in asks]
        assert [work.prompt for _, work in got] == ["one", "two", "three"]
        assert broker.together == [3]
        (first, _), (second, _), (third, _) = got
        await broker.finish(second, "2")
        assert [index for index, _ in await take(call)] == [1]
        call.close()
        assert [(await broker.expect(Cancel))[0] for _ in range(2)] == [first, third]
        await client.call(asks[0])
        await client.call(asks[1], generate_whole("another", Generate(prompt="four")))
        models = [(await broker.expect(InferenceRequest))[1].model for _ in range(3)]
        assert models == ["m", "m", "another"]
        assert broker.together == [3]


async def test_malformed_messages_are_dropped_and_logged(runtime_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with PlayedBroker(runtime_dir) as broker, opened(runtime_dir) as client:
        gateway = await broker.meet()
        call = await client.call(RAW)
        request_id, _ = await broker.expect(Status)
        for frames in ([b""], [b"junk"] * 4, [VERSION, b"NONSENSE", b"", b""], [VERSION, b"HEARTBEAT", b"", b"\xc1"]):
            await broker.say(gateway, *frames)
        await broker.say_body(gateway, Shutdown())  # well formed, but not for a gateway
        await broker.final(request_id, {"ok": True})
        assert await take(call) == [(0, {"ok": True})]
        assert caplog.text.count("dropped") == 5


async def test_a_request_whose_end_cannot_be_read_ends_nevertheless(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir) as broker, opened(runtime_dir) as client:
        gateway = await broker.meet()
        call, other = await client.call(RAW), await client.call(RAW)
        request_id, _ = await broker.expect(Status)
        await broker.say(gateway, VERSION, Outputs.COMMAND, request_id + bytes((FINAL,)), b"\xc1")
        [item] = await take(call)
        assert failure_code(item) == "internal_error"
        assert other.pending


async def test_without_a_broker_a_call_is_refused_after_the_first_seconds_at_once(runtime_dir: Path) -> None:
    async with opened(runtime_dir) as client:
        began = time.monotonic()
        with pytest.raises(FailureError):
            await client.call(RAW)
        assert time.monotonic() - began < broker_client.STARTUP_GRACE + 2.0
        waits = []
        for _ in range(3):  # the machine may stall in one of them
            began = time.monotonic()
            with pytest.raises(FailureError):
                await client.call(RAW)
            waits.append(time.monotonic() - began)
        assert min(waits) < 1.0, waits


async def test_a_call_in_the_first_seconds_waits_for_the_broker(runtime_dir: Path) -> None:
    async with opened(runtime_dir) as client:
        calling = asyncio.create_task(client.call(RAW))
        await asyncio.sleep(0)
        async with PlayedBroker(runtime_dir) as broker:
            await broker.meet()
            request_id, _ = await broker.expect(Status)
            await broker.final(request_id, {})
            assert await take(await calling) == [(0, {})]


async def test_a_broker_that_goes_ends_every_call_and_a_new_one_is_greeted(runtime_dir: Path) -> None:
    async with opened(runtime_dir) as client:
        for _ in range(3):
            async with PlayedBroker(runtime_dir) as broker:
                assert await broker.meet() == client.identity
                answered, open_one = await client.call(RAW), await client.call(RAW, RAW)
                await broker.final((await broker.expect(Status))[0], {})
                assert await take(answered) == [(0, {})]
                await broker.partial((await broker.expect(Status))[0], "a")
                assert await take(open_one) == [(0, {"text": "a"})]
            items = await take(open_one)
            assert [failure_code(item) for item in items] == ["broker_unavailable"] * 2
            assert failure_of(items[0]).retryable is True
            assert not client.connected.is_set()
            with pytest.raises(FailureError):
                async with asyncio.timeout(SECONDS):
                    await client.call(RAW)


async def test_a_silent_broker_counts_as_gone_until_it_speaks(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PlayedBroker(runtime_dir, heartbeats=False) as broker, opened(runtime_dir) as client:
        gateway = await broker.meet()
        call = await client.call(RAW)
        request_id, _ = await broker.expect(Status)
        began = time.monotonic()
        monkeypatch.setattr(connection, "HEARTBEAT_TIMEOUT", 0.3)  # not before: it may not be over meanwhile
        client._connection._look_for_silence(0.0)
        [item] = await take(call)
        assert failure_code(item) == "broker_unavailable"
        assert 0.29 <= time.monotonic() - began < 3.0  # a timer may be early by its resolution
        client._grace_ends_at = 0.0
        with pytest.raises(FailureError):
            await client.call(RAW)
        # Once it reads its socket again it gets the cancel, and the greeting of the gateway.
        assert (await broker.expect(Cancel))[0] == request_id
        await broker.expect(Hello)
        await broker.say_body(gateway, Heartbeat())
        async with asyncio.timeout(SECONDS):
            await client.connected.wait()


async def test_heartbeats_keep_a_quiet_call(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEARTBEAT_TIMEOUT", 2.5)
    async with PlayedBroker(runtime_dir, heartbeats=False) as broker, opened(runtime_dir) as client:
        gateway = await broker.meet()
        call = await client.call(RAW)
        request_id, _ = await broker.expect(Status)
        for _ in range(35):
            await broker.say_body(gateway, Heartbeat())
            await asyncio.sleep(0.1)  # a heart beats in time; there is no condition to wait for
        await broker.final(request_id, {})
        assert await take(call) == [(0, {})]


async def test_a_loop_whose_clock_counts_sleep_ends_no_call(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop's on macOS. After the sleep, the timer of the gateway may come before the next message of the broker."""
    async with PlayedBroker(runtime_dir, heartbeats=False) as broker, opened(runtime_dir) as client:
        await broker.meet()
        call = await client.call(RAW)
        request_id, _ = await broker.expect(Status)
        loop = asyncio.get_running_loop()
        began = loop.time()
        monkeypatch.setattr(loop, "time", lambda: began + 3600.0)
        client._connection._on_time()
        assert (client.connected.is_set(), list(call.pending)) == (True, [request_id])
        await broker.final(request_id, {"ok": True})
        assert await take(call) == [(0, {"ok": True})]


async def test_after_a_pause_of_everything_the_broker_has_its_time_anew(runtime_dir: Path) -> None:
    now = 1000.0
    async with PlayedBroker(runtime_dir, heartbeats=False) as broker:
        client = BrokerClient(runtime_dir / GATEWAY_SOCKET, Clock(lambda: now))
        client.open()
        await broker.meet()
        call = await client.call(RAW)
        await broker.expect(Status)
        look = client._connection._on_time
        look()
        for _ in range(4):  # the broker is silent for most of its time
            now += 1.0
            look()
        now += 3600.0
        look()
        for _ in range(4):
            now += 1.0
            look()
        assert client.connected.is_set()
        assert call.pending
        now += 1.0
        look()
        assert not client.connected.is_set()
        assert failure_code((await take(call))[0]) == "broker_unavailable"
        client.close()


async def test_a_call_that_is_not_read_is_cancelled(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir) as broker, opened(runtime_dir) as client:
        await broker.meet()
        lazy, busy = await client.call(STREAM), await client.call(STREAM)
        lazy_id, busy_id = [(await broker.expect_work())[0] for _ in range(2)]
        text = "x" * (MAX_WAITING_BYTES // 8)
        for _ in range(8):
            await broker.outputs(Output(lazy_id, PARTIAL, {"text": text}), Output(busy_id, PARTIAL, {"text": text}))
            assert await take(busy) == [(0, Delta(text))]
        assert (await broker.expect(Cancel))[0] == lazy_id
        [item] = await take(lazy)
        assert failure_code(item) == "cancelled"
        assert "slowly" in failure_of(item).message
        assert busy.pending


async def test_a_long_answer_that_is_not_streamed_does_not_count_as_unread(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir) as broker, opened(runtime_dir) as client:
        await broker.meet()
        call = await client.call(WHOLE)
        text = "x" * (2 * MAX_WAITING_BYTES)
        await broker.finish((await broker.expect_work())[0], text, "length", tokens=7)
        assert await take(call) == [(0, End(Delta(text), "length", 5, 7, 2))]


async def test_a_stopping_gateway_ends_its_calls_and_takes_no_more(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir) as broker:
        async with opened(runtime_dir) as client:
            await broker.meet()
            call = await client.call(RAW)
            request_id, _ = await broker.expect(Status)
            client.refuse(Failure(Code.BROKER_UNAVAILABLE, "stopping"))
            assert [failure_of(item).message for item in await take(call)] == ["stopping"]
            assert (await broker.expect(Cancel))[0] == request_id
            with pytest.raises(FailureError, match="stopping"):
                await client.call(RAW)
        await broker.expect(Goodbye)


async def test_outputs_are_acknowledged(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir, heartbeats=False) as broker, opened(runtime_dir) as client:
        gateway = await broker.meet()
        call = await client.call(RAW)
        request_id, _ = await broker.expect(Status)
        for _ in range(ACK_EVERY + 3):
            await broker.partial(request_id, "x")
        for _ in range(2):  # at the second beat there is nothing new to say
            await broker.say_body(gateway, Heartbeat())
        await broker.outputs(Output(request_id, FINAL, {}))
        await take_all(call, ACK_EVERY + 4)
        await client.call(RAW)
        await broker.expect(Status)
        assert broker.read == [ACK_EVERY, ACK_EVERY + 3]


_STOPPED_BROKER = """
import sys
import zmq
router = zmq.Context().socket(zmq.ROUTER)
router.bind(sys.argv[1])
while True:
    router.recv_multipart()
    print("message", flush=True)
"""


async def test_requests_to_a_broker_that_is_stopped_are_cancelled_when_it_goes_on(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"ipc://{runtime_dir / GATEWAY_SOCKET}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _STOPPED_BROKER, endpoint, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with opened(runtime_dir) as client, asyncio.timeout(3 * SECONDS):
            await client.connected.wait()
            assert await process.stdout.readline() == b"message\n"  # HELLO
            os.kill(process.pid, signal.SIGSTOP)
            calls = [await client.call(RAW) for _ in range(3000)]  # more than any high-water mark
            monkeypatch.setattr(connection, "HEARTBEAT_TIMEOUT", 0.5)  # not before: it may not be over meanwhile
            client._connection._look_for_silence(0.0)
            assert {failure_code((await take(call))[0]) for call in calls} == {"broker_unavailable"}
            os.kill(process.pid, signal.SIGCONT)
            for _ in range(6000):  # each request and its CANCEL
                assert await process.stdout.readline() == b"message\n"
    finally:
        process.kill()
        await process.communicate()


async def test_outputs_are_decoded_where_they_arrive(runtime_dir: Path) -> None:
    async with PlayedBroker(runtime_dir) as broker, opened(runtime_dir) as client:
        await broker.meet()
        call = await client.call(STREAM, STREAM)
        first, second = [(await broker.expect_work())[0] for _ in range(2)]
        await broker.partial(first, "One")
        assert await take(call) == [(0, Delta("One"))]
        await broker.finish(first, " two")
        assert await take(call) == [(0, End(Delta(" two"), "stop", 5, 3, 2))]
        await broker.outputs(Output(second, PARTIAL, {"text": 2}))
        [item] = await take(call)
        assert (item[0], failure_code(item)) == (1, "internal_error")
        assert "text" in failure_of(item).message
        assert (await broker.expect(Cancel))[0] == second


@pytest.mark.parametrize(
    ("kind", "body"), [(FINAL, {"text": "no counts"}), (ERROR, {"message": 1}), (ERROR, {"code": "odd", "message": ""})]
)
async def test_an_end_that_cannot_be_read_is_an_end(runtime_dir: Path, kind: int, body: dict[str, Any]) -> None:
    async with PlayedBroker(runtime_dir) as broker, opened(runtime_dir) as client:
        await broker.meet()
        call, other = await client.call(WHOLE), await client.call(WHOLE)
        request_id, other_id = [(await broker.expect_work())[0] for _ in range(2)]
        await broker.outputs(Output(request_id, kind, body), Output(other_id, FINAL, ending("ok")))
        assert failure_code((await take(call))[0]) == "internal_error"
        assert await take(other) == [(0, End(Delta("ok"), "stop", 5, 3, 2))]
        assert not call.pending
        await client.call(WHOLE)
        await broker.expect(InferenceRequest)  # and no Cancel of what has ended
