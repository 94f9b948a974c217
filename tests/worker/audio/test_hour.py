"""A file of an hour: what it takes beside the model, and how long others wait for one step of it."""

import time
from pathlib import Path

import psutil
import pytest
import soundfile

from broker.wire.outputs import FINAL
from broker.wire.packing import pack
from broker.wire.work import Transcribe
from tests.tiny_audio import RATE, make_tiny_whisper, sound, write_sound
from tests.worker.audio.transcription_runs import load, transcribe

HOUR = 3600
# Its spectrogram, and what is being read and computed.
MOST_BYTES = 300 * 2**20
# Of CPU time of all threads: a step is one attempt at one window, or ten seconds of the file.
MOST_SECONDS = 1.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_hour_takes_bounded_memory_and_bounded_steps(tmp_path: Path) -> None:
    file = tmp_path / "hour.flac"
    with soundfile.SoundFile(file, "w", samplerate=RATE, channels=1) as written:
        minute = sound(60)
        for _ in range(HOUR // 60):
            written.write(minute)
    engine = load(make_tiny_whisper(tmp_path / "m"))
    transcribe(engine, write_sound(tmp_path / "short.wav", 35))  # what the first request brings is not the hour's
    process = psutil.Process()
    before = process.memory_info().rss
    most = longest = 0.0
    outputs = []
    engine.add(b"r", pack(Transcribe(str(file))))
    while engine.has_work:
        began = time.process_time()
        outputs += engine.step()
        longest = max(longest, time.process_time() - began)
        most = max(most, process.memory_info().rss - before)
    [final] = outputs
    assert (final.kind, final.body["duration"]) == (FINAL, HOUR)
    assert final.body["segments"][-1]["end"] > HOUR - 30
    assert most < MOST_BYTES
    assert longest < MOST_SECONDS
