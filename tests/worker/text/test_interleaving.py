"""Prefill and decode take turns by time: on a clock that only the model moves."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache

from tests.slow_engine import SlowModel
from worker.generation.pace import Pace
from worker.generation.sampling import GREEDY
from worker.text.continuous_batch import ContinuousBatch

pytestmark = pytest.mark.exact


class Light:
    """As cheap as a model with a cache can be: it attends to nothing, and every token follows from the one before."""

    def __init__(self) -> None:
        self.layers = [None]

    def __call__(self, tokens: mx.array, cache: list[KVCache]) -> mx.array:
        cache[0].update_and_fetch(*[tokens.astype(mx.float32)[:, None, :, None]] * 2)
        return mx.where(mx.arange(8) == (tokens[..., None] + 1) % 8, 1.0, 0.0)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


class Served:
    """A batch on a clock of its own. rate: tokens of prompts per second; step: seconds of a step of decode."""

    def __init__(self, rate: float, step: float) -> None:
        self.clock = Clock()
        self.times: dict[int, list[float]] = {}
        self.longest_step = 0.0
        # Of each call of the model: its rows, the tokens of each, and the time after it.
        self.calls: list[tuple[int, int, float]] = []
        slow = SlowModel(Light(), token=1 / rate, step=step, wait=self.clock.wait)
        self.batch = ContinuousBatch(
            self._recorded(slow),
            stop_tokens=[],
            completion_batch_size=32,
            prefill_batch_size=8,
            pace=Pace(2048),
            stream=mx.default_stream(mx.default_device()),
            clock=self.clock,
        )

    def _recorded(self, model: Any) -> Any:
        def call(tokens: mx.array, cache: list[Any]) -> Any:
            result = model(tokens, cache=cache)
            rows, length = tokens.shape
            self.calls.append((rows, length, self.clock.now))
            return result

        call.layers = model.layers  # type: ignore[attr-defined] # as make_prompt_cache asks
        return call

    def ask(self, length: int, most: int) -> int:
        uid = self.batch.insert(
            [[1] * length], most, cache=None, tokens=[], sampler=GREEDY, processors=[], wants_logprobs=False
        )
        self.times[uid] = []
        return uid

    def until(self, *uids: int) -> None:
        """All of these have their first token."""
        while not all(self.times[uid] for uid in uids):
            began = self.clock.now
            for decoded in self.batch.next()[1]:
                self.times[decoded.uid].append(self.clock.now)
            self.longest_step = max(self.longest_step, self.clock.now - began)

    def gap(self, uid: int) -> float:
        return max(later - earlier for earlier, later in pairwise(self.times[uid]))


def test_streams_keep_two_fifths_of_their_rate_while_a_long_prompt_is_read() -> None:
    served = Served(rate=700, step=0.005)
    streams = [served.ask(20, 10**6) for _ in range(4)]
    served.until(*streams)
    alone = served.ask(1000, 1)
    served.until(alone)
    began, before = served.clock.now, len(served.times[streams[0]])
    served.calls.clear()
    long = served.ask(6000, 5)
    served.until(long)
    seconds = served.clock.now - began
    assert seconds <= 2.2 * 6000 / 700
    for uid in streams:
        assert (len(served.times[uid]) - before) / seconds >= 0.4 / 0.005
        assert served.gap(uid) <= 0.3
    pieces = [(at, length / 700) for at, (_, length, _) in enumerate(served.calls) if length > 1]
    assert len(pieces) > 30
    for (at, piece), (later, _) in pairwise(pieces[3:-1]):
        # Each piece is followed by steps of decode that take about as long.
        assert 0.9 * piece <= (later - at - 1) * 0.005 <= 1.1 * piece + 0.01


@pytest.mark.parametrize("length", [4000, pytest.param(32_000, marks=pytest.mark.slow)])
def test_five_long_prompts_at_252_tokens_a_second(length: int) -> None:
    """A step never takes long, so none is taken for a hang. Two streams go on; the first prompt does not wait for the
    others."""
    served = Served(rate=252, step=0.04)
    streams = [served.ask(20, 10**6) for _ in range(2)]
    served.until(*streams)
    served.longest_step = 0.0
    began = served.clock.now
    prompts = [served.ask(length, 2) for _ in range(5)]
    served.until(prompts[0])
    assert served.clock.now - began <= 2.2 * length / 252
    short = served.ask(16, 2)
    asked = served.clock.now
    served.until(short)
    assert served.clock.now - asked <= 0.6
    served.until(*prompts)
    assert served.clock.now - began <= 2.2 * 5 * length / 252
    # On this clock a step that is launched ahead has ended before the tokens of the one before are known.
    assert served.longest_step <= 0.3
    assert max(map(served.gap, streams)) <= 0.3 + 0.04


def test_without_others_a_piece_takes_half_a_second_at_most() -> None:
    served = Served(rate=252, step=0.04)
    served.until(served.ask(2000, 1))
    assert served.longest_step <= 0.5
    assert len(served.calls) <= 2000 / 252 / 0.3


def test_eight_short_prompts_begin_together() -> None:
    served = Served(rate=2000, step=0.016)
    stream = served.ask(200, 10**6)
    served.until(stream)
    for _ in range(3):
        served.batch.next()
    served.calls.clear()
    uids = [served.ask(8 + number, 9) for number in range(8)]
    served.until(*uids)
    assert [(rows, length) for rows, length, _ in served.calls][:3] == [(8, 14), (8, 1), (9, 1)]
    assert {served.times[uid][0] for uid in uids} == {served.clock.now}
