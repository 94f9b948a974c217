"""Two models read long prompts at the same time: in turns where the setting says so, else beside each other."""

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.policy.prefill_turns import LEASE_SECONDS
from tests.service import Service, wait_until
from tests.timing import assert_below

TOKENS_PER_SECOND = 1000
PROMPT = "a long prompt " * 43  # about 600 tokens, of a character each

Intervals = list[tuple[float, float]]


class Pair:
    """Models `a` and `b` of one service, and when they prefill."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service = service
        self._folder = folder
        for name in "ab":
            service.load(name).raise_for_status()
        self.forget()

    def forget(self) -> None:
        for name in "ab":
            (self._folder / name).write_text("")

    def prefills(self, name: str) -> Intervals:
        lines = (self._folder / name).read_text().splitlines()
        return [(float(begin), float(end)) for begin, end in map(str.split, lines)]

    def ask(self, names: str, prompt: str = PROMPT) -> dict[str, list[httpx.Response]]:
        """An answer for each letter, all asked at once. No two prompts are equal: those are prefilled once."""
        answers: dict[str, list[httpx.Response]] = {name: [] for name in names}

        def one(number: int, name: str) -> None:
            answers[name].append(self.service.chat(name, f"{number} {prompt}", max_tokens=2))

        threads = [threading.Thread(target=one, args=numbered) for numbered in enumerate(names)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers


@pytest.fixture
def make_pair(make_service: Callable[..., Service], tmp_path: Path, models_dir: Path) -> Callable[[bool], Pair]:
    def make(in_turns: bool) -> Pair:
        models: dict[str, Any] = {}
        for name in "ab":
            options = {
                "folder": str(models_dir / "tiny-a"),
                "tokens_per_second": TOKENS_PER_SECOND,
                "step_seconds": 0.002,
                "prefill_log": str(tmp_path / name),
                "prompt_cache_tokens": 0,
            }
            models[name] = {"engine": "tests.slow_engine:SlowEngine", "type": "text-gen", "options": options}
        return Pair(make_service(models=models, broker={"prefill_in_turns": in_turns}), tmp_path)

    return make


def overlap(one: Intervals, other: Intervals) -> float:
    """Seconds in which both compute."""
    return sum(max(0.0, min(e1, e2) - max(b1, b2)) for b1, e1 in one for b2, e2 in other)


@pytest.mark.parametrize("in_turns", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_one_model_prefills_at_a_time_where_the_setting_says_so(
    make_pair: Callable[[bool], Pair], in_turns: bool
) -> None:
    pair = make_pair(in_turns)
    answers = pair.ask("aabb")
    assert [answer.status_code for both in answers.values() for answer in both] == [200] * 4
    a, b = pair.prefills("a"), pair.prefills("b")
    assert min(sum(end - begin for begin, end in one) for one in (a, b)) > 1.0
    assert (overlap(a, b) < 0.01) == in_turns


def test_the_death_of_the_one_that_prefills_lets_the_other_begin(make_pair: Callable[[bool], Pair]) -> None:
    pair = make_pair(True)

    def waited() -> float:
        """Seconds from the beginning of the first one's prefill to the second one's, which would be a lease."""
        pair.forget()
        first = threading.Thread(target=pair.ask, args=("a", PROMPT * 4))
        first.start()
        wait_until(lambda: pair.prefills("a"), what="the prefill of a")
        second = threading.Thread(target=pair.ask, args=("b",))
        second.start()
        wait_until(lambda: pair.service.model("b")["in_flight"] == 1, what="the request of b")
        is_early = bool(pair.prefills("b"))  # the lease was over before a machine that stalls came so far
        pair.service.kill("a").raise_for_status()
        second.join()
        first.join()
        return math.inf if is_early else pair.prefills("b")[0][0] - pair.prefills("a")[0][0]

    assert_below(LEASE_SECONDS, waited)
