"""Prompts that take long to read, on a machine that is slow: nobody is killed, and streams go on."""

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from tests.service import Service
from tests.tiny_models import READABLE, make_tiny_model

MakeService = Callable[..., Service]

# A fifth of the seconds of an M1 Max with a model of 9B: 252 tokens a second. All five prompts together take twice as
# long as a step may, and a piece of them less than a tenth: a busy machine makes none of them a hang.
RATE = 1260
STEP_SECONDS = 0.02
STALL_SECONDS = 2.0


@pytest.mark.parametrize("length", [1000, pytest.param(3200, marks=pytest.mark.slow)])
def test_five_long_prompts_on_a_slow_machine(make_service: MakeService, tmp_path: Path, length: int) -> None:
    folder = make_tiny_model(tmp_path / "slow")
    options = {"folder": str(folder), "tokens_per_second": RATE, "step_seconds": STEP_SECONDS}
    service = make_service(
        models_path=tmp_path,
        models={"slow": {"engine": "tests.slow_engine:SlowEngine", "options": options}},
        broker={"stall_timeout_seconds": STALL_SECONDS, "heartbeat_interval_seconds": 0.1},
    )
    service.load("slow")
    pid = service.model("slow")["pid"]
    answers: list[httpx.Response] = []

    def ask(number: int) -> None:
        with service.second_client() as client:
            body = {"model": "slow", "prompt": str(number) * length, "max_tokens": 2, "temperature": 0}
            answers.append(client.post("/v1/completions", json=body))

    with service.stream("slow", max_tokens=7000, logit_bias=READABLE) as stream:
        stream.next_text()
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        before = len(stream.times)
        while any(thread.is_alive() for thread in threads):
            stream.next_text()
        gaps = [later - earlier for earlier, later in pairwise(stream.times[before:])]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert service.model("slow")["pid"] == pid
    # tests/worker/text/test_interleaving.py measures on a clock of its own how much of the time streams have.
    assert len(gaps) > 10
    assert max(gaps) < STALL_SECONDS
