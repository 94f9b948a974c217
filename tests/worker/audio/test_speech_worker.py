"""A speech model in a process of its own, as the broker starts it."""

from pathlib import Path

import psutil
import pytest

from broker.wire.outputs import FINAL
from broker.wire.packing import pack
from broker.wire.work import Speak, Voices
from tests.tiny_speech import VOICES, make_tiny_pocket
from tests.worker.audio.speech_runs import SENTENCES, TEXT, audio_of, directly
from tests.worker.harness import Worker, WorkerHarness

pytestmark = pytest.mark.slow

_REQUESTS = 500


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_pocket(tmp_path / "tiny")


@pytest.fixture
def worker(harness: WorkerHarness, folder: Path) -> Worker:
    worker = harness.start()
    worker.assign(None, folder, "audio")
    return worker


def test_it_speaks_in_the_worker_and_prints_nothing(worker: Worker, folder: Path) -> None:
    request = worker.request_payload(pack(Speak(TEXT, encoding="pcm", seed=7, stream=True)))
    outputs = worker.until_ended(request)[request]
    assert audio_of(outputs, request) == directly(folder, SENTENCES)
    voices = worker.request_payload(pack(Voices()))
    assert worker.answer(voices) == {"voices": list(VOICES)}
    assert worker.stderr == ""


def test_many_requests_leave_no_memory_behind(worker: Worker) -> None:
    process = psutil.Process(worker.process.pid)
    used = []
    for number in range(_REQUESTS):
        encoding = ("wav", "flac", "mp3", "pcm")[number % 4]
        text = SENTENCES[number % 3] if number % 5 else "..."
        # mp3 has no 800 Hz, and is refused.
        request = worker.request_payload(pack(Speak(text, encoding=encoding, stream=bool(number % 2))))
        outputs = worker.until_ended(request)[request]
        assert (outputs[-1].kind == FINAL) == (encoding != "mp3")
        if number >= _REQUESTS // 2:
            used.append(process.memory_info().rss)
    assert max(used[-50:]) - max(used[:50]) < 4 * 2**20
    while worker.heartbeats:
        worker.next_heartbeat()
    assert worker.next_heartbeat().live == 0
