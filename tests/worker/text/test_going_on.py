"""Answers that go on in another process: cut after every output, they are those of an undisturbed run."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.worker.engine_runs import load
from tests.worker.generation.scripted import TIME, WEATHER
from tests.worker.going_on import assert_goes_on, told
from worker.text.engine import TextEngine

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi é"}]
GREEDY = {"temperature": 0.0}


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TextEngine:
    return load(tiny_model)


@pytest.fixture(scope="module")
def following(tiny_model: Path) -> TextEngine:
    """As a fresh process: it knows no prompt."""
    return load(tiny_model, prompt_cache_tokens=0)


PLAIN: dict[str, dict[str, Any]] = {
    "greedy": {**GREEDY, "prompt": "once upon a time", "max_tokens": 40},
    "chat": {**GREEDY, "messages": CHAT},
    "seed": {"prompt": "x", "seed": 1},
    "top_p": {"prompt": "x", "seed": 2, "temperature": 0.7, "top_p": 0.9},
    "top_k": {"prompt": "x", "seed": 3, "top_k": 9},
    "min_p": {"prompt": "x", "seed": 4, "min_p": 0.05},
    "xtc": {"prompt": "k", "seed": 4, "xtc_probability": 0.5, "xtc_threshold": 0.05},
    "top_n_sigma": {"prompt": "x", "seed": 5, "top_n_sigma": 1.5},
    "typical_p": {"prompt": "x", "seed": 6, "typical_p": 0.8},
    "hot": {"prompt": "é€", "seed": 2**63, "temperature": 2.0, "max_tokens": 40},
    "repetition": {**GREEDY, "prompt": "p" * 30, "repetition_penalty": 1.3, "presence_penalty": 0.5},
    "frequency": {
        "prompt": "b",
        "seed": 6,
        "frequency_penalty": 1.5,
        "logit_bias": {"65": 5.0, "66": -100},
        "frequency_context_size": 0,
        "max_tokens": 24,
    },
    "logprobs": {**GREEDY, "prompt": "once", "logprobs": 2},
    "logprobs of bytes": {
        "prompt": "é€",
        "seed": 3,
        "temperature": 2.0,
        "logprobs": 1,
        "max_tokens": 40,
    },
    "echo": {**GREEDY, "prompt": "once upon", "echo": True},
    "echo with logprobs": {**GREEDY, "prompt": "once upon", "echo": True, "logprobs": 1, "max_tokens": 8},
    "not streamed": {**GREEDY, "prompt": "once upon a time", "max_tokens": 60, "stream": False},
    "not streamed, seed": {"prompt": "once", "seed": 9, "max_tokens": 60, "stream": False},
    "schema": {
        "messages": CHAT,
        "seed": 3,
        "max_tokens": 60,
        "json_schema": {
            "type": "object",
            "properties": {"a": {"enum": ["é", "of b"]}, "n": {"type": "integer", "maximum": 99}},
            "required": ["a", "n"],
            "additionalProperties": False,
        },
    },
    "schema that is reviewed": {
        "messages": CHAT,
        "seed": 3,
        "max_tokens": 60,
        "json_schema": {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "maxItems": 4},
    },
    "grammar": {
        "prompt": "x",
        "grammar": 'start: " yes, é " /[a-c]{9}/ "."',
        "seed": 3,
        "max_tokens": 40,
    },
    "calls in pieces": {
        "messages": CHAT,
        "tools": [WEATHER, TIME],
        "required_tools": ["weather", "time"],
        "seed": 5,
        "max_tokens": 160,
    },
}


@pytest.mark.parametrize("name", PLAIN)
def test_an_answer_goes_on_after_every_output(engine: TextEngine, following: TextEngine, name: str) -> None:
    fields = {"stream": True, "max_tokens": 24, **PLAIN[name]}
    whole = assert_goes_on(engine, following, **fields)
    if fields.get("temperature") == 0.0 and "prompt" in fields and "repetition_penalty" not in fields:
        assert_clear(engine, fields["prompt"], told(whole))


def assert_clear(engine: TextEngine, prompt: str, said: list[int]) -> None:
    """The likeliest token is so much likelier than the next that rounding decides nothing."""
    tokens = engine.loaded.tokenizer.encode(prompt)
    logits = engine.loaded.model(mx.array([[*tokens, *said]]))[0, len(tokens) - 1 : -1]
    second, first = mx.split(mx.topk(logits, 2, axis=-1), 2, axis=-1)
    least: Any = mx.min(mx.abs(first - second)).item()
    assert least > 1e-3
