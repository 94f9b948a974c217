"""Many pages that watch: hundreds of event streams, and logs of a process that floods them, beside a stream of tokens.
One of each is never read.
"""

import asyncio
import contextlib
from pathlib import Path

import pytest

from broker.wire.from_gateways import Cancel, Goodbye, InferenceRequest, Logs, Watch
from broker.wire.outputs import PARTIAL, Output
from tests.gateway.link.test_feed import change
from tests.gateway.played_broker import PlayedBroker
from tests.gateway.running import Connection, chat, connected, running_gateway

pytestmark = pytest.mark.anyio

STREAMS = 200
READERS = 50
LINES = ["y" * 200] * 250  # about as much as the broker puts into one output
LOG = b"GET /admin/models/org/loud/logs HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
EVENTS = b"GET /admin/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


async def watching(connection: Connection) -> None:
    connection.writer.write(EVENTS)
    await connection.read_until(b": watching\n\n")


async def test_two_hundred_event_streams_take_no_turn_from_tokens(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        pages = [await stack.enter_async_context(connected(gateway)) for _ in range(STREAMS)]
        opening = asyncio.gather(*map(watching, pages))
        watch, body = await broker.expect(Watch)
        assert body == Watch(None)
        await opening
        asleep, *awake = pages
        asleep.reader._transport.pause_reading()  # type: ignore[attr-defined] # a browser that sleeps
        chats = await stack.enter_async_context(connected(gateway))
        await chats.post("/v1/chat/completions", chat(stream=True))
        request_id, _ = await broker.expect(InferenceRequest)  # and no other WATCH came before
        for number in range(40):
            state = "ready" if number % 2 else "draining"
            await broker.outputs(Output(watch, PARTIAL, change("org/tiny", state, at=float(number))))
            await broker.partial(request_id, f"token{number}.")
            await chats.read_until(f"token{number}.".encode())  # before the next change
        await asyncio.gather(*(page.read_until(b'"at":39.0}\n\n') for page in awake))
        await broker.finish(request_id, "end")
        await chats.read_until(b"[DONE]")
        await stack.aclose()
        assert isinstance((await broker.receive()).body, Cancel | Goodbye)  # the one watch, when all have gone


async def test_readers_of_a_flooded_log_take_no_turn_from_tokens(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        followed = []
        readers = [await stack.enter_async_context(connected(gateway)) for _ in range(READERS)]
        for reader in readers:
            reader.writer.write(LOG)
            followed.append((await broker.expect(Logs))[0])
            await reader.read_until(b": following\n\n")
        asleep, *awake = readers
        asleep.reader._transport.pause_reading()  # type: ignore[attr-defined] # it never reads
        chats = await stack.enter_async_context(connected(gateway))
        await chats.post("/v1/chat/completions", chat(stream=True))
        request_id, _ = await broker.expect(InferenceRequest)
        for number in range(10):  # 25 MB
            said = [[1.5, 7, text] for text in (*LINES, f"the last of {number}")]
            for follower in followed:
                await broker.outputs(Output(follower, PARTIAL, {"lines": said}))
            await broker.partial(request_id, f"token{number}.")
            await chats.read_until(f"token{number}.".encode())  # behind one output of each at most
            await asyncio.gather(*(reader.read_until(f"the last of {number}".encode()) for reader in awake))
        await broker.finish(request_id, "end")
        await chats.read_until(b"[DONE]")
