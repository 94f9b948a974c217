"""Requests to the text engine come, leave and wait, and leave no memory behind."""

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from broker.wire.outputs import FINAL, PARTIAL, Output
from tests.tiny_models import make_tiny_model
from tests.worker.engine_runs import add, answer, assert_empty, load, load_recorded
from tests.worker.harness import text_of
from tests.worker.stepping import steps
from worker.text.engine import TextEngine


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TextEngine:
    return load(tiny_model)


def test_a_long_prompt_lets_others_go_on(tiny_model: Path) -> None:
    """After each piece of its prefill, the others get a token."""
    engine, calls = load_recorded(tiny_model, prefill_step_size=64)
    always = {str(engine.loaded.tokenizer.encode("b")[-1]): 100.0}
    first = add(engine, 1, prompt="x", logit_bias=always, temperature=0.0, max_tokens=500, stream=True)
    for _ in range(5):
        engine.step()
    second = add(engine, 2, prompt="long" * 1000, temperature=0.0, max_tokens=1)
    calls.clear()
    outputs: list[Output] = []
    while not any(output.request_id == second for output in outputs):
        outputs += engine.step()
    pieces = [length for _, length in calls if length > 1]
    assert sum(pieces) == 3999  # the last token is read with the first of the answer
    assert max(pieces) == 64
    # Only what ends the prompt need not wait: all of this has taken little time.
    assert all(after == (1, 1) for (_, length), after in list(pairwise(calls))[:-4] if length > 1)
    assert text_of([output for output in outputs if output.request_id == first]).count("b") >= len(pieces) - 4
    engine.cancel(first)


@pytest.mark.parametrize(("most", "together"), [(2, 8), (3, 2), (40, 5)])
@pytest.mark.parametrize("sliding_window", [None, 16], ids=["plain", "window"])
def test_no_more_at_once_than_is_set(tmp_path: Path, most: int, together: int, sliding_window: int | None) -> None:
    """Prompts that are read in one step, and such that stop before their last token."""
    folder = make_tiny_model(tmp_path / "model", layers=2, sliding_window=sliding_window)
    engine, calls = load_recorded(folder, completion_batch_size=most, prefill_batch_size=together)
    for number in range(50):
        add(engine, number, prompt=f"{number:02} " + "many " * 8, temperature=0.0, max_tokens=30)
    steps(engine)
    assert max(rows for rows, length in calls if length == 1) == most
    assert max(rows for rows, length in calls if length > 1) == min(most, together)


@pytest.mark.parametrize("steps_before", [0, 1, 2, 5, 30])
def test_a_cancelled_request_is_gone_before_the_next_step(tiny_model: Path, steps_before: int) -> None:
    """Queued, while its prompt is read in pieces, and while it decodes."""
    engine = load(tiny_model, prefill_step_size=16, prefill_batch_size=1, completion_batch_size=2)
    kept = {"prompt": "keep", "temperature": 0.0, "max_tokens": 80}
    expected = answer(engine, **kept)["text"]
    keep = add(engine, 1, **kept)
    gone = [add(engine, number, prompt="y" * 60, max_tokens=500, stream=True) for number in (2, 3, 4)]
    outputs = [output for _ in range(steps_before) for output in engine.step()]
    for request_id in gone:
        engine.cancel(request_id)
        engine.cancel(request_id)
    stats = engine.stats()
    assert (stats.live, stats.waiting + stats.prefilling + stats.decoding) == (1, 1)
    rest = steps(engine)
    assert {output.request_id for output in rest} == {keep}
    assert text_of([output for output in [*outputs, *rest] if output.request_id == keep]) == expected
    assert_empty(engine)


def test_one_end_per_request_under_random_joins_and_cancels(engine: TextEngine) -> None:
    generator = random.Random(11)
    live: set[bytes] = set()
    ends: dict[bytes, int] = {}
    cancelled: set[bytes] = set()
    for number in range(150):
        text, limit = "r" * generator.randint(1, 80), generator.randint(1, 30)
        stop = generator.choice([[], ["a"], ["\x0f"]])
        live.add(add(engine, number, prompt=text, max_tokens=limit, stream=generator.random() < 0.5, stop=stop))
        for request_id in generator.sample(sorted(live), k=min(len(live), generator.choice((0, 0, 1, 2)))):
            engine.cancel(request_id)
            cancelled.add(request_id)
            live.remove(request_id)
        for output in engine.step() if number < 149 else steps(engine):
            assert output.request_id in live
            if output.kind != PARTIAL:
                ends[output.request_id] = output.kind
                live.remove(output.request_id)
    assert not live
    assert len(ends) + len(cancelled) == 150
    assert set(ends.values()) == {FINAL}
    assert_empty(engine)


def test_a_hundred_cancels_at_random_moments_leave_nothing(tiny_model: Path) -> None:
    engine = load(tiny_model, prefill_step_size=32, prompt_cache_tokens=2000)
    generator = random.Random(5)
    for number in range(100):
        kind: dict[str, Any] = generator.choice(
            [{}, {"seed": 1}, {"logprobs": 2}, {"repetition_penalty": 1.2}, {"grammar": "start: /[ab]{9,}/"}]
        )
        request_id = add(engine, number, prompt="c" * generator.randint(1, 150), max_tokens=100, **kind)
        add(engine, 1000 + number, prompt="short", max_tokens=generator.randint(1, 9))
        for _ in range(generator.randint(0, 8)):
            engine.step()
        engine.cancel(request_id)
    steps(engine)
    assert_empty(engine)


@pytest.mark.slow
def test_two_thousand_short_requests_leave_no_memory_behind(tiny_model: Path) -> None:
    engine = load(tiny_model, prompt_cache_tokens=4000)

    def requests(count: int) -> tuple[int, int]:
        for begin in range(0, count, 40):
            for number in range(begin, begin + 40):
                add(engine, number, prompt=f"{number} short", max_tokens=2, stop=["zz"])
            steps(engine)
        return engine.memory().active_bytes, psutil.Process().memory_info().rss

    active, resident = requests(400)
    active_after, resident_after = requests(2000)
    # The batch lets go of its last buffers at the next request.
    assert active_after <= active + 1_000_000
    assert resident_after <= resident + 30_000_000


def test_facts_and_memory(engine: TextEngine) -> None:
    assert engine.facts.weights_bytes > 90_000
    assert engine.facts.context_length == 8192
    assert engine.memory().active_bytes >= engine.facts.weights_bytes
    assert engine.memory().peak_bytes >= engine.memory().active_bytes


def test_what_requests_took_is_given_back(tiny_model: Path) -> None:
    engine = load(tiny_model, prompt_cache_tokens=0)

    def round_of_requests() -> None:
        ids = [add(engine, number, prompt="m" * 50, max_tokens=20) for number in range(20)]
        engine.step()
        for request_id in ids[::2]:
            engine.cancel(request_id)
        steps(engine)

    round_of_requests()
    before = engine.memory().active_bytes
    for _ in range(5):
        round_of_requests()
    assert engine.memory().active_bytes <= before + 10_000
