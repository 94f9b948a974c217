"""Transcription with Whisper, compared with mlx-audio's `generate` on the same file, token for token."""

from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import soundfile

from broker.wire.failure import Code
from broker.wire.packing import pack
from broker.wire.work import Speak, Transcribe, Voices
from tests.tiny_audio import HESITANT, make_tiny_whisper, write_sound
from tests.worker.audio.transcription_runs import assert_same, expected, load, streamed, transcribe
from tests.worker.stepping import refusal, steps
from worker.audio.transcription import TranscriptionEngine

# Models whose windows have several segments, and whose windows need several attempts.
STEADY, FREE = "steady", "free"
SLOW = partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("whisper")
    return {
        STEADY: make_tiny_whisper(top / STEADY),
        FREE: make_tiny_whisper(top / FREE, **HESITANT),
    }


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_whisper(tmp_path_factory.mktemp("whisper") / "many", multilingual=True, context=12)


@cache
def engine_of(folder: Path) -> TranscriptionEngine:
    return load(folder)


@pytest.mark.parametrize(("name", "rate"), [("a.wav", 16_000), ("a.flac", 44_100), SLOW("a.mp3", 16_000)])
def test_the_tokens_are_those_of_mlx_audio(folders: dict[str, Path], tmp_path: Path, name: str, rate: int) -> None:
    file = write_sound(tmp_path / name, 35, rate=rate, channels=2)
    final = transcribe(engine_of(folders[STEADY]), file)
    assert len({segment["seek"] for segment in final["segments"]}) > 1
    assert_same(final, expected(folders[STEADY], file))
    assert final["completion_tokens"] == sum(len(segment["tokens"]) for segment in final["segments"]) > 5
    assert final["duration"] == pytest.approx(35, abs=0.1)


def test_attempts_draw_what_mlx_audio_draws_whoever_else_draws(folders: dict[str, Path], tmp_path: Path) -> None:
    """Two requests take turns: each has its own random numbers."""
    engine = engine_of(folders[FREE])
    files = [write_sound(tmp_path / f"{number}.wav", 31, seed=number) for number in range(2)]
    for number, file in enumerate(files):
        engine.add(bytes([number]), pack(Transcribe(str(file))))
    finals = {output.request_id: output.body for output in steps(engine)}
    for number, file in enumerate(files):
        said = expected(folders[FREE], file)
        assert max(segment["temperature"] for segment in said.segments) > 0
        assert_same(finals[bytes([number])], said)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"prompt": "a name"}, {"initial_prompt": "a name"}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"words": True}, {"word_timestamps": True}),
        ({"temperature": 0.0, "language": "English"}, {"language": "en"}),
    ],
)
def test_fields_mean_what_they_mean_to_mlx_audio(
    folders: dict[str, Path], tmp_path: Path, fields: dict[str, Any], options: dict[str, Any]
) -> None:
    file = write_sound(tmp_path / "a.wav", 12)
    final = transcribe(engine_of(folders[STEADY]), file, **fields)
    assert_same(final, expected(folders[STEADY], file, asked=Transcribe("", **fields), **options))
    assert ("words" in final["segments"][0]) == ("words" in fields)


@pytest.mark.parametrize(
    ("fields", "options"),
    [SLOW({}, {}), ({"language": "German", "translate": True}, {"language": "de", "task": "translate"})],
)
def test_a_model_of_many_languages(many: Path, tmp_path: Path, fields: dict[str, Any], options: dict[str, Any]) -> None:
    file = write_sound(tmp_path / "a.wav", 1)
    final = transcribe(engine_of(many), file, **fields)
    assert_same(final, expected(many, file, asked=Transcribe("", **fields), **options))


def test_a_stream_tells_each_window_once_and_says_how_far_it_is(folders: dict[str, Path], tmp_path: Path) -> None:
    engine, file = engine_of(folders[STEADY]), write_sound(tmp_path / "a.wav", 65)
    whole = transcribe(engine, file)
    partials, final = streamed(engine, file)
    assert len(partials) > 2
    assert "".join(partial["text"] for partial in partials) + final["text"] == whole["text"]
    segments = [segment for partial in partials for segment in partial["segments"]] + final["segments"]
    assert segments == whole["segments"]
    seconds = [partial["seconds"] for partial in partials]
    assert seconds == sorted(seconds)
    assert seconds[0] < 35
    assert seconds[-1] == 65


def test_silence_is_no_text(folders: dict[str, Path], tmp_path: Path) -> None:
    """A file that is shorter than a frame has no window."""
    file = tmp_path / "a.wav"
    soundfile.write(file, np.zeros(100, np.float32), 16_000)
    assert transcribe(engine_of(folders[STEADY]), file)["text"] == ""


@pytest.mark.parametrize("words", [False, True])
def test_a_window_that_ends_where_it_began_is_left(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, words: bool
) -> None:
    """Its last two marks are both of its beginning: heard again, it would say the same."""
    engine = load(folders[STEADY])
    transcriber: Any = engine._model
    begin = transcriber._tokenizer("en", "transcribe").timestamp_begin
    said = {"avg_logprob": -0.1, "no_speech_prob": 0.0, "compression_ratio": 1.0, "temperature": 0.0}

    def decode(window: mx.array, _options: Any) -> Any:
        return SimpleNamespace(tokens=[begin, 5, begin, begin], audio_features=window, **said)

    def no_time(*, segments: list[dict[str, Any]], **_: Any) -> None:
        for segment in segments:
            end = segment["seek"] / 100 + 0.004  # behind the beginning by less than a frame
            segment["words"] = [{"word": "a", "start": segment["start"], "end": end, "probability": 1.0}]

    monkeypatch.setattr(transcriber._model, "decode", decode)
    monkeypatch.setattr("worker.audio.whisper.add_word_timestamps", no_time)
    final = transcribe(engine, write_sound(tmp_path / "a.wav", 61), words=words)
    assert [segment["seek"] for segment in final["segments"]] == [0, 3000, 6000]
    assert final["text"] == ""


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"language": "xx"}, "language"),
        ({"language": "de"}, "language"),
        ({"translate": True}, "model"),
        ({"temperature": 1.5}, "temperature"),
    ],
)
def test_what_an_english_model_cannot_do(
    folders: dict[str, Path], tmp_path: Path, fields: dict[str, Any], param: str
) -> None:
    failure = refusal(engine_of(folders[STEADY]), Transcribe(str(write_sound(tmp_path / "a.wav", 1)), **fields))
    assert (failure.code, failure.param) == (Code.INVALID_REQUEST, param)


@pytest.mark.parametrize("other", [Speak("hello"), Voices()])
def test_a_model_that_transcribes_does_not_speak(folders: dict[str, Path], other: Any) -> None:
    failure = refusal(engine_of(folders[STEADY]), other)
    assert (failure.code, failure.param) == (Code.INVALID_REQUEST, "model")
    assert "cannot speak" in failure.message
