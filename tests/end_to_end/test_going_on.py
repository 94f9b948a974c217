"""Answers go on in the next process when their own ends: real processes, real signals, the settings as shipped, but for
how often memory is looked at.
"""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import ECHO, MISBEHAVING, PACED
from tests.end_to_end.test_vision import image, text, user
from tests.service import Service, wait_until
from tests.tiny_models import make_tiny_model
from tests.tiny_vision import make_tiny_vision, picture

CONTENT = "twenty tokens of an echo that says all of this again"


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_model(folder / "tiny-a", seed=1)
    make_tiny_vision(folder / "tiny-vision")
    echo = ECHO | {"options": PACED}
    bad = MISBEHAVING | {"options": PACED}
    full = MISBEHAVING | {"options": {"delay_seconds": 0.03}, "memory_limit_gb": 0.25}
    models = {"echo": echo, "bad": bad, "full": full}
    with Service(folder, {"broker": {"memory_sample_seconds": 0.05}, "models": models}) as service:
        yield service


def resumes(service: Service, model_id: str) -> int:
    count: int = service.model(model_id)["resumes"]
    return count


def kill(service: Service) -> None:
    os.kill(service.model("echo")["pid"], signal.SIGKILL)


def test_a_client_hears_a_pause_and_no_end(patient: Service) -> None:
    with patient.stream("echo", CONTENT, max_tokens=60, stream_options={"include_usage": True}) as stream:
        stream.next_text()
        kill(patient)
        stream.finish()
    assert (stream.error, stream.done) == (None, True)
    assert stream.usage is not None
    assert stream.usage["completion_tokens"] == 60
    assert stream.text == (6 * CONTENT)[: len(stream.text)]  # what an echo says that nothing disturbs
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
    with patient.stream("echo", CONTENT, max_tokens=1000, resume=False) as stream:
        stream.next_text()
        kill(patient)
        stream.finish()
    assert stream.error is not None
    assert stream.error["code"] == "worker_died"
    assert 0 < len(stream.text) < 4 * 1000
    assert resumes(patient, "echo") == before


def test_the_answer_of_a_real_model_has_its_whole_length(patient: Service) -> None:
    with patient.stream("tiny-a", max_tokens=4000, stream_options={"include_usage": True}) as stream:
        stream.next_text()
        os.kill(patient.model("tiny-a")["pid"], signal.SIGKILL)
        stream.finish()
    assert (stream.error, stream.done, stream.finish_reason) == (None, True, "length")
    assert stream.usage is not None
    assert stream.usage["completion_tokens"] == 4000
    assert resumes(patient, "tiny-a") == 1


@pytest.mark.exact
@pytest.mark.slow  # two loads of what sees
def test_so_has_the_answer_about_a_picture(patient: Service) -> None:
    """Which the next process looks at again."""
    chat = [user(text("What is "), image(picture(1)), text("?"))]
    asked: dict[str, Any] = {"messages": chat, "max_tokens": 2000, "stream_options": {"include_usage": True}}
    said = []
    for dies in (False, True):
        with patient.stream("tiny-vision", **asked) as stream:
            stream.next_text()
            if dies:
                os.kill(patient.model("tiny-vision")["pid"], signal.SIGKILL)
            stream.finish()
        assert (stream.error, stream.done) == (None, True)
        said.append((stream.text, stream.finish_reason, stream.usage))
    assert said[0] == said[1]
    assert resumes(patient, "tiny-vision") == 1


def test_every_choice_of_one_request_goes_on(patient: Service) -> None:
    before = resumes(patient, "tiny-a")
    asked = {"n": 3, "seed": 5, "temperature": 1.0, "max_tokens": 2000, "stream_options": {"include_usage": True}}
    alone = choices(patient, asked, lambda: None)
    with_a_death = choices(patient, asked, lambda: os.kill(patient.model("tiny-a")["pid"], signal.SIGKILL))
    assert with_a_death == alone
    assert sorted(alone) == [0, 1, 2]
    assert resumes(patient, "tiny-a") == before + 3


def choices(service: Service, asked: dict[str, Any], then: Callable[[], None]) -> dict[int, tuple[str, str]]:
    """The text and the end of every choice. then: once each has some text."""
    texts: dict[int, str] = {}
    ends: dict[int, str] = {}
    is_done = False
    with service.stream("tiny-a", **asked) as stream:
        for event in stream.events():
            for choice in event["choices"]:
                index = choice["index"]
                texts[index] = texts.get(index, "") + (choice["delta"].get("content") or "")
                ends[index] = choice["finish_reason"] or ends.get(index, "")
            if not is_done and len(texts) == 3 and all(texts.values()):
                is_done = True
                then()
    assert (stream.error, stream.done) == (None, True)
    assert stream.usage is not None
    assert stream.usage["completion_tokens"] == 3 * 2000
    return {index: (text, ends[index]) for index, text in texts.items()}


def test_a_request_that_kills_before_its_output_is_refused_and_the_others_hear_a_pause(patient: Service) -> None:
    """It is not marked: it kills in its first step, and again when it is alone."""
    with ThreadPoolExecutor(1) as pool, patient.stream("bad", CONTENT, max_tokens=60) as stream:
        stream.next_text()
        killer = pool.submit(patient.chat, "bad", "crash")
        refused = killer.result(30)
        stream.finish()
    assert refused.status_code == 503
    error = refused.json()["error"]
    assert (error["code"], error["retryable"]) == ("worker_died", False)
    assert "ended two processes of bad before its first output" in error["message"]
    assert (stream.error, stream.done, stream.finish_reason) == (None, True, "length")
    assert stream.text == (6 * CONTENT)[: len(stream.text)]
    assert resumes(patient, "bad") == 2
    assert patient.chat("bad").status_code == 200


def test_what_takes_too_much_memory_together_goes_on_in_parts(patient: Service) -> None:
    """Each takes 80 MiB of about 210; three at once, and the process ends again."""
    prompts = [f"{number} carry 80 and so on" for number in range(4)]
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(lambda prompt: patient.chat("full", prompt, max_tokens=20), prompts))
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert texts == [(4 * prompt)[:80] for prompt in prompts]
    entry = patient.model("full")
    assert entry["last_exit"]["reason"].startswith("memory_limit")
    assert (entry["resumes"] + entry["replays"], entry["exits"]) == (4, {"SIGKILL": 1})
