"""Audio with real models of noise: OpenAI's own client, all forms, bad input; a text model is not disturbed."""

import io
import itertools
import os
import threading
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from broker.wire.work import Transcribe
from gateway.http.uploads import FOLDER
from tests.conftest import ECHO
from tests.end_to_end.openai_clients import client_of
from tests.service import Service, Stream, wait_until
from tests.tiny_audio import make_tiny_whisper, write_sound
from tests.tiny_speech import POCKET_RATE, VOICES, make_tiny_pocket
from tests.worker.audio.transcription_runs import expected

MOST_SECONDS = 70


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whisper`, `many` (which hears many languages), `pocket`: tiny models."""
    folder = tmp_path_factory.mktemp("audio")
    make_tiny_whisper(folder / "whisper")
    make_tiny_whisper(folder / "many", multilingual=True, context=12)
    make_tiny_pocket(folder / "pocket")
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    models = {
        "whisper": {"options": {"max_seconds": MOST_SECONDS}},
        "echo": {**ECHO, "options": {"delay_seconds": 0.02}},
    }
    with Service(folder, {"models": models, "gateway": {"max_upload_mb": 4}}) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with client_of(service, timeout=60.0) as client:
        yield client


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two windows of Whisper's."""
    return write_sound(tmp_path_factory.mktemp("sounds") / "speech.flac", 32)


def uploaded(service: Service) -> list[Path]:
    return [path for path in (service.directory / "state" / FOLDER).rglob("*") if path.is_file()]


def test_every_form_says_the_same(service: Service, client: OpenAI, speech: Path) -> None:
    asked: dict[str, Any] = {"model": "whisper", "file": speech, "language": "en", "temperature": 0}
    text = client.audio.transcriptions.create(**asked).text
    assert text
    assert client.audio.transcriptions.create(**asked, response_format="text") == f"{text}\n"
    verbose = client.audio.transcriptions.create(
        **asked, response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert (verbose.text, verbose.language) == (text, "english")
    assert verbose.duration == pytest.approx(32, abs=0.1)
    assert "".join(segment.text for segment in verbose.segments).strip() == text
    srt = client.audio.transcriptions.create(**asked, response_format="srt")
    vtt = client.audio.transcriptions.create(**asked, response_format="vtt")
    said = [segment for segment in verbose.segments if segment.text.strip()]
    assert srt.count(" --> ") == vtt.count(" --> ") == len(said)
    events = list(client.audio.transcriptions.create(**asked, stream=True))
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) >= 2
    assert "".join(deltas).strip() == text
    assert events[-1].type == "transcript.text.done"
    wait_until(lambda: not uploaded(service), what="no upload left")


def test_a_translation_is_that_of_mlx_audio_and_no_transcript(folder: Path, client: OpenAI, speech: Path) -> None:
    asked: dict[str, Any] = {"model": "many", "file": speech}
    said = expected(folder / "many", speech, Transcribe("", translate=True), task="translate")
    with pytest.deprecated_call():
        translation = client.audio.translations.create(**asked, response_format="verbose_json")
        text = client.audio.translations.create(**asked).text
    assert text == translation.text == said.text.strip()
    assert translation.language == "english"
    assert translation.duration == pytest.approx(32, abs=0.1)
    assert translation.segments is not None
    told = [(segment.text, segment.tokens) for segment in translation.segments]
    assert told == [(segment["text"], segment["tokens"]) for segment in said.segments]
    assert client.audio.transcriptions.create(**asked).text not in ("", text)


def test_a_model_that_hears_english_only_translates_nothing(client: OpenAI, speech: Path) -> None:
    with pytest.deprecated_call(), pytest.raises(openai.BadRequestError) as refused:
        client.audio.translations.create(model="whisper", file=speech)
    assert refused.value.param == "model"


def test_speech(service: Service, client: OpenAI) -> None:
    voices = service.client.get("/v1/audio/voices", params={"model": "pocket"}).json()["voices"]
    assert [voice["id"] for voice in voices] == list(VOICES)
    said: dict[str, Any] = {"model": "pocket", "voice": VOICES[1], "input": "Good morning. How are you? Well."}
    wav = client.audio.speech.create(**said, response_format="wav").content
    with wave.open(io.BytesIO(wav)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (POCKET_RATE, 1, 2)
    raw = service.client.post("/v1/audio/speech", json={**said, "response_format": "pcm"})
    assert raw.headers["content-type"] == f"audio/pcm;rate={POCKET_RATE}"
    assert len(raw.content) > 1000
    assert client.audio.speech.create(**said, response_format="flac").content.startswith(b"fLaC")


def claiming(flac: bytes, seconds: int) -> bytes:
    """The file with another number of samples in its STREAMINFO: 36 bits behind those of rate, channels and bits."""
    facts = int.from_bytes(flac[18:26])
    return flac[:18] + (facts >> 36 << 36 | (facts >> 44) * seconds).to_bytes(8) + flac[26:]


def bad_files(folder: Path) -> list[tuple[str, bytes]]:
    long = write_sound(folder / "long.flac", MOST_SECONDS + 5).read_bytes()
    short = write_sound(folder / "short.wav", 1).read_bytes()
    flac = write_sound(folder / "short.flac", 1).read_bytes()
    return [
        ("0 bytes", b""),
        ("no audio", b"%PDF-1.7 and so on" * 100),
        ("a text", b"Hello"),
        ("zeros", bytes(100_000)),
        ("noise", os.urandom(100_000)),
        ("a torn header", short[:20]),
        ("too long", long),
        ("a liar", b"ID3" + bytes(2000)),
        ("a torn flac", flac[: len(flac) // 2]),
        ("a header that claims two days", claiming(flac, 48 * 3600)),
    ]


@pytest.mark.slow
def test_bad_input_is_refused_by_name_and_disturbs_nobody(service: Service, client: OpenAI, tmp_path: Path) -> None:
    """A text model answers somebody else all the while, without a loss or a long wait."""
    words = " ".join(f"word{number}" for number in range(50))
    whole = service.chat("echo", words, max_tokens=40).json()["choices"][0]["message"]["content"]
    service.client.get("/v1/audio/voices", params={"model": "pocket"})
    client.audio.transcriptions.create(model="whisper", file=write_sound(tmp_path / "ok.wav", 1))
    before = {name: service.model(name)["pid"] for name in ("whisper", "pocket", "echo")}
    answers: list[Stream] = []
    is_over = threading.Event()

    def talk() -> None:
        while not is_over.is_set():
            with service.stream("echo", words, max_tokens=40) as stream:
                answers.append(stream)
                stream.finish()

    talking = threading.Thread(target=talk)
    talking.start()
    wait_until(lambda: answers and answers[0].text, what="the first word")
    for name, data in bad_files(tmp_path):
        with pytest.raises(openai.BadRequestError) as refused:
            client.audio.transcriptions.create(model="whisper", file=(f"{name}.wav", data, "text/html"))
        assert refused.value.param == "file", (name, refused.value.message)
    many = write_sound(tmp_path / "many.wav", 1, channels=32).read_bytes()
    answer = service.client.post("/v1/audio/transcriptions", data={"model": "whisper"}, files={"file": many})
    assert answer.status_code == 200 or answer.json()["error"]["param"] == "file", answer.text
    with pytest.raises(openai.APIStatusError) as large:
        client.audio.transcriptions.create(model="whisper", file=bytes(5 << 20))
    assert (large.value.status_code, large.value.param) == (413, "file")
    for fields, param in (
        ({"input": "x" * 100_000}, "input"),
        ({"voice": "nobody"}, "voice"),
        ({"response_format": "opus"}, "response_format"),
        ({"model": "whisper"}, "model"),
    ):
        said: dict[str, Any] = {"model": "pocket", "voice": VOICES[0], "input": "Hi", **fields}
        with pytest.raises(openai.BadRequestError) as unsaid:
            client.audio.speech.create(**said)
        assert unsaid.value.param == param, unsaid.value.message
    with pytest.raises(openai.BadRequestError) as deaf:
        client.audio.transcriptions.create(model="pocket", file=tmp_path / "ok.wav")
    assert deaf.value.param == "model"
    assert talking.is_alive()
    is_over.set()
    talking.join(60)
    assert {(answer.text, answer.finish_reason, answer.done) for answer in answers} == {(whole, "length", True)}
    times = [at for answer in answers for at in answer.times]
    assert max(later - at for at, later in itertools.pairwise(times)) < 2
    assert {name: service.model(name)["pid"] for name in before} == before
    wait_until(lambda: not uploaded(service), what="no upload left")
    assert client.audio.transcriptions.create(model="whisper", file=tmp_path / "ok.wav").text is not None


@pytest.mark.slow
def test_a_death_in_the_middle_is_not_seen_and_the_file_is_there_for_the_next_process(
    service: Service, client: OpenAI, tmp_path: Path
) -> None:
    file = write_sound(tmp_path / "long.flac", MOST_SECONDS - 5)
    asked: dict[str, Any] = {"model": "whisper", "file": file, "temperature": 0, "language": "en"}
    expected = client.audio.transcriptions.create(**asked).text
    pid = service.model("whisper")["pid"]
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(client.audio.transcriptions.create(**asked).text))
    asking.start()
    wait_until(lambda: service.model("whisper")["in_flight"] == 1, what="the request in the worker")
    os.kill(pid, 9)
    assert answers == []
    asking.join(60)
    assert answers == [expected]
    assert service.model("whisper")["pid"] != pid
    wait_until(lambda: not uploaded(service), what="no upload left")
