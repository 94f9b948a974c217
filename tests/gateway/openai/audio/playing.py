"""What a broker with an audio model says, for tests that play it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx

from broker.wire.from_gateways import InferenceRequest
from broker.wire.kinds import Task
from broker.wire.outputs import FINAL, PARTIAL, Output
from broker.wire.packing import unpack
from broker.wire.work import Speak, Transcribe
from gateway.http.uploads import FOLDER
from gateway.link.client import BrokerClient
from gateway.settings import Settings
from tests.gateway.document.answering import SEGMENT
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.served import served

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
SPEECH = "/v1/audio/speech"
AUDIO = b"RIFF" + bytes(range(256)) * 40

BOUNDARY = b"x7x7"
END = b"--%b--\r\n" % BOUNDARY
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}


def part(name: str, value: bytes) -> bytes:
    """One of a form."""
    return b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (BOUNDARY, name.encode(), value)


def post(client: httpx.AsyncClient, path: str = TRANSCRIPTIONS, **fields: Any) -> "asyncio.Task[httpx.Response]":
    """AUDIO with these fields."""
    return asyncio.create_task(client.post(path, data=fields, files={"file": ("a.wav", AUDIO)}))


@contextlib.asynccontextmanager
async def playing(runtime_dir: Path, **settings: Any) -> AsyncIterator[tuple[PlayedBroker, httpx.AsyncClient]]:
    """A broker that the test plays, and a client of a gateway that has met it."""
    places = {"runtime_dir": runtime_dir, "state_dir": runtime_dir}
    given = Settings(**{"port": 0, **places, "default_model": "org/tiny", **settings})
    async with PlayedBroker(runtime_dir) as broker, served(BrokerClient(given.broker_socket), given) as client:
        await broker.meet()
        yield broker, client


def uploaded(state_dir: Path) -> list[Path]:
    """The files of uploads that are there now."""
    return [path for path in (state_dir / FOLDER).rglob("*") if path.is_file()]


async def eventually(condition: Callable[[], object]) -> None:
    """Waits for it; AssertionError after some seconds."""
    for _ in range(int(SECONDS / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition did not come true")


async def no_upload_left(runtime_dir: Path) -> None:
    """Waits for it."""
    await eventually(lambda: not uploaded(runtime_dir))


def bytes_of(unit: Transcribe) -> bytes:
    """What the worker would read."""
    return Path(unit.path).read_bytes()


def is_there(unit: Transcribe) -> bool:
    """Whether the file is still there."""
    return Path(unit.path).exists()


async def expect_audio(broker: PlayedBroker) -> tuple[bytes, Transcribe]:
    """The next message, which must be a transcription."""
    request_id, request = await broker.expect(InferenceRequest)
    assert request.task == Task.TRANSCRIBE
    return request_id, unpack(Transcribe, request.payload)


async def expect_text(broker: PlayedBroker) -> tuple[bytes, Speak]:
    """The next message, which must be a text to speak."""
    request_id, request = await broker.expect(InferenceRequest)
    assert request.task == Task.SPEAK
    return request_id, unpack(Speak, request.payload)


async def hear(broker: PlayedBroker, request_id: bytes, text: str, seconds: float = 1.0) -> None:
    """A PARTIAL of a transcription."""
    await broker.outputs(Output(request_id, PARTIAL, {"text": text, "segments": [], "seconds": seconds}))


async def have_heard(broker: PlayedBroker, request_id: bytes, text: str = " One.", segments: int = 1) -> None:
    """Its FINAL."""
    body = {"text": text, "segments": [SEGMENT] * segments, "language": "en", "duration": 1.5, "completion_tokens": 2}
    await broker.outputs(Output(request_id, FINAL, body))


async def say(broker: PlayedBroker, request_id: bytes, audio: bytes, **more: Any) -> None:
    """A PARTIAL of speech."""
    await broker.outputs(Output(request_id, PARTIAL, {"audio": audio, **more}))


async def have_said(broker: PlayedBroker, request_id: bytes, audio: bytes = b"") -> None:
    """Its FINAL."""
    body = {"audio": audio, "seconds": 1.5, "prompt_tokens": 3, "completion_tokens": 7}
    await broker.outputs(Output(request_id, FINAL, body))
