"""In which order steps are launched, read and turned into text: the device must not wait for the host."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.worker.engine_runs import add, load, load_with_batch
from worker.generation.sampling import GREEDY, Follower
from worker.generation.sequence import Sequence
from worker.text import continuous_batch
from worker.text.draw import numbers
from worker.text.engine import TextEngine

STREAMS = 4
TOKENS = 40


class Trace:
    """What happens, in its order: `launch` something on the device, `read` the tokens of a step, `text` of a token,
    `send` what a step has said."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self._note(patch, mx, "async_eval", "launch")
        self._note(patch, continuous_batch, "numbers", "read")
        self._note(patch, Sequence, "advance", "text")

    def _note(self, patch: pytest.MonkeyPatch, where: Any, name: str, event: str) -> None:
        original = getattr(where, name)

        def noted(*arguments: Any) -> Any:
            self.events.append(event)
            return original(*arguments)

        patch.setattr(where, name, noted)

    def step(self, engine: TextEngine) -> list[str]:
        """One step of the engine."""
        self.events.clear()
        if engine.step():
            self.events.append("send")
        return [*self.events]


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    return Trace(monkeypatch)


def decoding(engine: TextEngine, **fields: Any) -> None:
    for number in range(STREAMS):
        stated = {"prompt": f"{number} tales", "max_tokens": TOKENS, "stream": True, "logit_bias": {"5": 100.0}}
        add(engine, number, **{**stated, **fields})
    while engine.stats().decoding < STREAMS:
        engine.step()
    for _ in range(2):
        engine.step()


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0.0}, {"seed": 1}, {"logprobs": 2, "seed": 1}, {"stop": ["no such text"]}, {"top_p": 0.5}],
    ids=["greedy", "seeded", "logprobs", "stop", "top_p"],
)
def test_a_step_is_launched_before_the_last_one_is_read(tiny_model: Path, trace: Trace, fields: dict[str, Any]) -> None:
    engine = load(tiny_model)
    decoding(engine, **fields)
    for _ in range(20):
        events = trace.step(engine)
        assert events[-(STREAMS + 2) :] == ["read", *["text"] * STREAMS, "send"]
        assert set(events[: -(STREAMS + 2)]) == {"launch"}


def test_nothing_is_launched_behind_the_last_token(tiny_model: Path, trace: Trace) -> None:
    engine = load(tiny_model)
    decoding(engine)
    events = [trace.step(engine) for _ in range(TOKENS) if engine.has_work]
    assert all("launch" in one for one in events[:-1])
    assert events[-1][:2] == ["read", "text"]


class Watcher(Follower):
    """Reads the newest token, as a constraint does, and changes nothing."""

    def __init__(self, events: list[str]) -> None:
        self._events = events

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        self._events.append("follow")
        tokens[-1].item()
        return logits

    def catch_up(self, said: list[int]) -> None:
        assert not said


def test_the_model_runs_while_a_constraint_reads_its_token(tiny_model: Path, trace: Trace) -> None:
    """What such a request needs from the host is between a run of the model and its draw, not before the run."""
    _, batch = load_with_batch(tiny_model)
    for processors in ([Watcher(trace.events)], []):
        batch.insert(
            [[65, 66]], TOKENS, cache=None, tokens=[], sampler=GREEDY, processors=[*processors], wants_logprobs=False
        )
    while batch.counts().decoding < 2:
        batch.next()
    for _ in range(10):
        trace.events.clear()
        batch.next()
        assert trace.events[:3] == ["launch", "follow", "launch"]
        assert trace.events[-1] == "read"


def test_steps_launched_late_are_counted(tiny_model: Path) -> None:
    """Where the host dawdles before a launch, the device has nothing to do, and that is seen."""
    engine = load(tiny_model)
    decoding(engine, max_tokens=400)
    before = engine.stats()
    for _ in range(100):
        mx.synchronize()  # the device has done all that it was given
        engine.step()
    after = engine.stats()
    assert after.decode_steps - before.decode_steps == 100
    assert after.late_steps - before.late_steps >= 80  # a busy machine may hold up a read


def test_a_step_that_is_waited_for_is_not_late(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(tiny_model)
    decoding(engine, max_tokens=400)
    heavy = mx.random.normal((600, 600))
    read = numbers

    def busy(drawn: mx.array) -> list[int]:
        return read(drawn + (0 * mx.linalg.norm(heavy @ heavy)).astype(drawn.dtype))  # the device has more to compute

    monkeypatch.setattr(continuous_batch, "numbers", busy)
    before = engine.stats()
    for _ in range(10):
        engine.step()
    assert engine.stats().late_steps <= before.late_steps + 2  # a busy machine may hold up a launch
    assert engine.stats().decode_steps == before.decode_steps + 10
