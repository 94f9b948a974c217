"""What is measured with one token, beside what the caches of real sequences take."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from broker.wire.to_workers import Assign
from tests.tiny_families import FAMILIES, make_tiny_family
from tests.tiny_models import make_tiny_llama4, make_tiny_model
from worker.loading import memo
from worker.loading.model_folder import load_folder
from worker.memory.cost import CacheCost, WorkCost
from worker.memory.measure import cache_cost, work_cost
from worker.text.memory_plan import plan_of
from worker.text.options import TextOptions
from worker.text.quantisation import Quantisation

LENGTHS = (1, 40, 300, 1100, 2000)


def model_of(kind: str, folder: Path) -> Any:
    if kind in FAMILIES:
        make_tiny_family(folder, kind)
    elif kind == "llama4":
        make_tiny_llama4(folder)
    else:
        make_tiny_model(folder, layers=2, hidden_size=128, sliding_window=64 if kind == "window" else None)
    return load_folder(folder, lambda _stage, _fraction: None).model


def most_bytes(model: Any, tokens: int, piece: int, quantisation: Quantisation | None = None) -> int:
    """What a sequence of so many tokens takes at most, read in pieces but for the last sixteen tokens."""
    cache = make_prompt_cache(model)
    left, most = tokens, 0
    while left:
        size = min(piece, left - 16) if left > 16 else 1
        model(mx.array([[1] * size]), cache=cache)
        if quantisation is not None:
            quantisation.apply(cache)
        mx.eval([layer.state for layer in cache])
        left -= size
        most = max(most, sum(layer.nbytes for layer in cache))
    return most


def check(
    cost: CacheCost, model: Any, piece: int, quantisation: Quantisation | None = None, *, near_from: int = 1000
) -> None:
    for tokens in (*LENGTHS, 2 * near_from):
        real = most_bytes(model, tokens, piece, quantisation)
        estimate = cost.bytes(tokens) + piece * cost.per_window_token
        assert estimate >= real, tokens
        if tokens > near_from:
            assert estimate <= 1.3 * real, tokens


@pytest.mark.parametrize("kind", [*sorted(FAMILIES), "llama", "window", "llama4"])
def test_the_estimate_is_above_and_near_what_real_caches_take(kind: str, tmp_path: Path) -> None:
    model = model_of(kind, tmp_path / kind)
    check(cache_cost([model], make_prompt_cache), model, piece=64)


def test_quantised_caches(tmp_path: Path) -> None:
    model = model_of("llama", tmp_path / "model")
    quantisation = Quantisation(8, 32, 500)
    full = cache_cost([model], make_prompt_cache)
    cost = cache_cost([model], make_prompt_cache, Quantisation(8, 32, 0).apply, 500 + 64)
    # Before, the step of allocation counts twice: for what becomes quantised, and for what it becomes.
    check(cost, model, 64, quantisation, near_from=2000)
    assert cost.bytes(20_000) < full.bytes(20_000) / 2


def test_a_draft_model_costs_too(tmp_path: Path) -> None:
    model, draft = model_of("llama", tmp_path / "model"), model_of("window", tmp_path / "draft")
    both = cache_cost([model, draft], make_prompt_cache)
    assert both.bytes(2000) == cache_cost([model], make_prompt_cache).bytes(2000) + cache_cost(
        [draft], make_prompt_cache
    ).bytes(2000)


class Grows:
    """A kind of cache that nothing is known about: 3 numbers a token, and 100 of its own."""

    def __init__(self) -> None:
        self.held = mx.zeros((100,))

    @property
    def state(self) -> list[mx.array]:
        return [self.held]

    @property
    def nbytes(self) -> int:
        return self.held.nbytes

    def take(self, tokens: int) -> None:
        self.held = mx.concatenate([self.held, mx.zeros((3 * tokens,))])


def test_an_unknown_kind_of_cache_is_measured_by_how_it_grows() -> None:
    def model(tokens: mx.array, cache: list[Grows]) -> mx.array:
        cache[0].take(tokens.shape[1])
        return mx.zeros((1, 1, 10))

    cost = cache_cost([model], lambda _: [Grows()])
    for tokens in LENGTHS:
        cache = Grows()
        cache.take(tokens)
        assert cost.bytes(tokens) >= cache.nbytes


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "lfm2", "mamba2"])
def test_a_step_takes_about_what_is_estimated_at_most(kind: str, tmp_path: Path) -> None:
    model = model_of(kind, tmp_path / kind)
    work = work_cost([model], make_prompt_cache)
    assert work.per_token > 0
    for context, tokens in ((0, 512), (2000, 256)):
        cache = make_prompt_cache(model)
        if context:
            model(mx.array([[1] * context]), cache=cache)
            mx.eval([layer.state for layer in cache])
        held = sum(layer.nbytes for layer in cache)
        mx.synchronize()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        model(mx.array([[1] * tokens]), cache=cache)
        mx.eval([layer.state for layer in cache])
        grown = sum(layer.nbytes for layer in cache) - held
        assert mx.get_peak_memory() - before - grown - held <= 1.5 * work.bytes(tokens, context + tokens, 1)


def test_what_a_slow_measurement_found_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(memo, "SLOW", 0.0)
    loaded = load_folder(make_tiny_model(tmp_path / "model"), lambda _stage, _fraction: None)
    assign = Assign("model", "", "text-gen", None, {}, 1 << 30)
    plans = [plan_of(assign, loaded, None, TextOptions(), padded=True) for _ in range(2)]
    assert plans[0].work == plans[1].work
    (file,) = (tmp_path / "cache" / "mlx-broker" / "work").iterdir()
    file.write_text("1 2 3 4")
    assert plan_of(assign, loaded, None, TextOptions(), padded=True).work == WorkCost(1, 2, 3, 4)
    file.write_text("")
    assert plan_of(assign, loaded, None, TextOptions(), padded=True).work.per_token > 100
