"""Prompts that wait together are prefilled together, and equal ones once: counted in what the model computes."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from broker.wire.outputs import FINAL, Output
from tests.tiny_families import FAMILIES, make_tiny_family
from tests.tiny_models import make_tiny_model
from tests.worker.engine_runs import Recorded, add, assert_empty, joined, load, load_recorded, run, without_count
from tests.worker.stepping import steps
from worker.generation.pace import Pace
from worker.loading.model_folder import LoadedModel
from worker.text.batch import Batch
from worker.text.continuous_batch import ContinuousBatch
from worker.text.engine import TextEngine
from worker.text.options import TextOptions

pytestmark = pytest.mark.exact

PROMPT = "once upon a time "
CHOICES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"seed": 1},
    {"seed": 2, "stream": True},
    {"seed": 3, "repetition_penalty": 1.2, "logprobs": 2},
    {"seed": 4, "grammar": 'start: "a" | "b"'},
]


def choices(prompt: str = PROMPT) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "max_tokens": 12, **choice} for choice in CHOICES]


def prefilled(calls: list[tuple[int, int]]) -> int:
    """Tokens of prompts before their last one, with padding."""
    return sum(rows * length for rows, length in calls if length > 1)


@pytest.fixture(scope="module")
def alone(tiny_model: Path) -> TextEngine:
    return load(tiny_model, prompt_cache_tokens=0)


def answers(engine: TextEngine, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [joined(outputs) for outputs in run(engine, requests)]


@pytest.mark.parametrize("options", [{}, {"prompt_cache_tokens": 0}], ids=["cached", "uncached"])
def test_choices_read_their_prompt_once(tiny_model: Path, alone: TextEngine, options: dict[str, int]) -> None:
    engine, calls = load_recorded(tiny_model, **options)
    expected = [answers(alone, [fields])[0] for fields in choices()]
    before = engine.stats().prompt_tokens
    assert answers(engine, choices()) == expected  # with all counts of their usage
    assert prefilled(calls) == len(PROMPT) - 1
    assert calls[:2] == [(1, len(PROMPT) - 1), (len(CHOICES), 1)]
    assert engine.stats().prompt_tokens - before == len(PROMPT) - 1 + len(CHOICES)


@pytest.mark.parametrize("kind", ["bits", "draft"])
@pytest.mark.parametrize("leaver", [None, 0, 1])
def test_where_sequences_take_turns(tmp_path: Path, kind: str, leaver: int | None) -> None:
    """Also if one leaves in the middle of the prompt."""
    model = make_tiny_model(tmp_path / "wide", hidden_size=128)  # heads that can be quantised
    bits = {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 0}
    options: dict[str, Any] = bits if kind == "bits" else {"draft_model": str(model)}
    long = PROMPT * 20
    engine = load(model, prefill_step_size=64, prompt_cache_tokens=0, **options)
    single = load(model, prefill_step_size=64, prompt_cache_tokens=0, **options)
    ids = [add(engine, number, **fields) for number, fields in enumerate(choices(long)[:3])]
    engine.step()
    if leaver is not None:
        engine.cancel(ids.pop(leaver))
    outputs = steps(engine)
    left = [fields for number, fields in enumerate(choices(long)[:3]) if number != leaver]
    for request_id, fields in zip(ids, left, strict=True):
        own = [output for output in outputs if output.request_id == request_id]
        assert joined(own) == answers(single, [fields])[0]
    assert engine.stats().prompt_tokens == len(long) - 1 + len(ids)


def test_prompts_that_differ_stay_apart(tiny_model: Path, alone: TextEngine) -> None:
    """Also if only their last tokens differ, or one is the beginning of another."""
    prompts = [PROMPT + "a", PROMPT + "b", PROMPT, PROMPT + "a", "z" + PROMPT]
    requests = [{"prompt": prompt, "seed": n, "max_tokens": 9} for n, prompt in enumerate(prompts)]
    engine, calls = load_recorded(tiny_model, prompt_cache_tokens=0)
    assert answers(engine, requests) == [answers(alone, [fields])[0] for fields in requests]
    assert prefilled(calls) == 4 * len(PROMPT)


@pytest.mark.parametrize("count", [2, 8, 32])
def test_prompts_that_wait_together_are_one_run_of_the_model(tiny_model: Path, alone: TextEngine, count: int) -> None:
    """Of different lengths, padded to the longest; then one run for the first tokens of all."""
    lengths = [1 + n if count < 10 else 2 for n in range(count)]
    requests = [{"prompt": chr(65 + n) * length, "seed": n, "max_tokens": 6} for n, length in enumerate(lengths)]
    calls: list[tuple[int, int]] = []

    def make(loaded: LoadedModel, _draft: Any, options: TextOptions) -> Batch:
        """On a clock that stands still, so that no piece is slow."""
        recorded = Recorded(loaded.model)
        recorded.calls = calls
        return ContinuousBatch(
            recorded,
            stop_tokens=loaded.tokenizer.eos_token_ids,
            completion_batch_size=options.completion_batch_size,
            prefill_batch_size=options.prefill_batch_size,
            pace=Pace(options.prefill_step_size),
            stream=mx.default_stream(mx.default_device()),
            clock=float,
        )

    engine = load(tiny_model, make_batch=make, prompt_cache_tokens=0)
    calls.clear()  # of warming up
    assert answers(engine, requests) == [answers(alone, [fields])[0] for fields in requests]
    assert calls[:2] == [(sum(length > 1 for length in lengths), max(lengths) - 1), (count, 1)]


def test_one_that_comes_while_the_prompt_is_read(tiny_model: Path, alone: TextEngine) -> None:
    long = PROMPT * 20
    engine, calls = load_recorded(tiny_model, prefill_step_size=64, prompt_cache_tokens=0)
    outputs: list[Output] = []
    ids = []
    for number, fields in enumerate(choices(long)):
        ids.append(add(engine, number, **fields))
        outputs += engine.step()
    assert not outputs
    assert engine.stats().prefilling == len(CHOICES)
    outputs += steps(engine)
    for request_id, fields in zip(ids, choices(long), strict=True):
        own = [output for output in outputs if output.request_id == request_id]
        assert joined(own) == answers(alone, [fields])[0]
    assert prefilled(calls) == len(long) - 1
    assert_empty(engine)


@pytest.mark.parametrize("leaver", [0, 1])
def test_one_leaves_while_the_prompt_is_read(tiny_model: Path, alone: TextEngine, leaver: int) -> None:
    """The others go on where it was, whoever came first."""
    long = PROMPT * 20
    engine, calls = load_recorded(tiny_model, prefill_step_size=64)
    ids = [add(engine, number, **fields) for number, fields in enumerate(choices(long))]
    engine.step()
    engine.cancel(ids[leaver])
    outputs = steps(engine)
    assert {output.request_id for output in outputs} == {*ids} - {ids[leaver]}
    for request_id, fields in zip(ids, choices(long), strict=True):
        own = [output for output in outputs if output.request_id == request_id]
        assert not own or joined(own) == answers(alone, [fields])[0]
    assert prefilled(calls) == len(long) - 1
    assert_empty(engine)


def test_no_more_at_once_than_is_set(tiny_model: Path) -> None:
    engine, calls = load_recorded(tiny_model, completion_batch_size=2)
    ends = [outputs[-1] for outputs in run(engine, choices())]
    assert all(end.kind == FINAL for end in ends)
    assert max(rows for rows, _ in calls) == 2


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_any_kind_of_cache(family: str, tmp_path: Path) -> None:
    """Sliding windows, state spaces and hybrids too."""
    folder = make_tiny_family(tmp_path / family, family)
    prompt = "words " * 12
    requests = [{"prompt": prompt, "max_tokens": 9, "seed": n} for n in range(3)]
    requests.append({**requests[0], "prompt": "others"})
    shared, calls = load_recorded(folder)
    single = load(folder, prompt_cache_tokens=0)
    together = [without_count(body) for body in answers(shared, requests)]
    assert together == [without_count(answers(single, [fields])[0]) for fields in requests]
    assert prefilled(calls) <= 2 * len(prompt)
