"""A family whose caches cannot be batched: mlx-lm's own tokens, alone and in company, and from the prompt cache."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import make_tiny_llama4
from tests.worker.engine_runs import add, answer, assert_empty, load, run
from tests.worker.harness import text_of
from tests.worker.text.test_turn_batch import directly
from worker.text.engine import TextEngine

pytestmark = pytest.mark.exact

REQUESTS: list[dict[str, Any]] = [
    {"prompt": "once upon a time", "temperature": 0.0, "max_tokens": 60},
    {"prompt": "a prompt of many chunks " * 9, "temperature": 0.0, "max_tokens": 40},
    {"prompt": "x", "seed": 3, "max_tokens": 50},
    {"prompt": "The quick brown fox", "temperature": 0.0, "repetition_penalty": 1.5, "max_tokens": 20},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama4(tmp_path_factory.mktemp("models") / "llama4")


@pytest.fixture(scope="module")
def without(model: Path) -> TextEngine:
    return load(model, prompt_cache_tokens=0, prefill_step_size=64)


def test_the_tokens_are_mlx_lms(without: TextEngine) -> None:
    expected = [directly(without, prefill_step_size=64, **fields) for fields in REQUESTS]
    assert len(set(expected)) == len(expected)
    assert [text_of(run(without, [fields])[0]) for fields in REQUESTS] == expected
    assert [text_of(outputs) for outputs in run(without, REQUESTS)] == expected


def test_a_request_that_leaves_does_not_harm_others(without: TextEngine) -> None:
    expected = answer(without, **REQUESTS[0])
    gone = add(without, 1, prompt="g" * 100, max_tokens=500)
    for _ in range(5):
        without.step()
    without.cancel(gone)
    assert_empty(without)
    assert answer(without, **REQUESTS[0]) == expected


def test_earlier_prompts_are_not_read_again(model: Path, without: TextEngine) -> None:
    engine = load(model, prefill_step_size=64)
    fields: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20}
    chat = [{"role": "user", "content": "why? " * 20}]
    run(engine, [{"messages": chat, **fields}])
    chat += [{"role": "assistant", "content": "because"}, {"role": "user", "content": "and then?"}]
    second = run(engine, [{"messages": chat, **fields}])[0][-1].body
    assert second["cached_tokens"] == len("[user] \n") + 100
    assert second["text"] == answer(without, messages=chat, **fields)["text"]


@pytest.mark.parametrize("shared", [5, 20, 33, 90, 99])
def test_what_a_chunk_has_forgotten_is_read_again(model: Path, without: TextEngine, shared: int) -> None:
    """A prompt that shares the beginning of a longer one: a cache can go back only while it holds everything."""
    engine = load(model, prefill_step_size=64)
    begin = "The quick brown fox jumps over it. " * 3
    for length in (30, 100):
        run(engine, [{"prompt": begin[:length], "temperature": 0.0, "max_tokens": 9}])
        asked: dict[str, Any] = {"prompt": begin[:shared] + "!" * 9, "temperature": 0.0, "max_tokens": 20}
        assert answer(engine, **asked) == answer(without, **asked)
