"""The text engine with a batch that it does not know: the same answers as with its own."""

from pathlib import Path
from typing import Any

import pytest

from tests.worker.engine_runs import add, assert_empty, load, run
from tests.worker.harness import text_of
from tests.worker.stepping import steps
from tests.worker.text.one_row import OneRow
from tests.worker.text.test_turn_batch import REQUESTS, SAMPLED
from worker.text.engine import TextEngine

pytestmark = pytest.mark.exact

EVERYTHING = [*REQUESTS, *SAMPLED]


@pytest.fixture(scope="module")
def own(tiny_model: Path) -> TextEngine:
    return load(tiny_model)


@pytest.fixture
def engine(tiny_model: Path) -> TextEngine:
    return load(tiny_model, make_batch=OneRow, prefill_step_size=64)


def ends(engine: TextEngine, requests: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """The text, finish_reason and number of tokens of each."""
    return [
        (text_of(of_one), of_one[-1].body["finish_reason"], of_one[-1].body["completion_tokens"])
        for of_one in run(engine, requests)
    ]


def test_the_same_answers(engine: TextEngine, own: TextEngine) -> None:
    """Greedy, seeded, constrained, with penalties, logprobs; a second time from the prompt cache."""
    expected = ends(own, EVERYTHING)
    assert ends(engine, EVERYTHING) == expected
    assert engine.stats().cached_tokens > 0
    assert ends(engine, EVERYTHING) == expected


def test_stop_strings(engine: TextEngine, own: TextEngine) -> None:
    fields: dict[str, Any] = {"prompt": "stop", "temperature": 0.0, "max_tokens": 60}
    stop = ends(own, [fields])[0][0][20:23]
    assert ends(engine, [{**fields, "stop": [stop]}, fields]) == ends(own, [{**fields, "stop": [stop]}, fields])


def test_a_second_turn_prefills_only_what_is_new(engine: TextEngine) -> None:
    begin: dict[str, Any] = {"prompt": "q" * 100, "temperature": 0.0, "max_tokens": 5}
    run(engine, [begin])
    assert run(engine, [{**begin, "prompt": "q" * 100 + "more"}])[0][-1].body["cached_tokens"] >= 99


def test_cancels_leave_nothing(engine: TextEngine) -> None:
    ids = [add(engine, number, prompt="c" * 50, seed=1, max_tokens=30) for number in range(3)]
    engine.step()
    stats = engine.stats()
    assert (stats.live, stats.waiting, stats.decoding) == (3, 2, 1)
    engine.cancel(ids[0])
    engine.cancel(ids[2])
    assert {output.request_id for output in steps(engine)} == {ids[1]}
    assert_empty(engine)
