"""Speech through gateway, broker and worker, as OpenAI's own client asks for it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import httpx2
import miniaudio
import openai
import pytest
from openai import OpenAI

from tests.service import Service
from tests.tiny_models import make_tiny_model
from tests.tiny_speech import VOICES, make_tiny_pocket
from tests.worker.audio.speech_runs import SECONDS, SENTENCES, TEXT, directly

pytestmark = pytest.mark.slow

RATE = 8000  # mp3, which clients get unless they ask for another, has no lower one


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_pocket(folder / "speaks", rate=RATE)
    make_tiny_model(folder / "text")
    return folder


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[Service]:
    with Service(models) as service:
        yield service


def test_every_format_holds_what_mlx_audio_speaks(client: OpenAI, models: Path) -> None:
    samples = directly(models / "speaks", SENTENCES[:1], voice="marius")
    for encoding in ("wav", "flac", "pcm", "mp3"):
        answer = client.audio.speech.create(
            model="speaks", voice="marius", input=SENTENCES[0], response_format=encoding, extra_body={"seed": 7}
        )
        if encoding == "pcm":
            assert answer.content == samples
            continue
        sound = miniaudio.decode(answer.content, nchannels=1, sample_rate=RATE)
        assert sound.sample_rate == RATE
        if encoding == "mp3":
            assert SECONDS <= len(sound.samples) / RATE < SECONDS + 1
        else:
            assert sound.samples.tobytes() == samples


def test_the_first_bytes_come_before_the_whole_is_spoken(service: Service, client: OpenAI) -> None:
    service.load("speaks").raise_for_status()  # which takes longer than to speak
    began = monotonic()
    with client.audio.speech.with_streaming_response.create(
        model="speaks", voice="alba", input=f"{TEXT} " * 8, response_format="pcm"
    ) as answer:
        times = [monotonic() - began for _ in answer.iter_bytes(1024)]
    assert times[0] < times[-1] / 3


def test_voices_are_listed(service: Service) -> None:
    answer = httpx2.get(f"{service.url}/v1/audio/voices", params={"model": "speaks"}).json()
    assert [voice["id"] for voice in answer["voices"]] == list(VOICES)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"voice": "alloy"}, "voice"),
        ({"voice": "/etc/passwd"}, "voice"),
        ({"input": ""}, "input"),
        ({"input": " "}, "input"),
        ({"input": "x" * 100_000}, "input"),
        ({"speed": 1.5}, "speed"),
        ({"instructions": "Whisper."}, "instructions"),
        ({"response_format": "opus"}, "response_format"),
        ({"model": "text"}, "model"),
    ],
)
def test_a_bad_request_is_refused_by_the_name_of_its_field(
    client: OpenAI, fields: dict[str, str | float], param: str
) -> None:
    body: dict[str, object] = {"model": "speaks", "voice": "alba", "input": "Hi there.", "response_format": "wav"}
    with pytest.raises(openai.BadRequestError) as error:
        client.post("/audio/speech", body=body | fields, cast_to=object)
    assert error.value.param == param


def test_a_killed_process_ends_its_own_streams_alone(client: OpenAI, service: Service) -> None:
    text = {"model": "text", "prompt": "Hi", "max_tokens": 4}
    client.post("/completions", body=text, cast_to=object)
    with client.audio.speech.with_streaming_response.create(
        model="speaks", voice="alba", input=f"{TEXT} " * 20, response_format="pcm"
    ) as answer:
        pieces = answer.iter_bytes(1024)
        next(pieces)
        os.kill(service.model("speaks")["pid"], signal.SIGKILL)
        with pytest.raises(httpx2.RemoteProtocolError):
            for _ in pieces:
                pass
    client.post("/completions", body=text, cast_to=object)
    again = client.audio.speech.create(model="speaks", voice="alba", input=SENTENCES[0], response_format="pcm")
    assert len(again.content) == SECONDS * 2 * RATE


def test_a_client_that_leaves_frees_the_model(client: OpenAI, service: Service) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="speaks", voice="alba", input=f"{TEXT} " * 100, response_format="pcm"
    ) as answer:
        next(answer.iter_bytes(1024))
    again = client.audio.speech.create(model="speaks", voice="alba", input=SENTENCES[0], response_format="pcm")
    assert len(again.content) == SECONDS * 2 * RATE
