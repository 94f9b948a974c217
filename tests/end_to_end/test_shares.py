"""Memory on real processes: who takes more than the machine has goes alone, and what a model took is remembered."""

import json
import sys
from collections.abc import Callable

from tests.conftest import ECHO, MISBEHAVING, PACED
from tests.service import Service

MakeService = Callable[..., Service]

TOKENS = 60
TEXT = "".join(f"{n:03d}." for n in range(TOKENS))  # four characters to a token


def test_only_the_process_that_takes_more_than_the_budget_is_ended(make_service: MakeService) -> None:
    paced = ECHO | {"options": PACED}
    service = make_service(
        models={"bad": MISBEHAVING | {"options": PACED}, "one": paced, "two": paced},
        broker={"max_memory_gb": 0.75, "memory_sample_seconds": 0.1},
    )
    for model_id in ("one", "two"):
        service.load(model_id).raise_for_status()
    pids = {model_id: service.model(model_id)["pid"] for model_id in ("one", "two")}
    with (
        service.stream("one", TEXT, max_tokens=TOKENS) as one,
        service.stream("two", TEXT, max_tokens=TOKENS) as two,
        service.stream("bad", "leak 900 after 3 tokens", max_tokens=2000, resume=False) as bad,
    ):
        one.next_text()
        two.next_text()
        bad.finish()
        assert bad.error is not None
        assert "memory_limit: took" in bad.error["message"]
        assert (one.finish().error, one.text) == (None, TEXT)
        assert (two.finish().error, two.text) == (None, TEXT)
    assert {model_id: service.model(model_id)["pid"] for model_id in ("one", "two")} == pids


def test_status_says_where_the_budget_comes_from_and_who_has_it(service: Service) -> None:
    service.load("tiny-a").raise_for_status()
    status, model = service.status(), service.model("tiny-a")
    usual = ("metal", "usual share of metal", "total memory") if sys.platform == "darwin" else ("total memory",)
    assert status["budget"]["origin"] in usual
    assert status["budget"]["pressure"] in ("normal", "warning", "critical")
    assert 0 < model["share_bytes"] <= model["wanted_bytes"]
    assert model["size_gb"] <= status["budget"]["taken_gb"] < status["max_memory_gb"]


def test_what_a_model_took_is_remembered_across_restarts(make_service: MakeService) -> None:
    service = make_service()
    service.load("tiny-a").raise_for_status()
    took = service.model("tiny-a")["footprint_bytes"]
    [size] = json.loads((service.directory / "state" / "measured.json").read_text())["measured"].values()
    assert 0.2 * took < size < 2 * took  # what a process takes changes after it is ready, too
