"""A vision engine with little memory: requests wait for room, and their answers are those without a bound."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from broker.wire.body import from_map
from broker.wire.failure import Failure
from broker.wire.outputs import ERROR, FINAL, Output
from tests.tiny_vision import make_tiny_vision
from tests.worker.engine_runs import add, answer, joined, without_count
from tests.worker.stepping import steps
from tests.worker.vision.vision_runs import ONE, TEXT_ONLY, THREE, TWO_TURNS, assert_nothing_left, load
from worker.prefill_lease import PrefillLease
from worker.vision.engine import VisionEngine

PLENTY = 1 << 40
REQUESTS: list[dict[str, Any]] = [
    {**fields, "temperature": 0.0, "max_tokens": 40} for fields in (ONE, THREE, TEXT_ONLY, TWO_TURNS, ONE)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_vision(tmp_path_factory.mktemp("vision") / "tiny")


@pytest.fixture
def engine(folder: Path) -> Iterator[VisionEngine]:
    memory, cache = mx.set_memory_limit(PLENTY), mx.set_cache_limit(PLENTY)
    yield load(folder, share=PLENTY)
    mx.set_memory_limit(memory)
    mx.set_cache_limit(cache)


def test_requests_wait_for_room_and_their_answers_are_whole(folder: Path, engine: VisionEngine) -> None:
    alone = [answer(load(folder), **fields) for fields in REQUESTS]
    needed = []
    for number, fields in enumerate(REQUESTS):
        add(engine, number, **fields)
        while engine.has_work:
            engine.step()
            needed.append(engine.room.plan.needed())
    engine.room.granted(max(needed), 0)
    ids = [add(engine, number, **fields) for number, fields in enumerate(REQUESTS)]
    outputs: dict[bytes, list[Output]] = {request_id: [] for request_id in ids}
    most = waited = 0
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
        stats = engine.stats()
        most, waited = max(most, stats.decoding + stats.prefilling), max(waited, stats.waiting_for_room)
    assert 0 < most < len(REQUESTS)
    assert waited == 1  # the first; those behind it have not been looked at
    assert [without_count(joined(of_one)) for of_one in outputs.values()] == alone
    assert_nothing_left(engine)


def test_an_image_has_memory_until_the_prompt_has_been_read(engine: VisionEngine) -> None:
    add(engine, 1, **REQUESTS[0])
    beside = []
    while engine.has_work:
        beside.append(sum(engine.room.plan.beside.values()))
        engine.step()
    assert max(beside) > 0
    assert beside[-1] == 0


def test_a_request_that_can_never_fit_is_refused(engine: VisionEngine) -> None:
    least = engine.room.plan.fixed
    engine.room.granted(least, least)
    request_id = add(engine, 1, **REQUESTS[0])
    (output,) = steps(engine)
    assert (output.request_id, output.kind) == (request_id, ERROR)
    failure = from_map(Failure, output.body)
    assert failure.code == "context_length_exceeded"
    assert "MiB" in failure.message
    assert_nothing_left(engine)


def test_one_that_waits_can_be_cancelled(engine: VisionEngine) -> None:
    engine.room.granted(engine.room.plan.fixed, 0)
    request_id = add(engine, 1, **REQUESTS[0])
    while engine.has_work:
        assert engine.step() == []
    assert engine.stats().waiting_for_room == 1
    engine.cancel(request_id)
    assert_nothing_left(engine)


def test_who_has_got_its_memory_asks_for_its_turn_to_prefill(engine: VisionEngine) -> None:
    lease = PrefillLease(engine.stats, engine.hold_prefill)
    engine.hold_prefill(False)
    engine.room.granted(engine.room.plan.fixed, 0)
    request_id = add(engine, 1, **REQUESTS[0])
    assert steps(engine) == []
    assert lease.news() is None
    engine.room.granted(PLENTY, 0)
    assert engine.has_work
    assert lease.news() is True
    assert lease.blocks
    lease.lent(60.0)
    assert lease.news() is None
    assert [(output.request_id, output.kind) for output in steps(engine)][-1] == (request_id, FINAL)
    assert lease.news() is False


def test_a_prompt_whose_tokens_are_drawn_is_a_prompt(engine: VisionEngine) -> None:
    most = engine.room.plan.alone(20)
    engine.room.granted(most, most)
    asked = {"echo": True, "logprobs": 0, "max_tokens": 300, "max_tokens_is_default": True}
    add(engine, 1, prompt="a" * 200, **asked)
    (output,) = steps(engine)
    assert (output.kind, output.body["param"]) == (ERROR, "prompt")
    assert_nothing_left(engine)
