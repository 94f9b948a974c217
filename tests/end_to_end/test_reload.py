"""A model gets another process while clients use it, and the settings are read again, with the real service."""

import itertools
import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service import Service, wait_until
from tests.tiny_models import make_tiny_model

STREAMS = 32
PROMPTS = [f"{number} " * (1 + number) for number in range(8)]
TOKENS = 200


def reload(service: Service, model_id: str, **query: Any) -> httpx.Response:
    return service.client.post(f"/admin/models/reload/{model_id}", params=query)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    make_tiny_model(models / "tiny")
    return models


@pytest.fixture(scope="module")
def own(folder: Path) -> Iterator[Service]:
    """Kept for this module, since each of its tests leaves the model loaded."""
    service = Service(folder, {"broker": {"warm_spares": 1, "max_memory_gb": 4}, "models": {"tiny": {"options": {}}}})
    try:
        service.client.timeout = 20.0
        yield service.start()
    finally:
        service.stop()


def rewrite(service: Service, old: str, new: str) -> None:
    text = service.config.read_text()
    assert old in text
    service.config.write_text(text.replace(old, new))


@dataclass
class Answer:
    prompt: int
    asked_at: float
    first_after: float
    text: str
    is_whole: bool


def ask(service: Service, prompt: int) -> Answer:
    asked_at = time.monotonic()
    with service.stream("tiny", PROMPTS[prompt], max_tokens=TOKENS) as stream:
        stream.finish()
    is_whole = stream.done and stream.error is None and stream.finish_reason == "length"
    return Answer(prompt, asked_at, stream.times[0] - asked_at, stream.text, is_whole)


def p99(answers: list[Answer]) -> float:
    return statistics.quantiles([answer.first_after for answer in answers], n=100)[98]


def test_no_stream_of_32_notices_a_reload(own: Service) -> None:
    alone = [ask(own, prompt).text for prompt in range(len(PROMPTS))]
    assert len(set(alone)) == len(PROMPTS)
    before, over = own.model("tiny"), threading.Event()
    answers: list[Answer] = []
    numbers = itertools.count()

    def client(_number: int) -> None:
        while not over.is_set():
            answers.append(ask(own, next(numbers) % len(PROMPTS)))

    with ThreadPoolExecutor(STREAMS) as pool:
        clients = [pool.submit(client, number) for number in range(STREAMS)]
        try:
            wait_until(lambda: len(answers) >= 3 * STREAMS, 60.0, "three rounds")
            began = time.monotonic()
            answer = reload(own, "tiny")
            wait_until(lambda: own.model("tiny")["outgoing"] is None, 60.0, "the end of the old process")
            ended = time.monotonic()
        finally:
            over.set()
        for future in clients:
            future.result()
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "reloaded"
    after = own.model("tiny")
    assert after["pid"] != before["pid"]

    assert all(a.is_whole for a in answers)
    assert [a.text for a in answers] == [alone[a.prompt] for a in answers]
    during = [a for a in answers if began - 0.5 <= a.asked_at <= ended]
    assert len(during) >= STREAMS
    # A request that is sent in the moment of its arrival has waited for nothing: it is in the first class.
    queued = [after["queue_times"]["counts"], before["queue_times"]["counts"]]
    grown = [new - old for new, old in zip(*queued, strict=True)]
    assert grown == [len(answers), *[0] * (len(grown) - 1)], "a request was queued"
    assert after["replays"] == before["replays"]

    rest = [a for a in answers if a.asked_at < began - 0.5]
    figures = f"TTFT p99 of {len(rest)}: {p99(rest):.3f} s, of {len(during)} during a reload: {p99(during):.3f} s"
    sys.stdout.write(f"{figures}; it took {ended - began:.2f} s\n")
    assert p99(during) < 20.0, figures


def test_new_weights_and_settings_answer_after_it(own: Service, folder: Path) -> None:
    old = own.chat("tiny").json()["choices"][0]["message"]["content"]
    make_tiny_model(folder / "tiny", seed=7)
    assert own.chat("tiny").json()["choices"][0]["message"]["content"] == old
    assert reload(own, "tiny").status_code == 200
    assert own.chat("tiny").json()["choices"][0]["message"]["content"] != old


def test_a_broken_folder_leaves_the_old_process_with_the_reason(own: Service, folder: Path) -> None:
    own.chat("tiny")
    before = own.model("tiny")["pid"]
    config, weights = folder / "tiny" / "config.json", folder / "tiny" / "model.safetensors"
    for broken in (config, weights):
        content = broken.read_bytes()
        broken.write_bytes(b"{" + content[1:100])
        answer = reload(own, "tiny")
        broken.write_bytes(content)
        assert answer.status_code == 500, answer.text
        assert "tiny" in answer.json()["detail"]
        assert own.chat("tiny").status_code == 200
        assert own.model("tiny")["pid"] == before
    assert reload(own, "nothing").status_code == 404


def test_the_settings_are_read_again(own: Service) -> None:
    own.chat("tiny")
    pid = own.model("tiny")["pid"]
    nothing = own.client.post("/admin/settings/reload").json()
    assert nothing == {"status": "reloaded", "applied": [], "at_next_load": [], "needs_restart": []}

    rewrite(own, '"max_memory_gb" = 4', '"max_memory_gb" = "much"\n"max_models" = 0\n"wrong" = 1')
    answer = own.client.post("/admin/settings/reload")
    assert answer.status_code == 400
    assert len(answer.json()["detail"].splitlines()) == 3, answer.text
    assert own.status()["max_memory_gb"] == 4

    rewrite(
        own, '"max_memory_gb" = "much"\n"max_models" = 0\n"wrong" = 1', '"max_memory_gb" = 3\n"allow_downloads" = true'
    )
    rewrite(own, '"options" = {}', '"keep_alive_seconds" = 7200')
    assert own.client.post("/admin/settings/reload").json() == {
        "status": "reloaded",
        "applied": ["max_memory_gb"],
        "at_next_load": ["tiny"],
        "needs_restart": ["allow_downloads"],
    }
    shown = own.client.get("/admin/settings").json()["broker"]
    assert (shown["max_memory_gb"], shown["allow_downloads"]) == (3, False), "those in force"
    assert own.status()["max_memory_gb"] == 3
    entry = own.model("tiny")
    assert entry["pid"] == pid, "no model is touched"
    assert entry["idle_until"] - entry["last_used"] < 7200
    assert reload(own, "tiny").status_code == 200
    own.chat("tiny")
    entry = own.model("tiny")
    assert entry["idle_until"] - entry["last_used"] == pytest.approx(7200, abs=1)


def test_no_room_is_told_in_numbers_and_a_gap_makes_it(own: Service) -> None:
    own.chat("tiny")
    taken = own.model("tiny")["size_gb"]
    text = own.config.read_text()
    own.config.write_text(text.replace('"max_memory_gb" = 3', f'"max_memory_gb" = {1.5 * taken:.4f}'))
    assert own.client.post("/admin/settings/reload").json()["applied"] == ["max_memory_gb"]
    before = own.model("tiny")["pid"]
    answer = reload(own, "tiny")
    assert answer.status_code == 409, answer.text
    assert "GiB beside the process that serves" in answer.json()["detail"]
    assert own.model("tiny")["pid"] == before
    answer = reload(own, "tiny", allow_gap=True)
    assert answer.status_code == 200, answer.text
    assert own.model("tiny")["pid"] != before
    assert own.chat("tiny").status_code == 200
    own.config.write_text(text)
    assert own.client.post("/admin/settings/reload").status_code == 200


def test_a_process_is_recycled_and_events_tell_it(own: Service) -> None:
    rewrite(own, '"keep_alive_seconds" = 7200', '"recycle_after_requests" = 3')
    assert own.client.post("/admin/settings/reload").json()["at_next_load"] == ["tiny"]
    assert reload(own, "tiny").status_code == 200
    before = own.model("tiny")["pid"]
    with own.second_client().stream("GET", "/admin/models/tiny/progress", timeout=60) as changes:
        lines = (line for line in changes.iter_lines() if line.startswith("data: "))
        next(lines)
        for _ in range(3):
            assert own.chat("tiny").status_code == 200
        reasons = []
        for line in lines:
            event = json.loads(line.removeprefix("data: "))
            reasons.append((event["state"], event["reason"]))
            if len(reasons) > 1 and event["reason"] is None:
                break
    assert ("ready", "reload") in reasons
    assert {state for state, _ in reasons} == {"ready"}
    assert own.model("tiny")["pid"] != before
    assert own.chat("tiny").status_code == 200
