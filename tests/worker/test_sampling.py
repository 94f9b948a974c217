from typing import Any

import mlx.core as mx
import pytest

from broker.protocol import Generate
from worker.sampling import Sampler, request_sampler

VOCABULARY = 1000


def sampler(**fields: float) -> Sampler:
    return request_sampler(Generate(prompt="x", **fields))  # type: ignore[arg-type] # fields of Generate


def draws(sample: Sampler, logprobs: mx.array, count: int = 50) -> list[int]:
    tokens: list[Any] = [sample(logprobs).item() for _ in range(count)]
    return tokens


@pytest.fixture
def flat() -> mx.array:
    return mx.full((1, VOCABULARY), -6.9)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, -(2**63)])
def test_a_seed_gives_a_sequence_of_its_own(flat: mx.array, seed: int) -> None:
    first = draws(sampler(seed=seed), flat)
    # Every draw takes a new key: 50 of 1,000 hardly collide.
    assert len(set(first)) > 40
    assert draws(sampler(seed=seed), flat) == first
    assert draws(sampler(seed=seed + 1 if seed < 0 else seed - 1 or 7), flat) != first


def test_others_draws_do_not_disturb_a_seeded_one(flat: mx.array) -> None:
    expected = draws(sampler(seed=3), flat)
    seeded, free = sampler(seed=3), sampler()
    assert [draws(seeded, flat, 1)[0] for _ in range(50) if draws(free, flat, 1)] == expected


@pytest.mark.parametrize("seed", [{}, {"seed": 5}])
def test_top_p_and_temperature(flat: mx.array, seed: dict[str, int]) -> None:
    logprobs = mx.log(mx.array([[0.5, 0.3, 0.15, 0.05]]))
    assert set(draws(sampler(**seed, top_p=0.4), logprobs)) == {0}
    assert set(draws(sampler(**seed, top_p=0.7), logprobs)) == {0, 1}
    assert set(draws(sampler(**seed, temperature=0.01), logprobs)) == {0}
    assert set(draws(sampler(**seed, temperature=100.0), logprobs, 200)) == {0, 1, 2, 3}
    assert set(draws(sampler(**seed, temperature=1e-30), logprobs)) == {0}


def test_one_call_samples_a_whole_batch() -> None:
    logprobs = mx.log(mx.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]]))
    assert sampler(temperature=0.0)(logprobs).tolist() == [0, 1, 0]
    assert sampler(temperature=0.0) is sampler(temperature=0.0, seed=1)
    assert sampler(temperature=0.5) is sampler(temperature=0.5)
    assert sampler(temperature=0.5, seed=1) is not sampler(temperature=0.5, seed=1)
