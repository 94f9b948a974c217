"""Transcriptions and translations over HTTP, by a broker that the test plays."""

import asyncio
import contextlib
import gzip
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import InferenceRequest
from gateway.core.audio import Transcript
from gateway.core.names import AliasSettings
from gateway.core.served import Served
from gateway.http.uploads import FOLDER
from gateway.openai.audio.formats import TEXTS, as_srt
from gateway.settings import Settings
from tests.gateway.openai.audio.playing import (
    AUDIO,
    BOUNDARY,
    END,
    FORM,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    bytes_of,
    eventually,
    expect_audio,
    have_heard,
    hear,
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


async def test_the_worker_finds_the_bytes_in_a_file_that_is_gone_after_the_answer(runtime_dir: Path) -> None:
    async with playing(runtime_dir) as (broker, client):
        asking = post(client, model="org/whisper", language="en", temperature="0")
        request_id, unit = await expect_audio(broker)
        assert bytes_of(unit) == AUDIO
        assert Path(unit.path).parent.parent == runtime_dir / FOLDER
        assert (unit.language, unit.temperature, unit.stream, unit.translate) == ("en", 0.0, False, False)
        await have_heard(broker, request_id)
        answer = await asking
        assert answer.status_code == 200
        assert answer.json() == {"text": "One.", "usage": {"type": "duration", "seconds": 2}}
        assert not is_there(unit)


@pytest.mark.parametrize(
    ("form", "media", "text"),
    [
        ("text", "text/plain; charset=utf-8", "One.\n"),
        ("srt", "text/plain; charset=utf-8", "1\n00:00:00,000 --> 00:00:01,000\nOne.\n\n"),
        ("vtt", "text/plain; charset=utf-8", "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nOne.\n\n"),
        ("verbose_json", "application/json", '{"task":"translate","language":"english"'),
    ],
)
async def test_every_form_of_an_answer(runtime_dir: Path, form: str, media: str, text: str) -> None:
    async with playing(runtime_dir) as (broker, client):
        asking = post(client, TRANSLATIONS, response_format=form, include="logprobs")
        request_id, unit = await expect_audio(broker)
        assert unit.translate
        await have_heard(broker, request_id)
        answer = await asking
        assert (answer.status_code, answer.headers["content-type"]) == (200, media)
        assert answer.text.startswith(text)
        assert answer.headers["x-mlx-broker-ignored"] == "include"


@pytest.mark.parametrize(("segments", "in_a_thread"), [(1, False), (5000, True)])
async def test_hours_of_speech_are_written_while_others_are_answered(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, segments: int, *, in_a_thread: bool
) -> None:
    threads: list[int] = []

    def noted(transcript: Transcript) -> str:
        threads.append(threading.get_ident())
        return as_srt(transcript)

    monkeypatch.setitem(TEXTS, "srt", noted)
    async with playing(runtime_dir) as (broker, client):
        asking = post(client, response_format="srt")
        request_id, _ = await expect_audio(broker)
        await have_heard(broker, request_id, segments=segments)
        assert (await asking).text.count(" --> ") == segments
    assert (threads != [threading.get_ident()]) is in_a_thread


async def test_segments_that_cannot_be_read_are_an_error_and_in_no_log(
    runtime_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with playing(runtime_dir) as (broker, client):
        for segments, status in ((1, 500), (0, 200)):
            asking = post(client, response_format="srt")
            request_id, _ = await expect_audio(broker)
            body = {
                "text": "a",
                "segments": ["secret"] * segments,
                "language": "en",
                "duration": 1.5,
                "completion_tokens": 2,
            }
            await broker.final(request_id, body)
            answer = await asking
            assert answer.status_code == status
            assert ("output that cannot be read" in answer.text) is (status == 500)
        assert uploaded(runtime_dir) == []
    assert "secret" not in caplog.text


def events_of(text: str) -> list[Any]:
    return [
        json.loads(line[6:]) if line != "data: [DONE]" else "DONE" for line in text.split("\n") if line[:5] == "data:"
    ]


async def test_a_stream(runtime_dir: Path) -> None:
    async with playing(runtime_dir) as (broker, client):
        asking = post(client, stream="true", response_format="text")
        request_id, unit = await expect_audio(broker)
        assert unit.stream
        for text in (" One", "", " two"):
            await hear(broker, request_id, text)
        await have_heard(broker, request_id, " three.")
        answer = await asking
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert events_of(answer.text) == [
            *({"type": "transcript.text.delta", "delta": text} for text in ("One", " two", " three.")),
            {
                "type": "transcript.text.done",
                "text": "One two three.",
                "usage": {"type": "duration", "seconds": 2},
            },
            "DONE",
        ]
        assert uploaded(runtime_dir) == []


async def test_a_silent_stream_has_comments_and_a_late_error_its_frame(runtime_dir: Path) -> None:
    async with playing(runtime_dir, keepalive_seconds=0.02) as (broker, client):
        upload: dict[str, Any] = {"data": {"stream": "true"}, "files": {"file": ("a.wav", AUDIO)}}
        asking = asyncio.create_task(client.send(client.build_request("POST", TRANSCRIPTIONS, **upload), stream=True))
        request_id, _ = await expect_audio(broker)
        await hear(broker, request_id, " One")
        text = ""
        async with asyncio.timeout(SECONDS), contextlib.aclosing(await asking) as answer:
            pieces = answer.aiter_text()
            while text.count(": keepalive\n\n") < 2:
                text += await anext(pieces)
            await broker.error(request_id, Failure(Code.WORKER_DIED, "it has died", retryable=True))
            text += "".join([piece async for piece in pieces])
        first, error, done = events_of(text)
        assert first["delta"] == "One"
        assert (error["error"]["code"], done) == ("worker_died", "DONE")
        assert uploaded(runtime_dir) == []


async def test_an_error_before_the_first_output_has_its_status_and_the_clients_name_of_the_field(
    runtime_dir: Path,
) -> None:
    async with playing(runtime_dir) as (broker, client):
        for fields in ({}, {"stream": "true"}):
            asking = post(client, **fields)
            request_id, unit = await expect_audio(broker)
            await broker.error(request_id, Failure(Code.INVALID_REQUEST, "words cannot be told here", "words"))
            answer = await asking
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "timestamp_granularities"
            assert answer.json()["error"]["message"].startswith("timestamp_granularities cannot")
            assert not is_there(unit)


BAD: list[tuple[str, dict[str, str], bytes, int, str | None]] = [
    ("json", {"content-type": "application/json"}, b'{"model": "a", "file": "b"}', 400, "file"),
    ("no type", {}, b"abc", 400, "file"),
    ("no boundary", {"content-type": "multipart/form-data"}, part("file", AUDIO) + END, 400, "file"),
    ("another boundary", FORM, part("file", AUDIO).replace(BOUNDARY, b"other"), 400, "file"),
    ("no end", FORM, part("file", AUDIO), 400, "file"),
    ("nothing", FORM, b"", 400, "file"),
    ("no file", FORM, part("model", b"a") + END, 400, "file"),
    ("0 bytes", FORM, part("file", b"") + END, 400, "file"),
    ("two files", FORM, part("file", AUDIO) * 2 + END, 400, "file"),
    ("two models", FORM, part("file", AUDIO) + part("model", b"a") * 2 + END, 400, "model"),
    ("no UTF-8", FORM, part("file", AUDIO) + part("prompt", b"\xff") + END, 400, "prompt"),
    ("no number", FORM, part("file", AUDIO) + part("temperature", b"hot") + END, 400, "temperature"),
    ("no flag", FORM, part("file", AUDIO) + part("stream", b"perhaps") + END, 400, "stream"),
    ("no format", FORM, part("file", AUDIO) + part("response_format", b"doc") + END, 400, "response_format"),
    ("a long prompt", FORM, part("file", AUDIO) + part("prompt", b"x" * 2**21) + END, 413, "prompt"),
    ("an unknown coding", FORM | {"content-encoding": "br"}, part("file", AUDIO) + END, 415, None),
    ("torn gzip", FORM | {"content-encoding": "gzip"}, gzip.compress(part("file", AUDIO) + END)[:-9], 400, None),
    ("a large file", FORM, part("file", b"x" * (4 * 2**20 + 1)) + END, 413, "file"),
    ("a larger file", FORM, part("file", b"x" * (9 * 2**20)) + END, 413, "file"),
]


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "chunked"])
async def test_bad_input_is_refused_by_name_and_leaves_nothing(runtime_dir: Path, *, chunked: bool) -> None:
    async with playing(runtime_dir, max_upload_mb=4) as (broker, client):

        async def pieces(body: bytes) -> AsyncIterator[bytes]:
            for start in range(0, len(body), 50_000):
                yield body[start : start + 50_000]

        for name, headers, body, status, param in BAD:
            content = pieces(body) if chunked else body
            answer = await client.post(TRANSCRIPTIONS, content=content, headers=headers)
            assert answer.status_code == status, (name, answer.text)
            error = answer.json()["error"]
            assert error["param"] == param, (name, error)
            assert "x-request-id" in answer.headers
            assert uploaded(runtime_dir) == [], name
        # The gateway has told the broker nothing of all these, and serves on.
        asking = post(client)
        request_id, _ = await expect_audio(broker)
        await have_heard(broker, request_id)
        assert (await asking).status_code == 200


async def test_a_model_must_be_named_where_there_is_no_default_one(runtime_dir: Path) -> None:
    async with playing(runtime_dir, default_model=None) as (_broker, client):
        answer = await client.post(TRANSCRIPTIONS, files={"file": AUDIO})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


async def test_the_type_and_name_that_a_client_gives_its_file_are_nothing(runtime_dir: Path) -> None:
    async with playing(runtime_dir) as (broker, client):
        files = {"file": ("../../etc/passwd", AUDIO, "text/html")}
        asking = asyncio.create_task(client.post(TRANSCRIPTIONS, files=files))
        request_id, unit = await expect_audio(broker)
        assert "passwd" not in unit.path
        assert bytes_of(unit) == AUDIO
        await have_heard(broker, request_id)
        assert (await asking).status_code == 200


async def test_an_upload_may_be_gzipped_and_as_large_as_the_limit(runtime_dir: Path) -> None:
    audio = AUDIO * 5
    async with playing(runtime_dir, max_upload_mb=len(audio) / 2**20) as (broker, client):
        body = gzip.compress(part("file", audio) + END)
        headers = FORM | {"content-encoding": "gzip"}
        asking = asyncio.create_task(client.post(TRANSCRIPTIONS, content=body, headers=headers))
        request_id, unit = await expect_audio(broker)
        assert bytes_of(unit) == audio
        await have_heard(broker, request_id)
        assert (await asking).status_code == 200


async def test_a_large_upload_is_on_the_disk_while_others_are_answered(runtime_dir: Path) -> None:
    """And no more than the limit is written."""
    arrived, answered = asyncio.Event(), asyncio.Event()

    def written() -> int:
        return sum(path.stat().st_size for path in uploaded(runtime_dir))

    async def pieces() -> AsyncIterator[bytes]:
        yield part("file", b"x" * 2**22)[:-2]
        await eventually(lambda: written() >= 2**22 - 2**18)
        arrived.set()
        async with asyncio.timeout(SECONDS):
            await answered.wait()
        yield b"x" * 2**22
        assert written() <= 2**22 + 2**20
        yield END

    async with playing(runtime_dir, max_upload_mb=5) as (broker, client):
        uploading = asyncio.create_task(client.post(TRANSCRIPTIONS, content=pieces(), headers=FORM))
        await arrived.wait()
        asking = post(client)
        request_id, _ = await expect_audio(broker)
        await have_heard(broker, request_id)
        assert (await asking).status_code == 200
        answered.set()
        answer = await uploading
        assert (answer.status_code, answer.json()["error"]["param"]) == (413, "file")
        assert uploaded(runtime_dir) == []


async def test_500_mb_are_refused_before_they_come(runtime_dir: Path) -> None:
    async with playing(runtime_dir) as (_broker, client):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: 500000000\r\n"
        writer.write(f"{head}Content-Type: {FORM['content-type']}\r\nExpect: 100-continue\r\n\r\n".encode())
        async with asyncio.timeout(SECONDS):
            answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"param":"file"' in answer
        assert uploaded(runtime_dir) == []


async def test_the_key_is_asked_for_before_a_byte_is_stored(runtime_dir: Path) -> None:
    async with playing(runtime_dir, api_key=SecretStr("k")) as (broker, client):
        assert (await post(client)).status_code == 401
        assert not (runtime_dir / FOLDER).exists()
        client.headers["authorization"] = "Bearer k"
        asking = post(client)
        request_id, _ = await expect_audio(broker)
        await have_heard(broker, request_id)
        assert (await asking).status_code == 200


async def test_aliases_the_record_and_the_id_of_a_request(runtime_dir: Path) -> None:
    records: list[Served] = []
    link = ScriptedLink(
        [{"text": " One.", "segments": [], "language": "en", "duration": 2.0, "completion_tokens": 9}],
        models=["org/tiny"],
    )
    aliases = {"whisper-1": AliasSettings(model="org/tiny")}
    settings = Settings(port=0, aliases=aliases)
    async with served(link, settings, observers=[records.append]) as client:
        answer = await client.post(
            TRANSCRIPTIONS, data={"model": "whisper-1"}, files={"file": AUDIO}, headers={"x-request-id": "mine"}
        )
        assert (answer.status_code, answer.headers["x-request-id"]) == (200, "mine")
        assert [one.model for one in link.asked if isinstance(one.body, InferenceRequest)] == ["org/tiny"]
    [served_one] = records
    assert (served_one.model, served_one.is_known, served_one.path) == ("org/tiny", True, TRANSCRIPTIONS)
    assert (served_one.is_inference, served_one.tokens.generated, served_one.outcome) == (True, 9, "ok")
