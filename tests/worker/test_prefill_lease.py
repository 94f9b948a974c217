"""Prefill that the broker lends: what a worker asks for, and what an engine does without it."""

from pathlib import Path
from typing import Any

import pytest

from broker.wire.outputs import FINAL
from tests.worker.engine_runs import add, load
from tests.worker.stepping import steps
from tests.worker.text.one_row import OneRow
from tests.worker.text.test_warm_up import in_turns
from worker.engine import EngineStats
from worker.prefill_lease import PrefillLease
from worker.text.make_batch import MakeBatch, make_batch


class Played:
    """An engine and a clock, as the lease sees them."""

    def __init__(self) -> None:
        self.stats = EngineStats()
        self.now = 100.0
        self.is_held = False
        self.lease = PrefillLease(lambda: self.stats, self._hold, lambda: self.now)

    def _hold(self, is_held: bool) -> None:
        self.is_held = is_held


@pytest.fixture
def played() -> Played:
    return Played()


def test_it_asks_once_and_prefills_when_lent(played: Played) -> None:
    assert (played.lease.news(), played.is_held, played.lease.blocks) == (None, True, False)
    played.stats = EngineStats(live=1, waiting=1)
    assert (played.lease.news(), played.is_held, played.lease.blocks) == (True, True, True)
    assert played.lease.news() is None
    played.lease.lent(2.0)
    assert (played.lease.news(), played.is_held, played.lease.blocks) == (None, False, False)
    played.stats = EngineStats(live=1, decoding=1)
    assert (played.lease.news(), played.is_held, played.lease.blocks) == (False, True, False)
    assert played.lease.news() is None


def test_it_asks_again_when_its_time_is_over(played: Played) -> None:
    played.stats = EngineStats(live=1, prefilling=1)
    played.lease.news()
    played.lease.lent(2.0)
    played.now += 1.9
    assert (played.lease.news(), played.is_held) == (None, False)
    played.now += 0.2
    assert (played.lease.news(), played.is_held, played.lease.blocks) == (True, True, True)
    assert played.lease.news() is None


def test_sequences_that_decode_go_on_without_it(played: Played) -> None:
    played.stats = EngineStats(live=2, waiting=1, decoding=1)
    assert (played.lease.news(), played.is_held, played.lease.blocks) == (True, True, False)


def test_what_waits_for_memory_cannot_prefill(played: Played) -> None:
    played.stats = EngineStats(live=2, waiting=2, waiting_for_room=2)
    assert (played.lease.news(), played.lease.blocks) == (None, False)


@pytest.mark.parametrize("kind", [make_batch, in_turns, OneRow])
def test_an_engine_decodes_and_reads_no_prompt_until_it_may(tiny_model: Path, kind: MakeBatch) -> None:
    engine = load(tiny_model, make_batch=kind)
    fields: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20, "stream": True}
    first = add(engine, 1, prompt="f" * 50, **fields)
    engine.hold_prefill(True)
    assert [engine.step() for _ in range(3)] == [[], [], []]
    assert engine.stats() == EngineStats(live=1, waiting=1)
    engine.hold_prefill(False)
    while not engine.stats().decoding:
        engine.step()
    second = add(engine, 2, prompt="s" * 50, **fields)
    engine.hold_prefill(True)
    outputs = [output for _ in range(30) for output in engine.step()]
    assert {output.request_id for output in outputs} == {first}
    assert outputs[-1].kind == FINAL
    counted = {"generation_tokens": 20, "prompt_tokens": 50}
    assert engine.stats() == EngineStats(live=1, waiting=1, cached_entries=1, **_not_stated(engine), **counted)
    engine.hold_prefill(False)
    assert steps(engine)[-1].request_id == second


def _not_stated(engine: Any) -> dict[str, int]:
    stats = engine.stats()
    return {name: getattr(stats, name) for name in ("cached_tokens", "cached_bytes", "decode_steps", "late_steps")}
