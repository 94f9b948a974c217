"""Uploads over HTTP that are slow, too many, or have no place; by a broker that the test plays."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.http import receiving, uploads
from tests.gateway.openai.audio.playing import (
    AUDIO,
    END,
    FORM,
    TRANSCRIPTIONS,
    bytes_of,
    expect_audio,
    have_heard,
    part,
    playing,
    uploaded,
)
from tests.gateway.played_broker import SECONDS

pytestmark = pytest.mark.anyio


async def test_an_upload_that_stands_still_ends_and_one_that_is_slow_does_not(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room that it had is free then."""
    monkeypatch.setattr(receiving, "SILENT_SECONDS", 0.6)
    monkeypatch.setattr(uploads, "AT_ONCE", 1)
    audio = AUDIO * 10
    form = part("file", audio) + END
    head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM['content-type']}\r\n"

    async def slowly() -> AsyncIterator[bytes]:
        for start in range(0, len(form), len(form) // 4):
            await asyncio.sleep(0.16)  # longer than the deadline in all
            yield form[start : start + len(form) // 4]

    async with playing(runtime_dir, max_upload_mb=len(audio) / 2**20) as (broker, client):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(f"{head}Content-Length: {len(form)}\r\n\r\n".encode() + form[:-100])
        async with asyncio.timeout(SECONDS):
            answer = await reader.read()  # to the end of the connection
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in answer
        assert uploaded(runtime_dir) == []
        asking = asyncio.create_task(client.post(TRANSCRIPTIONS, content=slowly(), headers=FORM))
        request_id, unit = await expect_audio(broker)
        assert bytes_of(unit) == audio
        await have_heard(broker, request_id)
        assert (await asking).status_code == 200
