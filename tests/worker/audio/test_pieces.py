"""Families other than Whisper, on pieces of a file."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from mlx_audio.stt import load as load_directly
from mlx_audio.stt.utils import load_audio

from broker.wire.failure import Code
from broker.wire.work import Transcribe
from tests.tiny_audio import make_tiny_moonshine, sound, write_sound
from tests.worker.audio.transcription_runs import load, streamed, transcribe
from tests.worker.stepping import refusal
from worker.audio.pieces import quietest
from worker.audio.transcription import TranscriptionEngine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_moonshine(tmp_path_factory.mktemp("moonshine"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> TranscriptionEngine:
    return load(folder)


def test_a_short_file_is_what_mlx_audio_says(engine: TranscriptionEngine, folder: Path, tmp_path: Path) -> None:
    file = write_sound(tmp_path / "a.flac", 3, rate=44_100)
    model: Any = load_directly(folder)
    said = model.generate(str(file))
    final = transcribe(engine, file, language="en", prompt="a hint that this family does not take")
    assert said.text
    assert final["text"] == said.text
    assert final["completion_tokens"] == said.generation_tokens > 0
    (segment,) = final["segments"]
    assert (segment["start"], segment["end"], segment["text"]) == (0, pytest.approx(3, abs=0.01), said.text)


def test_a_long_file_is_heard_in_pieces(engine: TranscriptionEngine, folder: Path, tmp_path: Path) -> None:
    file = write_sound(tmp_path / "a.wav", 33)
    partials, final = streamed(engine, file)
    segments = [segment for partial in partials for segment in partial["segments"]]
    assert [segment["id"] for segment in segments] == [0, 1]
    assert all(25 <= segment["end"] - segment["start"] <= 30 for segment in segments[:1])
    assert [segment["start"] for segment in segments] == [0, segments[0]["end"]]
    assert segments[-1]["end"] == final["duration"] == 33
    samples, model = np.array(load_audio(str(file))), load_directly(folder)
    texts = [
        model.generate(mx.array(samples[round(segment["start"] * 16_000) : round(segment["end"] * 16_000)])).text
        for segment in segments
    ]
    assert [segment["text"] for segment in segments] == texts
    assert "".join(partial["text"] for partial in partials) + final["text"] == " ".join(texts)


def test_a_piece_is_cut_where_it_is_quietest() -> None:
    piece = np.abs(sound(30)) + np.float32(0.5)
    piece[27 * 16_000 : 27 * 16_000 + 1600] = 0.1
    piece[3 * 16_000 : 4 * 16_000] = 0
    assert quietest(piece) == 27 * 16_000 + 800


@pytest.mark.parametrize(("fields", "param"), [({"translate": True}, "model"), ({"words": True}, "words")])
def test_what_other_families_cannot_do(
    engine: TranscriptionEngine, tmp_path: Path, fields: dict[str, Any], param: str
) -> None:
    failure = refusal(engine, Transcribe(str(write_sound(tmp_path / "a.wav", 1)), **fields))
    assert (failure.code, failure.param) == (Code.INVALID_REQUEST, param)


@pytest.mark.parametrize(("samples", "words"), [(1, 0), (1599, 0), (1600, 1), (6400, 1)])
def test_a_sound_of_less_than_a_second_is_heard_with_silence_behind_it(
    engine: TranscriptionEngine, folder: Path, tmp_path: Path, samples: int, words: int
) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, sound(1)[:samples], 16_000)
    final = transcribe(engine, file)
    assert final["duration"] == samples / 16_000
    assert len(final["segments"]) == words
    padded: Any = np.pad(np.array(load_audio(str(file))), (0, 16_000 - samples))
    assert final["text"] == (load_directly(folder).generate(mx.array(padded)).text if words else "")
    assert all(0 == segment["start"] < segment["end"] <= samples / 16_000 for segment in final["segments"])


def test_so_is_what_is_left_of_a_long_file(engine: TranscriptionEngine, tmp_path: Path) -> None:
    samples = np.concatenate((np.full(30 * 16_000 - 100, 0.5, np.float32), np.zeros(200, np.float32)))
    file = tmp_path / "a.wav"
    soundfile.write(file, samples, 16_000)
    partials, final = streamed(engine, file)
    segments = [segment for partial in [*partials, final] for segment in partial["segments"]]
    assert [segment["end"] for segment in segments] == [30 - 0.05]
    assert final["duration"] == len(samples) / 16_000


@pytest.mark.slow
def test_memory_is_that_of_one_piece_whatever_the_length(folder: Path, tmp_path: Path) -> None:
    fixed = load(folder, share=2**40).room.plan.fixed
    engine = load(folder, share=fixed, limit=fixed)
    assert transcribe(engine, write_sound(tmp_path / "a.wav", 31))["duration"] == 31
