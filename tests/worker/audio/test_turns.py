"""Requests to one model: turns, cancels, memory."""

from pathlib import Path

import pytest

from broker.wire.failure import Code
from broker.wire.outputs import ERROR, FINAL
from broker.wire.packing import pack
from broker.wire.work import Transcribe
from tests.tiny_audio import make_tiny_whisper, write_sound
from tests.worker.audio.transcription_runs import load, transcribe
from tests.worker.stepping import MOST_STEPS, refusal, steps
from worker.audio.transcription import TranscriptionEngine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> TranscriptionEngine:
    return load(folder)


def test_a_short_request_does_not_wait_for_a_long_one(engine: TranscriptionEngine, tmp_path: Path) -> None:
    long, short = write_sound(tmp_path / "long.wav", 100), write_sound(tmp_path / "short.wav", 5)
    engine.add(b"long", pack(Transcribe(str(long))))
    for _ in range(12):  # its file has been read, and windows follow
        engine.step()
    engine.add(b"short", pack(Transcribe(str(short))))
    ends: list[bytes] = []
    own = 0
    for _ in range(MOST_STEPS):
        own += not ends
        ends += [output.request_id for output in engine.step()]
        if not engine.has_work:
            break
    assert ends == [b"short", b"long"]
    # Between two steps of its own there was one of the other.
    alone = 0
    engine.add(b"short", pack(Transcribe(str(short))))
    for _ in range(MOST_STEPS):
        alone += 1
        engine.step()
        if not engine.has_work:
            break
    assert own <= 2 * alone


def test_a_request_that_is_cancelled_leaves_nothing(engine: TranscriptionEngine, tmp_path: Path) -> None:
    file = write_sound(tmp_path / "a.wav", 40)
    for steps_before in (0, 1, 6):
        engine.add(b"r", pack(Transcribe(str(file))))
        for _ in range(steps_before):
            engine.step()
        assert engine.stats().live == 1
        engine.cancel(b"r")
        engine.cancel(b"unknown")
        assert engine.stats().live == 0
        assert not engine.has_work
        assert not engine.room.plan.lengths


def test_a_bad_file_ends_its_own_request_alone(engine: TranscriptionEngine, tmp_path: Path) -> None:
    good, bad = write_sound(tmp_path / "good.wav", 5), write_sound(tmp_path / "bad.flac", 12)
    alone = transcribe(engine, good)
    bad.write_bytes(bad.read_bytes()[:-1000])
    for request_id, file in ((b"bad", bad), (b"good", good)):
        engine.add(request_id, pack(Transcribe(str(file), field="upload")))
    outputs = {output.request_id: output for output in steps(engine)}
    assert outputs[b"bad"].kind == ERROR
    assert outputs[b"bad"].body["param"] == "upload"
    assert outputs[b"good"].kind == FINAL
    assert outputs[b"good"].body["text"] == alone["text"]


def test_a_long_file_waits_for_memory_and_a_longer_one_is_refused(folder: Path, tmp_path: Path) -> None:
    second = 80 * 100 * 4
    fixed = load(folder, share=2**40).room.plan.fixed
    limit = fixed + 100 * second
    engine = load(folder, share=limit, limit=limit)
    failure = refusal(engine, Transcribe(str(write_sound(tmp_path / "a.wav", 120, rate=8000))))
    assert (failure.code, failure.param) == (Code.CONTEXT_LENGTH_EXCEEDED, "file")
    assert failure.message.startswith("file lasts 120 seconds, which needs")
    file = write_sound(tmp_path / "b.wav", 60)
    for request_id in (b"1", b"2"):
        engine.add(request_id, pack(Transcribe(str(file))))
    engine.step()
    assert (engine.stats().decoding, engine.stats().waiting_for_room) == (1, 1)
    assert [output.kind for output in steps(engine)] == [FINAL, FINAL]
    assert not engine.room.plan.lengths


def test_the_longest_file_is_a_setting(folder: Path, tmp_path: Path) -> None:
    engine = load(folder, max_seconds=10)
    failure = refusal(engine, Transcribe(str(write_sound(tmp_path / "a.wav", 11))))
    assert (failure.code, failure.param) == (Code.INVALID_REQUEST, "file")
    with pytest.raises(ValueError, match="max_seconds"):
        load(folder, max_seconds=0)
