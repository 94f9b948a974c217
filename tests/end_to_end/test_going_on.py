"""Answers go on in the next process when their own ends, where the setting says so: real processes, real signals."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MISBEHAVING, PACED
from tests.service import Service

CONTENT = "crash after 5 tokens, and then say the rest of this line"
# One that is not streamed tells its tokens after the first one, and after every sixteenth.
WHOLE = CONTENT.replace("5", "1")


@pytest.fixture(scope="module")
def patient(models_dir: Path) -> Iterator[Service]:
    # Paced, so that an output has left its process before the next step ends that.
    bad = MISBEHAVING | {"options": PACED}
    service = Service(models_dir, {"models": {"bad": bad}, "gateway": {"resume_limit": 2}})
    try:
        yield service.start()
    finally:
        service.stop()


def resumes(service: Service, model_id: str) -> int:
    count: int = service.model(model_id)["resumes"]
    return count


def test_a_client_hears_a_pause_and_no_end(patient: Service) -> None:
    with patient.stream("bad", CONTENT, max_tokens=20, stream_options={"include_usage": True}) as stream:
        stream.finish()
    assert (stream.error, stream.done) == (None, True)
    assert stream.usage is not None
    assert stream.usage["completion_tokens"] == 20
    assert resumes(patient, "bad") == 1
    [choice] = patient.chat("bad", WHOLE, max_tokens=20).json()["choices"]
    assert resumes(patient, "bad") == 2
    # What an echo says that nothing disturbs.
    assert stream.text == (2 * CONTENT)[: len(stream.text)]
    assert choice["message"]["content"] == (2 * WHOLE)[: len(stream.text)]


def test_one_that_says_no_hears_the_end(patient: Service) -> None:
    before = resumes(patient, "bad")
    with patient.stream("bad", CONTENT, max_tokens=20, resume=False) as stream:
        stream.finish()
    assert stream.error is not None
    assert stream.error["code"] == "worker_died"
    assert 0 < len(stream.text) < len(CONTENT)
    assert resumes(patient, "bad") == before


def test_the_answer_of_a_real_model_has_its_whole_length(patient: Service) -> None:
    with patient.stream("tiny-a", max_tokens=1000, stream_options={"include_usage": True}) as stream:
        stream.next_text()
        os.kill(patient.model("tiny-a")["pid"], signal.SIGKILL)
        stream.finish()
    assert (stream.error, stream.done, stream.finish_reason) == (None, True, "length")
    assert stream.usage is not None
    assert stream.usage["completion_tokens"] == 1000
    assert resumes(patient, "tiny-a") == 1
