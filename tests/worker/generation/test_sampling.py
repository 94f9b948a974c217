from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.sample_utils import make_sampler

from broker.wire.failure import FailureError
from broker.wire.work import Generate
from worker.generation.sampling import Sampler, _top_n_sigma, _typical, request_processors, request_sampler

VOCABULARY = 1000


def sampler(**fields: float) -> Sampler:
    return request_sampler(Generate(prompt="x", **fields), VOCABULARY)  # type: ignore[arg-type] # fields of Generate


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


@pytest.mark.parametrize(
    "fields",
    [{}, {"top_p": 0.5}, {"top_k": 9}, {"min_p": 0.9}, {"xtc_probability": 0.5, "xtc_threshold": 0.002}],
)
def test_a_seed_draws_what_mlx_lm_draws_after_it(fields: dict[str, Any]) -> None:
    logprobs = mx.log(mx.softmax(mx.random.normal((1, VOCABULARY), key=mx.random.key(0)), axis=-1))
    mx.random.seed(11)
    expected = draws(make_sampler(temp=0.8, **fields), logprobs)
    assert draws(sampler(seed=11, temperature=0.8, **fields), logprobs) == expected


def test_others_draws_do_not_disturb_a_seeded_one(flat: mx.array) -> None:
    expected = draws(sampler(seed=3), flat)
    seeded, free = sampler(seed=3), sampler()
    assert [draws(seeded, flat, 1)[0] for _ in range(50) if draws(free, flat, 1)] == expected


@pytest.mark.parametrize("seed", [{}, {"seed": 5}])
def test_top_p_and_temperature(flat: mx.array, seed: dict[str, int]) -> None:
    logprobs = mx.log(mx.array([[0.5, 0.3, 0.15, 0.05]]))
    assert set(draws(sampler(**seed, top_p=0.4), logprobs)) == {0}
    assert set(draws(sampler(**seed, top_p=0.7), logprobs)) == {0, 1}
    assert set(draws(sampler(**seed, top_p=0.0), logprobs)) == {0}
    assert set(draws(sampler(**seed, top_p=0.0, temperature=100.0, min_p=0.5, top_k=2), logprobs)) == {0}
    assert set(draws(sampler(**seed, temperature=0.01), logprobs)) == {0}
    assert set(draws(sampler(**seed, temperature=100.0), logprobs, 200)) == {0, 1, 2, 3}
    assert set(draws(sampler(**seed, temperature=1e-30), logprobs)) == {0}


def test_one_call_samples_a_whole_batch() -> None:
    logprobs = mx.log(mx.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]]))
    assert sampler(temperature=0.0)(logprobs).tolist() == [0, 1, 0]
    assert sampler(temperature=0.0) is sampler(temperature=0.0, seed=1)
    assert sampler(temperature=0.5) is sampler(temperature=0.5)
    assert sampler(temperature=0.5, seed=1) is not sampler(temperature=0.5, seed=1)


@pytest.mark.parametrize("seed", [{}, {"seed": 5}])
def test_what_each_filter_leaves(seed: dict[str, int]) -> None:
    logprobs = mx.log(mx.array([[0.5, 0.3, 0.15, 0.05]]))

    def drawn(**fields: float) -> set[int]:
        return set(draws(sampler(**seed, temperature=1.0, **fields), logprobs, 120))

    assert drawn(top_k=2) == {0, 1}
    assert drawn(top_k=-1) == drawn(top_k=0) == drawn(top_k=VOCABULARY) == {0, 1, 2, 3}
    # mlx-lm scales the log-probability of the most likely token: log(0.5) + log(0.4) = log(0.2).
    assert drawn(min_p=0.4) == {0, 1}
    # XTC removes all but the least likely of those above its threshold.
    assert drawn(xtc_probability=1.0, xtc_threshold=0.1) == {2, 3}
    assert drawn(xtc_probability=0.5, xtc_threshold=0.1) == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", [{}, {"seed": 5}])
@pytest.mark.parametrize(("temperature", "dtype"), [(1e39, mx.float32), (1e300, mx.float32), (1e9, mx.float16)])
def test_what_is_impossible_stays_so_however_hot(seed: dict[str, int], temperature: float, dtype: mx.Dtype) -> None:
    logprobs = mx.log(mx.array([[0.5, 0.3, 0.15, 0.05]])).astype(dtype)
    assert set(draws(sampler(**seed, temperature=temperature, top_k=2), logprobs, 120)) == {0, 1}
    constrained = mx.where(mx.array([[True, False, False, True]]), logprobs, -mx.inf)
    assert set(draws(sampler(**seed, temperature=temperature), constrained, 120)) == {0, 3}


def test_a_seed_alone_decides_about_xtc(flat: mx.array) -> None:
    fields = {"seed": 9, "xtc_probability": 0.5, "xtc_threshold": 0.0001}
    logprobs = mx.log(mx.softmax(mx.random.normal((1, VOCABULARY), key=mx.random.key(0)), axis=-1))
    expected = draws(sampler(**fields), logprobs)
    seeded, free = sampler(**fields), sampler(xtc_probability=0.5)
    assert [draws(seeded, logprobs, 1)[0] for _ in range(50) if draws(free, flat, 1)] == expected


def test_the_end_of_the_text_survives_xtc() -> None:
    logprobs = mx.log(mx.array([[0.4, 0.3, 0.2, 0.1]]))
    sample = request_sampler(Generate(prompt="x", xtc_probability=1.0, xtc_threshold=0.05), VOCABULARY, (0,))
    assert set(draws(sample, logprobs, 120)) == {0, 3}


def processed(tokens: list[int], **fields: Any) -> list[float]:
    logits = mx.array([[2.0, 2.0, 2.0, -2.0]])
    for processor in request_processors(Generate(prompt="x", **fields), 4):
        logits = processor(mx.array(tokens), logits)
    rows: Any = logits.tolist()
    return list(rows[0])


def test_what_each_penalty_does() -> None:
    assert request_processors(Generate(prompt="x"), 4) == []
    assert request_processors(Generate(prompt="x", repetition_penalty=1.0), 4) == []
    assert processed([0, 3, 0], repetition_penalty=2.0) == [1, 2, 2, -4]
    assert processed([0, 3, 0], presence_penalty=0.5) == [1.5, 2, 2, -2.5]
    assert processed([0, 3, 0], frequency_penalty=0.5) == [1, 2, 2, -2.5]
    assert processed([0, 3, 0], frequency_penalty=0.5, frequency_context_size=2) == [1.5, 2, 2, -2.5]
    assert processed([], logit_bias={"1": -100, "3": 5}) == [2, -98, 2, 3]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", -2),
        ("min_p", 1.5),
        ("min_p", float("nan")),
        ("xtc_probability", 1.5),
        ("xtc_threshold", 0.6),
        ("repetition_penalty", -0.5),
        ("presence_penalty", float("inf")),
        ("frequency_context_size", -1),
    ],
)
def test_what_would_end_a_step_is_refused_before(field: str, value: float) -> None:
    with pytest.raises(FailureError, match=field) as raised:
        sampler(**{field: value})
    assert raised.value.failure.param == field


@pytest.mark.parametrize("bias", [{"4": 1}, {"-1": 1}, {"x": 1}, {"1": "2"}, {"1": float("nan")}, {"1": True}])
def test_a_bias_for_what_is_no_token_is_refused(bias: dict[str, Any]) -> None:
    with pytest.raises(FailureError) as raised:
        request_processors(Generate(prompt="x", logit_bias=bias), 4)
    assert raised.value.failure.param == "logit_bias"


def within_sigmas(row: np.ndarray, sigmas: float) -> np.ndarray:
    """The definition of top_n_sigma."""
    possible = row[np.isfinite(row)]
    return np.asarray(row >= row.max() - sigmas * possible.std())


def most_typical(row: np.ndarray, mass: float) -> np.ndarray:
    """The definition of typical_p."""
    probabilities = np.exp(row.astype(np.float64))
    probabilities /= probabilities.sum()
    possible = probabilities > 0
    surprise = np.full(row.shape, np.inf)
    surprise[possible] = -np.log(probabilities[possible])
    entropy = (probabilities[possible] * surprise[possible]).sum()
    stays, held = np.zeros(row.shape, bool), 0.0
    for token in np.argsort(np.abs(surprise - entropy), kind="stable"):
        stays[token] = True
        held += probabilities[token]
        if held >= mass:
            break
    return stays


def some_rows(number: int) -> np.ndarray:
    rows = np.random.default_rng(number).normal(scale=3.0, size=(3, 60)).astype(np.float32)
    rows[1, :20] = -np.inf  # what a constraint excludes
    return np.asarray(rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True)))


@pytest.mark.parametrize("number", range(5))
def test_far_and_untypical_tokens_are_left_out(number: int) -> None:
    rows = some_rows(number)
    for sigmas in (0.3, 1.0, 2.5):
        left = np.isfinite(np.array(_top_n_sigma(mx.array(rows), sigmas)))
        assert (left == np.stack([within_sigmas(row, sigmas) for row in rows])).all()
    for mass in (1e-6, 0.2, 0.5, 0.95):
        left = np.isfinite(np.array(_typical(mx.array(rows), mass)))
        assert (left == np.stack([most_typical(row, mass) for row in rows])).all()


@pytest.mark.parametrize("seed", [{}, {"seed": 5}])
def test_top_n_sigma_and_typical_p_of_a_request(seed: dict[str, int]) -> None:
    [row, *_] = rows = some_rows(7)
    fields: dict[str, Any] = {**seed, "temperature": 2.0}
    logprobs = mx.array(rows[:1])
    near = within_sigmas(row, 1.5)
    assert set(draws(sampler(**fields, top_n_sigma=1.5), logprobs, 300)) <= set(np.flatnonzero(near).tolist())
    both = most_typical(np.where(near, row, -np.inf), 0.6)
    drawn = set(draws(sampler(**fields, top_n_sigma=1.5, typical_p=0.6), logprobs, 300))
    assert drawn <= set(np.flatnonzero(both).tolist())
    assert len(drawn) > 1
    off = draws(sampler(seed=3, top_n_sigma=-1.0, typical_p=1.0), logprobs)
    assert off == draws(sampler(seed=3), logprobs)
    assert draws(sampler(temperature=0.0, typical_p=0.1), logprobs, 1) == [int(row.argmax())]


@pytest.mark.parametrize("fields", [{"typical_p": 1.5}, {"typical_p": -0.1}, {"top_n_sigma": float("nan")}])
def test_other_values_are_refused(fields: dict[str, float]) -> None:
    [name] = fields
    with pytest.raises(FailureError) as caught:
        sampler(**fields)
    assert caught.value.failure.param == name
