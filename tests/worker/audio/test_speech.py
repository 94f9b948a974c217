"""Requests to the speech engine: what is spoken, in which order, and what is refused."""

from pathlib import Path
from typing import Any

import miniaudio
import numpy as np
import pytest

from broker.wire.body import ProtocolError
from broker.wire.failure import Code, FailureError
from broker.wire.outputs import FINAL, PARTIAL
from broker.wire.packing import pack
from broker.wire.work import Embed, Transcribe, Voices
from tests.tiny_speech import POCKET_RATE, VOICES, make_tiny_pocket, make_tiny_soprano
from tests.worker.audio.speech_runs import SECONDS, SENTENCES, TEXT, add, audio_of, directly, load, refusal, spoken
from tests.worker.stepping import steps
from worker.audio.speech import SpeechEngine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_pocket(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> SpeechEngine:
    return load(folder)


def test_it_speaks_what_mlx_audio_speaks(tiny: SpeechEngine, folder: Path) -> None:
    whole = spoken(tiny, TEXT, voice="marius")
    assert whole == directly(folder, SENTENCES, voice="marius")
    assert whole == spoken(tiny, TEXT, voice="marius", stream=True)


def test_without_a_voice_the_first_one_speaks_and_another_seed_speaks_otherwise(tiny: SpeechEngine) -> None:
    text = SENTENCES[2]
    first = spoken(tiny, text)
    assert first == spoken(tiny, text, voice=VOICES[0])
    assert len({first, spoken(tiny, text, voice=VOICES[1]), spoken(tiny, text, seed=8)}) == 3
    assert spoken(tiny, text, seed=None) != spoken(tiny, text, seed=None)


@pytest.mark.slow  # its vocoder takes half a second for a sentence
def test_a_family_that_speaks_in_one_go_is_cut_into_sentences(tmp_path: Path) -> None:
    folder = make_tiny_soprano(tmp_path / "m")
    engine = load(folder)
    add(engine, b"r", TEXT, stream=True)
    outputs = steps(engine)
    assert [output.kind for output in outputs] == [PARTIAL] * len(SENTENCES) + [FINAL]
    assert audio_of(outputs) == directly(folder, SENTENCES)
    assert "this model has: default" in refusal(engine, TEXT, voice="alloy").message
    assert spoken(engine, SENTENCES[2], voice="default") == directly(folder, SENTENCES[2:])


def test_the_first_bytes_come_long_before_the_whole_is_spoken(tiny: SpeechEngine) -> None:
    add(tiny, b"r", f"{TEXT} " * 4, stream=True)
    sizes = []
    while tiny.has_work:
        sizes += [len(output.body["audio"]) for output in tiny.step()] or [0]
    # Half a second of 16 bits in the first step, and no more in any other.
    assert sizes[0] == max(sizes) == POCKET_RATE
    assert sum(sizes) == 4 * len(SENTENCES) * SECONDS * 2 * POCKET_RATE


def test_the_file_has_its_rate_and_length_and_counts(tiny: SpeechEngine) -> None:
    for stream in (True, False):
        add(tiny, b"r", SENTENCES[2], encoding="wav", stream=stream)
        outputs = steps(tiny)
        sound = miniaudio.decode(audio_of(outputs), nchannels=1, sample_rate=POCKET_RATE)
        assert np.array(sound.samples, dtype="<i2").tobytes() == spoken(tiny, SENTENCES[2])
        assert outputs[0].body["sample_rate"] == POCKET_RATE
        assert sum("sample_rate" in output.body for output in outputs) == 1
        final = outputs[-1].body
        assert final["seconds"] == len(sound.samples) / POCKET_RATE == SECONDS
        assert (final["prompt_tokens"], final["completion_tokens"]) == (len(SENTENCES[2]), 2)
    assert tiny.stats().live == 0


def test_requests_take_turns_sentence_by_sentence(tiny: SpeechEngine) -> None:
    alone = spoken(tiny, TEXT), spoken(tiny, SENTENCES[2], voice="marius")
    add(tiny, b"long", TEXT, stream=True)
    assert tiny.step()
    add(tiny, b"short", SENTENCES[2], voice="marius", stream=True)
    assert (tiny.stats().live, tiny.stats().decoding, tiny.stats().waiting) == (2, 1, 1)
    outputs = steps(tiny)
    order = [output.request_id for output in outputs]
    # The sentence that has begun, then the other request as a whole, then the rest.
    assert order.index(b"short") < 20
    ended = max(number for number, name in enumerate(order) if name == b"short")
    assert b"long" not in order[order.index(b"short") : ended]
    assert order.count(b"long") > ended
    assert audio_of(outputs, b"short") == alone[1]
    rest = b"".join(output.body["audio"] for output in outputs if output.request_id == b"long")
    assert alone[0].endswith(rest)
    assert len(alone[0]) - len(rest) == POCKET_RATE


def test_a_request_that_is_cancelled_leaves_no_trace(tiny: SpeechEngine) -> None:
    alone = spoken(tiny, SENTENCES[2])
    add(tiny, b"gone", TEXT, stream=True)
    assert tiny.step()
    tiny.cancel(b"gone")
    tiny.cancel(b"unknown")
    assert not tiny.has_work
    assert spoken(tiny, SENTENCES[2]) == alone
    add(tiny, b"waits", TEXT)
    add(tiny, b"gone", TEXT)
    tiny.cancel(b"gone")
    assert {output.request_id for output in steps(tiny)} == {b"waits"}
    assert tiny.stats().live == 0


def test_voices_are_told(tiny: SpeechEngine) -> None:
    tiny.add(b"v", pack(Voices()))
    (output,) = steps(tiny)
    assert (output.request_id, output.kind, output.body) == (b"v", FINAL, {"voices": list(VOICES)})


@pytest.mark.parametrize(
    ("text", "fields", "param", "words"),
    [
        ("", {}, "text", "is empty"),
        (" \n ", {}, "text", "is empty"),
        ("Hi", {"voice": "alloy"}, "voice", "this model has: alba, cosette, marius"),
        ("Hi", {"voice": "/etc/passwd"}, "voice", "is unknown"),
        ("Hi", {"voice": "https://example.com/a.wav"}, "voice", "is unknown"),
        ("Hi", {"voice": ""}, "voice", "is unknown"),
        ("Hi", {"voice": "x" * 10_000}, "voice", "is unknown"),
        ("Hi", {"speed": 1.5}, "speed", "must be 1"),
        ("Hi", {"speed": 0.0}, "speed", "greater than 0"),
        ("Hi", {"instructions": "Whisper."}, "instructions", "pocket_tts cannot follow"),
        ("Hi", {"encoding": "opus"}, "encoding", "wav, flac, mp3, pcm"),
    ],
)
def test_a_bad_request_is_named(tiny: SpeechEngine, text: str, fields: dict[str, Any], param: str, words: str) -> None:
    failure = refusal(tiny, text, **fields)
    assert (failure.code, failure.param) == (Code.INVALID_REQUEST, param)
    assert words in failure.message
    assert len(failure.message) < 500


def test_a_model_that_draws_its_voice_must_be_told_how(tiny: SpeechEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.speaker, "needs_instructions", True)
    assert refusal(tiny, "Hi").param == "instructions"


def test_many_voices_are_not_all_listed(tmp_path: Path) -> None:
    engine = load(make_tiny_pocket(tmp_path / "m", voices=tuple(f"voice{number:02d}" for number in range(30))))
    message = refusal(engine, "Hi", voice="other").message
    assert "voice00, voice01" in message
    assert message.endswith("voice19, ...")


def test_work_of_another_kind_is_refused(tiny: SpeechEngine) -> None:
    with pytest.raises(FailureError, match="cannot transcribe") as error:
        tiny.add(b"r", pack(Transcribe("/file")))
    assert error.value.failure.param == "model"
    with pytest.raises(ProtocolError):
        tiny.add(b"r", pack(Embed(["text"])))


def test_a_text_that_fails_ends_alone(tiny: SpeechEngine, folder: Path) -> None:
    voice = folder / "voices" / f"{VOICES[1]}.safetensors"
    content = voice.read_bytes()
    voice.write_bytes(b"no weights")
    try:
        add(tiny, b"good", SENTENCES[2])
        add(tiny, b"bad", SENTENCES[2], voice=VOICES[1])
        outputs = steps(tiny)
    finally:
        voice.write_bytes(content)
    (bad,) = [output for output in outputs if output.request_id == b"bad"]
    assert bad.body["code"] == Code.INTERNAL_ERROR
    assert bad.body["message"].startswith("the text cannot be spoken: ")
    assert audio_of(outputs, b"good") == spoken(tiny, SENTENCES[2])


def test_options_are_checked(folder: Path) -> None:
    with pytest.raises(ValueError, match="piece_characters"):
        load(folder, piece=3)
    short = load(folder, piece_characters=40)
    assert len(spoken(short, "extraordinary circumstances and understanding")) == (3 + 2 + 1 + 2) * 2 * POCKET_RATE
