"""Forms and bodies of audio: what they become on the wire, and which field a refusal names."""

from typing import Any

import orjson
import pytest

from broker.wire.failure import FailureError
from broker.wire.work import Speak, Transcribe
from gateway.core import ask
from gateway.openai.audio.requests import (
    MAX_INPUT,
    TranscriptionRequest,
    TranslationRequest,
    heeded,
    parse_form,
    parse_speech,
    speech_field,
    speech_work,
    transcription_field,
    transcription_work,
)

Values = dict[str, str | list[str]]


def transcription(values: Values, size: int = 10) -> Transcribe:
    return transcription_work(parse_form(TranscriptionRequest, values, size), "/run/a")


def test_a_transcription() -> None:
    assert transcription({}) == Transcribe(path="/run/a", field="file")
    values: Values = {
        "model": "org/whisper",
        "language": "English",
        "prompt": "Names: Ada.",
        "response_format": "verbose_json",
        "temperature": "0.4",
        "timestamp_granularities": ["word", "segment"],
        "unknown": "x",
    }
    assert transcription(values) == Transcribe(
        path="/run/a", field="file", language="en", prompt="Names: Ada.", temperature=0.4, words=True
    )
    assert transcription({"stream": "true", "response_format": "text"}).stream
    assert transcription({"prompt": "x" * 32_768, "language": "x" * 100}).prompt == "x" * 32_768


def test_a_translation() -> None:
    wanted = parse_form(TranslationRequest, {"language": "de", "timestamp_granularities": ["word"]}, 10)
    assert transcription_work(wanted, "/run/a") == Transcribe(path="/run/a", field="file", translate=True)


@pytest.mark.parametrize(
    ("values", "size", "param"),
    [
        ({}, 0, "file"),
        ({"response_format": "diarized_json"}, 1, "response_format"),
        ({"response_format": "JSON"}, 1, "response_format"),
        ({"temperature": "warm"}, 1, "temperature"),
        ({"temperature": "-0.1"}, 1, "temperature"),
        ({"temperature": "1.1"}, 1, "temperature"),
        ({"temperature": "nan"}, 1, "temperature"),
        ({"stream": "maybe"}, 1, "stream"),
        ({"stream": "true", "response_format": "srt"}, 1, "response_format"),
        ({"timestamp_granularities": ["letter"], "response_format": "verbose_json"}, 1, "timestamp_granularities[0]"),
        ({"timestamp_granularities": ["word"]}, 1, "timestamp_granularities"),
        ({"prompt": "x" * 32_769}, 1, "prompt"),
        ({"language": "x" * 101}, 1, "language"),
    ],
)
def test_what_is_wrong_in_a_form_is_named(values: Values, size: int, param: str) -> None:
    with pytest.raises(FailureError) as refusal:
        parse_form(TranscriptionRequest, values, size)
    assert refusal.value.failure.param == param
    assert refusal.value.failure.message.startswith(param)


def test_what_no_model_heeds_is_named_and_left_out_with_its_parts() -> None:
    kept = {"model": ["a"], "mine[x]": ["x"], "timestamp_granularities[]": ["word", "segment"]}
    unheeded = {
        "include[]": ["logprobs"],
        "keywords": ["a"],
        "chunking_strategy[type]": ["server_vad"],
        "chunking_strategy[threshold]": ["0.5"],
        "known_speaker_references[]": ["data:audio/wav;base64,UklGRg==", "data:audio/wav;base64,UklGRg=="],
    }
    assert heeded(kept) == (kept, [])
    assert heeded({**kept, **unheeded}) == (
        kept,
        ["chunking_strategy", "include", "keywords", "known_speaker_references"],
    )


def speech(**body: Any) -> Speak:
    return speech_work(parse_speech(orjson.dumps({"input": "Hi", **body})))


def test_speech() -> None:
    assert speech() == Speak(text="Hi", encoding="mp3", stream=True)
    nulls = dict.fromkeys(("model", "voice", "instructions", "response_format", "speed", "stream_format", "seed"))
    assert speech(**nulls) == speech()
    assert (
        speech(voice={"id": "anna"})
        == speech(voice="anna")
        == Speak(text="Hi", voice="anna", encoding="mp3", stream=True)
    )
    full = speech(instructions="Slowly.", response_format="pcm", speed=2, seed=7)
    assert full == Speak(text="Hi", instructions="Slowly.", speed=2.0, encoding="pcm", seed=7, stream=True)
    longest = speech(input="x" * MAX_INPUT, instructions="x" * 4096, voice="x" * 256)
    assert (len(longest.text), len(longest.instructions or ""), len(longest.voice or "")) == (MAX_INPUT, 4096, 256)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": None}, "input"),
        ({"input": ["a"]}, "input"),
        ({"input": "x" * 100_000}, "input"),
        ({"voice": ""}, "voice"),
        ({"voice": 1}, "voice"),
        ({"voice": {"name": "anna"}}, "voice"),
        ({"voice": {"id": 1}}, "voice"),
        ({"response_format": "opus"}, "response_format"),
        ({"response_format": "aac"}, "response_format"),
        ({"response_format": 1}, "response_format"),
        ({"speed": 0.2}, "speed"),
        ({"speed": 4.1}, "speed"),
        ({"speed": "fast"}, "speed"),
        ({"stream_format": "file"}, "stream_format"),
        ({"model": ""}, "model"),
        ({"instructions": 1}, "instructions"),
        ({"instructions": "x" * 4097}, "instructions"),
        ({"voice": "x" * 257}, "voice"),
        ({"voice": {"id": "x" * 257}}, "voice"),
    ],
)
def test_what_is_wrong_in_speech_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(FailureError) as refusal:
        speech(**body)
    assert refusal.value.failure.param == param


def test_an_encoding_that_is_not_there_says_which_are() -> None:
    with pytest.raises(FailureError, match="mp3, wav, flac, pcm, not 'opus'"):
        speech(response_format="opus")


def test_fields_of_the_wire_have_openais_names() -> None:
    assert [transcription_field(field) for field in ("file", "words", "translate", "language")] == [
        "file", "timestamp_granularities", "model", "language",
    ]  # fmt: skip
    assert [speech_field(field) for field in ("text", "encoding", "voice", "model")] == [
        "input", "response_format", "voice", "model",
    ]  # fmt: skip


def test_the_same_bytes_and_fields_have_one_origin_whatever_their_path() -> None:
    def origin(unit: Transcribe, digest: bytes = b"1") -> bytes:
        body = ask.transcribe_whole("a", unit, digest).body
        assert ask.transcribe_stream("a", unit, digest).body == body
        return body.origin  # type: ignore[attr-defined,no-any-return] # of an InferenceRequest

    first = origin(Transcribe("/run/a"))
    assert first == origin(Transcribe("/run/b", stream=True))
    assert len({first, origin(Transcribe("/run/a"), b"2"), origin(Transcribe("/run/a", language="en"))}) == 3
