"""Uploads over HTTP that are slow, too many, or have no place; by a broker that the test plays."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.wire.failure import Code, FailureError
from gateway.core.pauses import Pauses
from gateway.core.served import Served
from gateway.http import errors, receiving, uploads
from gateway.http.streaming import unless
from gateway.settings import Settings
from tests.gateway.openai.audio.playing import (
    AUDIO,
    END,
    FORM,
    TRANSCRIPTIONS,
    bytes_of,
    expect_audio,
    have_heard,
    is_there,
    part,
    playing,
    post,
    uploaded,
)
from tests.gateway.played_broker import SECONDS
from tests.gateway.served import served
from tests.gateway.test_second_link import ScriptedLink

pytestmark = pytest.mark.anyio

HEARD = {"text": " One.", "segments": [], "language": "en", "duration": 2.0, "completion_tokens": 9}


async def test_an_upload_that_stands_still_ends_and_one_that_is_slow_does_not(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room that it had is free then."""
    monkeypatch.setattr(receiving, "PAUSE_SECONDS", 1.1)
    monkeypatch.setattr(errors, "LINGER_SECONDS", 0.05)
    monkeypatch.setattr(uploads, "AT_ONCE", 1)
    audio = AUDIO * 10
    form = part("file", audio) + END
    head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM['content-type']}\r\n"

    async def slowly() -> AsyncIterator[bytes]:
        for start in range(0, len(form), len(form) // 4):
            await asyncio.sleep(0.3)  # longer than the deadline in all
            yield form[start : start + len(form) // 4]

    async with playing(runtime_dir, max_upload_mb=len(audio) / 2**20) as (broker, client):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(f"{head}Content-Length: {len(form)}\r\n\r\n".encode() + form[:-100])
        async with asyncio.timeout(SECONDS):
            answer = await reader.read()  # to the end of the connection
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"param":"file","code":"request_timeout"' in answer
        assert uploaded(runtime_dir) == []
        asking = asyncio.create_task(client.post(TRANSCRIPTIONS, content=slowly(), headers=FORM))
        request_id, unit = await expect_audio(broker)
        assert bytes_of(unit) == audio
        await have_heard(broker, request_id)
        assert (await asking).status_code == 200


async def test_an_upload_that_drips_ends_and_is_counted(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room that it had is free then."""
    monkeypatch.setattr(receiving, "PAUSE_SECONDS", 0.3)
    monkeypatch.setattr(uploads, "AT_ONCE", 1)
    head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM['content-type']}\r\n"

    async def drip(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)  # far within the pauses that it has

    records: list[Served] = []
    link = ScriptedLink([HEARD], models=["org/tiny"])
    settings = Settings(port=0, state_dir=runtime_dir, default_model="org/tiny", max_upload_mb=len(AUDIO) / 2**20)
    async with served(link, settings, observers=[records.append]) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(f"{head}Content-Length: {len(AUDIO) + 2000}\r\n\r\n".encode() + part("file", AUDIO[:-1000])[:-2])
        dripping = asyncio.create_task(drip(writer))
        async with asyncio.timeout(SECONDS):
            answer = await reader.readuntil(b"}}")
        dripping.cancel()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"param":"file","code":"request_timeout"' in answer
        assert uploaded(runtime_dir) == []
        assert (await post(client)).status_code == 200
    assert [(one.outcome, one.is_inference) for one in records] == [("request_timeout", True), ("ok", True)]


class Sender:
    """A client that sends a byte after so many seconds of a clock that the test turns."""

    def __init__(self, pause: float) -> None:
        self.now = 1000.0
        self._pause = pause

    async def _send(self) -> AsyncIterator[bytes]:
        while True:
            self.now += self._pause
            yield b"x"

    def timely(self) -> AsyncIterator[bytes]:
        return receiving.timely(self._send(), Pauses(most=60, rate=500), "file", lambda: self.now)


async def test_pauses_end_an_upload_by_its_name() -> None:
    chunks = Sender(pause=31).timely()
    assert await anext(chunks) == b"x"
    with pytest.raises(FailureError, match="file comes too slowly") as end:
        await anext(chunks)
    assert (end.value.failure.code, end.value.failure.param) == (Code.REQUEST_TIMEOUT, "file")


async def test_work_on_an_upload_takes_none_of_its_time() -> None:
    sender = Sender(pause=0)
    chunks = sender.timely()
    for _ in range(10):
        assert await anext(chunks) == b"x"
        sender.now += 59


FORMAT = "response_format"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("temperature", b"hot")], "temperature"),
        ([("model", b"a"), ("model", b"b")], "model"),
        ([("prompt", b"\xff")], "prompt"),
        ([("stream", b"true"), (FORMAT, b"srt")], FORMAT),
        ([(FORMAT, b"text"), ("timestamp_granularities[]", b"word")], "timestamp_granularities"),
    ],
)
async def test_a_mistake_before_the_file_is_refused_before_the_file_comes(
    runtime_dir: Path, fields: list[tuple[str, bytes]], param: str
) -> None:
    head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM['content-type']}\r\n"
    begun = b"".join(part(name, value) for name, value in fields) + part("file", b"RIFF")[:-2]
    async with playing(runtime_dir) as (_broker, client):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(f"{head}Content-Length: 200000000\r\n\r\n".encode() + begun)
        async with asyncio.timeout(SECONDS):
            answer = await reader.readuntil(b"}}")
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert f'"param":"{param}"'.encode() in answer
        assert uploaded(runtime_dir) == []


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        (("timestamp_granularities[]", b"word"), (FORMAT, b"verbose_json")),
        (("stream", b"true"), (FORMAT, b"text")),
        (("chunking_strategy[type]", b"auto"), ("language", b"en")),
    ],
)
async def test_what_the_fields_behind_the_file_may_make_right_is_none(
    runtime_dir: Path, before: tuple[str, bytes], behind: tuple[str, bytes]
) -> None:
    async with playing(runtime_dir) as (broker, client):
        form = part(*before) + part("file", AUDIO) + part(*behind) + END
        asking = asyncio.create_task(client.post(TRANSCRIPTIONS, content=form, headers=FORM))
        request_id, unit = await expect_audio(broker)
        assert bytes_of(unit) == AUDIO
        await have_heard(broker, request_id)
        assert (await asking).status_code == 200


async def test_what_others_take_is_a_429_that_says_when_to_come_again(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "AT_ONCE", 1)
    async with playing(runtime_dir, max_upload_mb=1.5 * len(AUDIO) / 2**20) as (broker, client):
        first = post(client)
        request_id, unit = await expect_audio(broker)
        refused = await post(client)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert uploaded(runtime_dir) == [Path(unit.path)]
        await have_heard(broker, request_id)
        assert (await first).status_code == 200
        again = post(client)
        request_id, _ = await expect_audio(broker)
        await have_heard(broker, request_id)
        assert (await again).status_code == 200
    assert uploaded(runtime_dir) == []


async def test_without_a_place_for_it_an_upload_is_a_507_and_all_else_is_served(runtime_dir: Path) -> None:
    place = runtime_dir / "state" / uploads.FOLDER
    place.parent.mkdir()
    place.write_text("a file")
    async with playing(runtime_dir, state_dir=place.parent) as (broker, client):
        refused = await post(client)
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "insufficient_storage")
        assert (await client.get("/openapi.json")).status_code == 200
        place.unlink()
        asking = post(client)
        request_id, unit = await expect_audio(broker)
        assert Path(unit.path).is_relative_to(place)
        await have_heard(broker, request_id)
        assert (await asking).status_code == 200
        assert not is_there(unit)


async def test_a_disk_that_becomes_full_is_a_507_that_leaves_nothing(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with playing(runtime_dir) as (broker, client):
        asking = post(client)
        request_id, unit = await expect_audio(broker)
        monkeypatch.setattr(uploads, "FREE_BYTES", 2**80)
        refused = await post(client)
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "insufficient_storage")
        assert uploaded(runtime_dir) == [Path(unit.path)]
        await have_heard(broker, request_id)
        assert (await asking).status_code == 200


async def test_a_file_is_removed_when_nothing_writes_to_it_any_more() -> None:
    """What is cancelled has ended before the error of its end is raised."""
    has_ended = False

    async def write() -> None:
        nonlocal has_ended
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            has_ended = True

    async def stop() -> Exception:
        return ZeroDivisionError()

    with pytest.raises(ZeroDivisionError):
        await unless(write(), stop())
    assert has_ended
