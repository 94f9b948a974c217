"""Transcripts in every form, on exact bytes."""

from typing import Any

import pytest

from broker.wire.body import ProtocolError
from gateway.core.audio import Transcript, segments_of, transcript_of
from gateway.openai.audio.formats import as_json, as_srt, as_text, as_verbose_json, as_vtt, duration_usage
from gateway.openai.audio.languages import NAMES, code_of, name_of
from gateway.openai.audio.requests import TranscriptionRequest, TranslationRequest


def segment(number: int, start: float, end: float, text: str, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "seek": 0,
        "start": start,
        "end": end,
        "text": text,
        "tokens": [50364, 1],
        "temperature": 0.0,
        "avg_logprob": -0.25,
        "compression_ratio": 1.5,
        "no_speech_prob": 0.01,
        **more,
    }


SEGMENT = segment(0, 0.0, 1.0, "a")
WORDS = [
    {"word": " Hello", "start": 0.0, "end": 0.52, "probability": 0.9},
    {"word": " you.", "start": 0.52, "end": 1.5},
]
BODY: dict[str, Any] = {
    "text": " Hello you. A --> B",
    "segments": [
        segment(0, 0.0, 1.4996, " Hello you.", words=WORDS),
        segment(1, 1.4996, 3725.9996, " A --> B\n"),
    ],
    "language": "de",
    "duration": 3725.2000000001,
    "completion_tokens": 4,
}
TRANSCRIPT = transcript_of(BODY)
NOTHING = Transcript(text="", duration=0.0)


def test_no_more_is_read_than_the_form_needs() -> None:
    broken = transcript_of({**BODY, "segments": [7]})
    assert as_json(broken) == as_json(TRANSCRIPT)
    assert as_text(broken) == as_text(TRANSCRIPT)
    [read] = segments_of(cues_of({**SEGMENT, "start": 0, "words": "unread"}))
    assert (read.text, repr(read.start), read.words) == ("a", "0.0", ())
    [bare] = segments_of(cues_of({"id": 0, "start": 0.0, "end": 1.0, "text": "a"}), words=True)
    assert (bare.seek, bare.tokens, bare.no_speech_prob, bare.words) == (0, [], 0.0, [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"text": None},
        {"duration": "long"},
        {"language": 7},
        {"completion_tokens": None},
        {"segments": None},
        {"segments": ["a"]},
        {"segments": [[]]},
        {"segments": [{"id": 0}]},
        {"segments": [{**SEGMENT, "id": "0"}]},
        {"segments": [{**SEGMENT, "start": "0"}]},
        {"segments": [{**SEGMENT, "text": None}]},
        {"segments": [{**SEGMENT, "seek": 1.5}]},
        {"segments": [{**SEGMENT, "tokens": [1, "2"]}]},
        {"segments": [{**SEGMENT, "avg_logprob": None}]},
        {"segments": [{**SEGMENT, "words": [{"word": "a", "start": 0.0}]}]},
        {"segments": [{**SEGMENT, "words": [{"word": 1, "start": 0.0, "end": 1.0}]}]},
        {"segments": [{**SEGMENT, "words": ["a"]}]},
        {"segments": [{**SEGMENT, "words": 7}]},
    ],
)
def test_what_is_no_transcript_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=next(iter(wrong))):
        list(segments_of(transcript_of({**BODY, **wrong}), words=True))


def test_text() -> None:
    assert as_text(TRANSCRIPT) == "Hello you. A --> B\n"
    assert as_text(NOTHING) == "\n"


def test_srt() -> None:
    assert as_srt(TRANSCRIPT) == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello you.\n\n2\n00:00:01,500 --> 01:02:06,000\nA -> B\n\n"
    )
    assert as_srt(NOTHING) == ""


def test_vtt() -> None:
    assert as_vtt(TRANSCRIPT) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello you.\n\n00:00:01.500 --> 01:02:06.000\nA -> B\n\n"
    )
    assert as_vtt(NOTHING) == "WEBVTT\n\n"


def cues_of(*segments: dict[str, Any]) -> Transcript:
    return transcript_of({**BODY, "segments": list(segments)})


def test_no_text_ends_its_cue_or_begins_another() -> None:
    odd = cues_of(
        segment(0, 0.0, 1.0, " One.\n\n \r\nTwo.\n"),
        segment(1, 1.0, 2.0, " \n"),
        segment(2, 2.0, 3.0, "a ---> b ----> c -> d ->-> e --"),
    )
    assert as_srt(odd) == (
        "1\n00:00:00,000 --> 00:00:01,000\nOne.\nTwo.\n\n"
        "2\n00:00:02,000 --> 00:00:03,000\na -> b -> c -> d ->-> e --\n\n"
    )
    assert as_vtt(odd).count(" --> ") == as_vtt(odd).count("-->") == 2
    dashes = cues_of(segment(0, 0.0, 1.0, "-" * 100_000))
    assert as_srt(dashes).endswith("-\n\n")  # at once


def test_vtt_has_no_tags_of_its_own() -> None:
    tags = cues_of(segment(0, 0.0, 1.0, "Q&A <b>: &lt; 1 > 0"))
    assert "\nQ&amp;A &lt;b>: &amp;lt; 1 > 0\n" in as_vtt(tags)
    assert "\nQ&A <b>: &lt; 1 > 0\n" in as_srt(tags)


def test_no_cue_ends_before_it_starts() -> None:
    assert as_srt(cues_of(segment(0, 2.0, 1.0, "a"))) == "1\n00:00:02,000 --> 00:00:02,000\na\n\n"


def test_json() -> None:
    usage = {"type": "duration", "seconds": 3726}
    assert as_json(TRANSCRIPT) == {"text": "Hello you. A --> B", "usage": usage}
    for duration in (1.0000000001, 0.9999, 1.0):
        assert duration_usage(Transcript(text="", duration=duration)) == {"type": "duration", "seconds": 1}
    assert duration_usage(Transcript(text="", duration=1.001))["seconds"] == 2
    assert as_json(NOTHING) == {"text": "", "usage": {"type": "duration", "seconds": 0}}


@pytest.mark.parametrize(
    ("granularities", "names"),
    [
        ([], ["segments"]),
        (["segment"], ["segments"]),
        (["word"], ["words"]),
        (["word", "segment"], ["words", "segments"]),
    ],
)
def test_verbose_json(granularities: list[str], names: list[str]) -> None:
    given = {"timestamp_granularities": granularities} if granularities else {}
    answer = as_verbose_json(TRANSCRIPT, TranscriptionRequest.model_validate({"file": 1, **given}))
    assert list(answer) == ["task", "language", "duration", "text", *names, "usage"]
    assert (answer["task"], answer["language"], answer["duration"]) == ("transcribe", "german", 3725.2)
    if "words" in names:
        assert answer["words"] == [
            {"word": "Hello", "start": 0.0, "end": 0.52},
            {"word": "you.", "start": 0.52, "end": 1.5},
        ]
    if "segments" in names:
        assert answer["segments"] == [
            segment(0, 0.0, 1.5, " Hello you."),
            segment(1, 1.5, 3726.0, " A --> B\n"),
        ]


def test_verbose_json_of_a_translation_is_english() -> None:
    answer = as_verbose_json(TRANSCRIPT, TranslationRequest.model_validate({"file": 1}))
    assert (answer["task"], answer["language"]) == ("translate", "english")


def test_languages_have_a_code_and_a_name() -> None:
    assert len(NAMES) == 100
    assert all(code_of(name.title()) == code for code, name in NAMES.items())
    assert (code_of(" EN "), code_of("Klingon"), code_of("tlh-Latn")) == ("en", "klingon", "tlh-latn")
    assert [code_of(code) for code in ("en-US", "zh-Hant-TW", "jv", "jv-ID", "JW")] == ["en", "zh", "jw", "jw", "jw"]
    others = "Burmese Castilian Flemish Haitian Letzeburgesch Mandarin Moldavian Panjabi Pushto Sinhalese Valencian"
    assert " ".join(map(code_of, others.split())) == "my es nl ht lb zh ro pa ps si ca"
    assert (name_of("zh"), name_of("tlh"), name_of(None)) == ("chinese", "tlh", "unknown")
