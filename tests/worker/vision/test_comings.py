"""Requests come, leave and wait, and leave no memory behind."""

import random
from pathlib import Path
from typing import Any

import psutil
import pytest

from broker.wire.outputs import FINAL
from broker.wire.packing import pack
from broker.wire.work import Generate
from tests.device_errors import DEVICE_ERRORS
from tests.worker.engine_runs import add, answer, joined, run
from tests.worker.stepping import steps
from tests.worker.vision.vision_runs import (
    ONE,
    TEXT_ONLY,
    THREE,
    TWO_TURNS,
    assert_nothing_left,
    load,
)
from worker.vision.engine import VisionEngine

pytestmark = pytest.mark.exact


@pytest.mark.parametrize("steps_before", [0, 1, 2, 3, 5, 9, 30])
def test_a_cancelled_request_is_gone_before_the_next_step(folder: Path, steps_before: int) -> None:
    """Waiting, between two of its images, while its prompt is read in pieces, and while it decodes."""
    engine = load(folder, prefill_step_size=8)
    kept: dict[str, Any] = {**ONE, "temperature": 0.0, "max_tokens": 60}
    expected = answer(engine, **kept)["text"]
    gone = add(engine, 2, **THREE, max_tokens=500, stream=True)
    keep = add(engine, 1, **kept)
    outputs = [output for _ in range(steps_before) for output in engine.step()]
    engine.cancel(gone)
    engine.cancel(gone)
    rest = steps(engine)
    assert {output.request_id for output in rest} == {keep}
    assert joined([output for output in [*outputs, *rest] if output.request_id == keep])["text"] == expected
    assert_nothing_left(engine)


def test_a_hundred_cancels_at_random_moments_leave_nothing(folder: Path) -> None:
    engine = load(folder, prefill_step_size=16)
    generator = random.Random(5)
    for number in range(100):
        kind: dict[str, Any] = generator.choice([{}, {"seed": 1}, {"logprobs": 2}, {"repetition_penalty": 1.2}])
        fields: dict[str, Any] = generator.choice([ONE, THREE, TWO_TURNS, TEXT_ONLY])
        request_id = add(engine, number, **fields, max_tokens=100, **kind)
        add(engine, 1000 + number, **generator.choice([ONE, TEXT_ONLY]), max_tokens=generator.randint(1, 5))
        for _ in range(generator.randint(0, 8)):
            engine.step()
        engine.cancel(request_id)
    steps(engine)
    assert_nothing_left(engine)


def test_more_requests_than_places(folder: Path) -> None:
    engine = load(folder, completion_batch_size=2)
    fields: list[dict[str, Any]] = [{**ONE, "seed": n, "max_tokens": 5 + n, "stream": n % 2 == 0} for n in range(6)]
    ends = [of_one[-1] for of_one in run(engine, fields)]
    assert [(end.kind, end.body["completion_tokens"]) for end in ends] == [(FINAL, 5 + n) for n in range(6)]
    assert_nothing_left(engine)


def test_prompts_are_read_in_turn_and_not_the_short_ones_first(folder: Path) -> None:
    engine = load(folder, prefill_step_size=8)
    ids = [add(engine, n, **fields, max_tokens=1) for n, fields in enumerate([THREE, {"prompt": "p" * 40}, ONE])]
    assert [output.request_id for output in steps(engine)] == ids


def test_a_family_that_must_read_a_prompt_as_a_whole(folder: Path) -> None:
    """As PaliGemma, whose prompts see themselves from both ends."""
    engine = load(folder, prefill_step_size=8)

    def steps_to_the_end() -> int:
        add(engine, 1, prompt="p" * 40, max_tokens=1)
        for step in range(1, 100):
            if engine.step():
                return step
        raise AssertionError("it does not come to an end")

    assert steps_to_the_end() > 5
    engine.model.vlm.no_chunked_prefill = True
    assert steps_to_the_end() <= 2
    engine.model.vlm.no_chunked_prefill = False
    assert steps_to_the_end() > 5


def test_while_images_are_read_the_others_go_on(engine: VisionEngine) -> None:
    """Each step gives a token to those that decode, whatever waits."""
    always = {str(engine.model.tokenizer.encode("b")[-1]): 100.0}
    busy = add(engine, 1, prompt="busy", max_tokens=200, stream=True, temperature=0.0, logit_bias=always)
    while not engine.stats().decoding:
        engine.step()
    add(engine, 2, **THREE, max_tokens=1)
    waited = 0
    while engine.stats().waiting:
        said = [output.body["text"] for output in engine.step() if output.request_id == busy]
        assert said == ["b"]
        waited += 1
    assert waited == 4  # three images, then the prompt
    steps(engine)


def test_an_error_of_the_gpu_is_not_the_fault_of_the_request_that_meets_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(folder)

    def fails(_prompt: object) -> None:
        raise RuntimeError(DEVICE_ERRORS["memory"])

    monkeypatch.setattr(engine.model, "see", fails)
    engine.add(b"x" * 16, pack(Generate(prompt="x")))
    with pytest.raises(RuntimeError, match="Insufficient Memory"):
        steps(engine)


def test_what_requests_took_is_given_back(folder: Path) -> None:
    engine = load(folder)

    def round_of_requests() -> None:
        ids = [add(engine, number, **THREE, max_tokens=10) for number in range(8)]
        for _ in range(9):
            engine.step()
        for request_id in ids[::2]:
            engine.cancel(request_id)
        steps(engine)

    round_of_requests()
    before = engine.memory().active_bytes
    for _ in range(3):
        round_of_requests()
    assert engine.memory().active_bytes <= before + 10_000
    assert engine.memory().peak_bytes >= before >= engine.facts.weights_bytes > 90_000
    assert engine.facts.context_length == 8192


def assert_memory_returns(folder: Path, warm: int, count: int) -> None:
    """Short requests with images and without, some of them cancelled: memory is as before."""
    engine = load(folder)

    def serve(count: int) -> tuple[int, int]:
        for begin in range(0, count, 20):
            ids = [add(engine, n, **(TEXT_ONLY if n % 4 == 0 else ONE), max_tokens=2) for n in range(begin, begin + 20)]
            engine.step()
            engine.cancel(ids[begin % 20])
            steps(engine)
        assert_nothing_left(engine)
        return engine.memory().active_bytes, psutil.Process().memory_info().rss

    active, resident = serve(warm)
    active_after, resident_after = serve(count)
    assert active_after <= active + 100_000
    assert resident_after <= resident + 30_000_000


def test_two_hundred_short_requests_leave_no_memory_behind(folder: Path) -> None:
    assert_memory_returns(folder, warm=100, count=200)


@pytest.mark.slow
def test_two_thousand_short_requests_leave_no_memory_behind(folder: Path) -> None:
    assert_memory_returns(folder, warm=400, count=2000)
