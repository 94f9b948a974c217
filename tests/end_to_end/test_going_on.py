"""Answers go on in the next process when their own ends, where the setting says so: real processes, real signals."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ECHO, PACED
from tests.service import Service, wait_until

CONTENT = "twenty tokens of an echo that says all of this again"


@pytest.fixture(scope="module")
def patient(models_dir: Path) -> Iterator[Service]:
    echo = ECHO | {"options": PACED}
    service = Service(models_dir, {"models": {"echo": echo}, "gateway": {"resume_limit": 2}})
    try:
        yield service.start()
    finally:
        service.stop()


def resumes(service: Service, model_id: str) -> int:
    count: int = service.model(model_id)["resumes"]
    return count


def kill(service: Service) -> None:
    os.kill(service.model("echo")["pid"], signal.SIGKILL)


def test_a_client_hears_a_pause_and_no_end(patient: Service) -> None:
    with patient.stream("echo", CONTENT, max_tokens=20, stream_options={"include_usage": True}) as stream:
        stream.next_text()
        kill(patient)
        stream.finish()
    assert (stream.error, stream.done) == (None, True)
    assert stream.usage is not None
    assert stream.usage["completion_tokens"] == 20
    assert stream.text == (2 * CONTENT)[: len(stream.text)]  # what an echo says that nothing disturbs
    assert resumes(patient, "echo") == 1


def test_nor_does_one_that_wants_its_answer_in_one_piece(patient: Service) -> None:
    expected = patient.chat("echo", CONTENT, max_tokens=20).json()["choices"]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(patient.chat, "echo", CONTENT, max_tokens=20)
        wait_until(lambda: patient.model("echo")["in_flight"] == 1, what="the request in its process")
        kill(patient)
        assert answer.result(30).json()["choices"] == expected


def test_one_that_says_no_hears_the_end(patient: Service) -> None:
    before = resumes(patient, "echo")
    with patient.stream("echo", CONTENT, max_tokens=20, resume=False) as stream:
        stream.next_text()
        kill(patient)
        stream.finish()
    assert stream.error is not None
    assert stream.error["code"] == "worker_died"
    assert 0 < len(stream.text) < len(CONTENT)
    assert resumes(patient, "echo") == before


def test_the_answer_of_a_real_model_has_its_whole_length(patient: Service) -> None:
    with patient.stream("tiny-a", max_tokens=1000, stream_options={"include_usage": True}) as stream:
        stream.next_text()
        os.kill(patient.model("tiny-a")["pid"], signal.SIGKILL)
        stream.finish()
    assert (stream.error, stream.done, stream.finish_reason) == (None, True, "length")
    assert stream.usage is not None
    assert stream.usage["completion_tokens"] == 1000
    assert resumes(patient, "tiny-a") == 1
