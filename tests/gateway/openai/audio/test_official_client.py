"""OpenAI's own client for all routes of audio, by a broker that the test plays."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.audio import TranscriptionVerbose

from broker.wire.failure import Code, Failure
from tests.gateway.openai.audio.playing import (
    AUDIO,
    bytes_of,
    expect_audio,
    expect_text,
    have_heard,
    have_said,
    hear,
    playing,
    say,
)
from tests.gateway.played_broker import SECONDS, PlayedBroker

pytestmark = pytest.mark.anyio

FILE = ("speech.mp3", AUDIO)


@contextlib.asynccontextmanager
async def official(runtime_dir: Path) -> AsyncIterator[tuple[PlayedBroker, AsyncOpenAI]]:
    async with playing(runtime_dir, max_upload_mb=1) as (broker, http):
        url = f"{str(http.base_url).rstrip('/')}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=SECONDS) as client:
            yield broker, client


async def test_transcriptions_in_every_form(runtime_dir: Path) -> None:
    async with official(runtime_dir) as (broker, client):
        transcriptions = client.audio.transcriptions
        asking = asyncio.ensure_future(
            transcriptions.with_raw_response.create(
                model="whisper",
                file=FILE,
                language="en",
                prompt="Ada",
                temperature=0.2,
                include=["logprobs"],
                chunking_strategy={"type": "server_vad", "threshold": 0.5},
                known_speaker_names=["ada", "bob"],
                known_speaker_references=["data:audio/wav;base64,UklGRg==", "data:audio/wav;base64,UklGRw=="],
            )
        )
        request_id, unit = await expect_audio(broker)
        assert (bytes_of(unit), unit.language, unit.prompt, unit.temperature) == (AUDIO, "en", "Ada", 0.2)
        await have_heard(broker, request_id)
        raw = await asking
        ignored = "chunking_strategy, include, known_speaker_names, known_speaker_references"
        assert raw.headers["x-mlx-broker-ignored"] == ignored
        short = raw.parse()
        assert short.text == "One."
        assert short.usage is not None
        assert short.usage.type == "duration"
        assert short.usage.seconds == 2

        verbose = asyncio.create_task(
            transcriptions.create(
                model="whisper",
                file=FILE,
                response_format="verbose_json",
                timestamp_granularities=["word", "segment"],
            )
        )
        request_id, unit = await expect_audio(broker)
        assert unit.words
        await have_heard(broker, request_id)
        long: TranscriptionVerbose = await verbose
        assert (long.language, long.duration) == ("english", 1.5)
        assert long.words is not None
        assert long.segments is not None
        assert [(word.word, word.start, word.end) for word in long.words] == [("One.", 0.0, 1.0)]
        assert (long.segments[0].tokens, long.segments[0].avg_logprob) == ([1, 2], -0.5)

        subtitles = asyncio.create_task(transcriptions.create(model="whisper", file=FILE, response_format="srt"))
        request_id, _ = await expect_audio(broker)
        await have_heard(broker, request_id)
        assert await subtitles == "1\n00:00:00,000 --> 00:00:01,000\nOne.\n\n"


async def test_a_streamed_transcription(runtime_dir: Path) -> None:
    async with official(runtime_dir) as (broker, client):
        opening = asyncio.create_task(client.audio.transcriptions.create(model="whisper", file=FILE, stream=True))
        request_id, _ = await expect_audio(broker)
        await hear(broker, request_id, " One")
        async with await opening as stream:
            await hear(broker, request_id, " two")
            await have_heard(broker, request_id, " three.")
            events = [event async for event in stream]
        assert [event.type for event in events] == [*["transcript.text.delta"] * 3, "transcript.text.done"]
        assert [event.delta for event in events if event.type == "transcript.text.delta"] == ["One", " two", " three."]
        assert events[-1].type == "transcript.text.done"
        assert events[-1].text == "One two three."


async def test_a_translation(runtime_dir: Path) -> None:
    async with official(runtime_dir) as (broker, client):
        with pytest.deprecated_call():  # OpenAI itself has no model for it any more
            translating = client.audio.translations.create(model="whisper", file=FILE)
        asking = asyncio.create_task(translating)
        request_id, unit = await expect_audio(broker)
        assert unit.translate
        await have_heard(broker, request_id)
        assert (await asking).text == "One."


async def test_speech_whole_and_streamed(runtime_dir: Path) -> None:
    async with official(runtime_dir) as (broker, client):
        asking = asyncio.create_task(client.audio.speech.create(model="tts", voice="anna", input="Hi", speed=1.5))
        request_id, unit = await expect_text(broker)
        assert (unit.voice, unit.speed, unit.encoding) == ("anna", 1.5, "mp3")
        await say(broker, request_id, b"one ")
        await have_said(broker, request_id, b"two")
        assert (await asking).content == b"one two"

        speaking = client.audio.speech.with_streaming_response.create(
            model="tts", voice={"id": "anna"}, input="Hi", response_format="pcm"
        )
        opening = asyncio.create_task(speaking.__aenter__())
        request_id, unit = await expect_text(broker)
        assert (unit.voice, unit.encoding) == ("anna", "pcm")
        await say(broker, request_id, b"one ", sample_rate=24000)
        answer = await opening
        pieces = answer.iter_bytes()
        assert answer.headers["content-type"] == "audio/pcm;rate=24000"
        assert await anext(pieces) == b"one "  # before the rest is spoken
        await have_said(broker, request_id, b"two")
        assert [piece async for piece in pieces] == [b"two"]
        await speaking.__aexit__(None, None, None)


async def test_its_exceptions(runtime_dir: Path) -> None:
    async with official(runtime_dir) as (broker, client):
        with pytest.raises(openai.BadRequestError) as empty:
            await client.audio.transcriptions.create(model="whisper", file=("a.wav", b""))
        assert empty.value.param == "file"
        with pytest.raises(openai.APIStatusError) as large:
            await client.audio.transcriptions.create(model="whisper", file=("a.wav", bytes(2**21)))
        assert (large.value.status_code, large.value.param) == (413, "file")
        asking = asyncio.create_task(client.audio.transcriptions.create(model="whisper", file=("a.txt", b"Hello")))
        request_id, _ = await expect_audio(broker)
        await broker.error(request_id, Failure(Code.INVALID_REQUEST, "file is not audio", "file"))
        with pytest.raises(openai.BadRequestError) as text:
            await asking
        assert (text.value.param, text.value.code) == ("file", "invalid_request")
        with pytest.raises(openai.BadRequestError) as opus:
            await client.audio.speech.create(model="tts", voice="anna", input="Hi", response_format="opus")
        assert opus.value.param == "response_format"
