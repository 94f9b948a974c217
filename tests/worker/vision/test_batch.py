"""Sequences that would disturb each other take turns: found out by computing, and the answers are the same."""

from pathlib import Path

import pytest

from tests.tiny_vision import make_tiny_vision
from tests.worker.engine_runs import add, answer
from tests.worker.vision.test_sweep import load_family
from tests.worker.vision.vision_runs import MIXED, ONE, assert_nothing_left, in_company, load, rounded
from worker.vision.batch import Turns


@pytest.mark.parametrize(("family", "takes_turns"), [("llava", False), ("qwen3_5", False), ("hunyuan_vl", True)])
def test_it_is_found_out_from_the_model_itself(
    family: str, takes_turns: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_family(family, tmp_path / "tiny", monkeypatch)
    assert isinstance(engine._batch, Turns) == takes_turns


def test_answers_in_turns_are_those_of_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_vision(tmp_path / "tiny")
    engine = load(folder)
    expected = [rounded(answer(engine, **fields)) for fields in MIXED]
    monkeypatch.setattr("worker.vision.batch.can_share", lambda *_: False)
    turns = load(folder, prefill_step_size=16)
    assert isinstance(turns._batch, Turns)
    assert [rounded(body) for body in in_company(turns, MIXED)] == [{**body, "cached_tokens": 0} for body in expected]


def test_no_sequence_waits_for_the_end_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.vision.batch.can_share", lambda *_: False)
    engine = load(make_tiny_vision(tmp_path / "tiny"))
    long = add(engine, 1, prompt="p" * 40, max_tokens=500, temperature=0.0)
    for _ in range(3):
        engine.step()
    short = add(engine, 2, **ONE, max_tokens=3, temperature=0.0)
    ended = [output.request_id for _ in range(12) for output in engine.step()]
    assert ended == [short]
    engine.cancel(long)
    assert_nothing_left(engine)
