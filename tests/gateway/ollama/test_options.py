from typing import Any

import pytest

from gateway.core.sampling import Defaults
from gateway.core.validation import validated
from gateway.ollama.options import OllamaOptions, sampling

DEFAULTS = Defaults(max_tokens=4096)
UNSTATED: dict[str, Any] = {"max_tokens": 4096, "max_tokens_is_default": True, "seed": None, "stop": []}


def wire(options: dict[str, Any], defaults: Defaults = DEFAULTS) -> dict[str, Any]:
    return sampling(validated(OllamaOptions, options), defaults)


def test_ollamas_own_defaults_are_not_forced() -> None:
    assert wire({}) == UNSTATED
    assert wire({"temperature": None, "stop": None, "num_predict": None}) == UNSTATED
    assert wire({}, Defaults(max_tokens=7, temperature=0.3)) == UNSTATED | {"max_tokens": 7, "temperature": 0.3}


def test_every_option_that_changes_an_answer() -> None:
    options = {
        "temperature": 0.5,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.05,
        "typical_p": 0.7,
        "seed": 42,
        "stop": ["\n", "user:"],
        "num_predict": 100,
        "repeat_penalty": 1.2,
        "repeat_last_n": 33,
        "presence_penalty": 1.5,
        "frequency_penalty": 1,
    }
    assert wire(options) == {
        "temperature": 0.5,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.05,
        "typical_p": 0.7,
        "seed": 42,
        "stop": ["\n", "user:"],
        "max_tokens": 100,
        "max_tokens_is_default": False,
        "repetition_penalty": 1.2,
        "repetition_context_size": 33,
        "presence_penalty": 1.5,
        "presence_context_size": 33,
        "frequency_penalty": 1.0,
        "frequency_context_size": 33,
    }
    assert validated(OllamaOptions, options).left_out == []


@pytest.mark.parametrize("unlimited", [-1, -2, 0])
def test_no_limit_ends_with_the_context_or_the_memory(unlimited: int) -> None:
    assert wire({"num_predict": unlimited}) == UNSTATED | {"max_tokens": None}


def test_the_window_of_the_penalties() -> None:
    penalties = {"repeat_penalty": 1.2, "presence_penalty": 1.0, "frequency_penalty": 1.0}
    off = wire({**penalties, "repeat_last_n": 0})
    assert [off[f"{kind}_penalty"] for kind in ("repetition", "presence", "frequency")] == [0.0, 0.0, 0.0]
    whole = wire({**penalties, "repeat_last_n": -1})
    assert whole["repetition_penalty"] == 1.2
    assert [whole[f"{kind}_context_size"] for kind in ("repetition", "presence", "frequency")] == [0, 0, 0]


def test_a_seed_of_minus_one_is_any() -> None:
    assert wire({"seed": -1})["seed"] is None
    assert wire({"seed": 0})["seed"] == 0


def test_one_stop_may_be_a_text_alone() -> None:
    assert wire({"stop": "END"})["stop"] == ["END"]


def test_what_changes_nothing_here_is_named() -> None:
    options = {"num_ctx": 4096, "mirostat": 2, "num_gpu": 1, "penalize_newline": True, "unheard_of": [1], "numa": None}
    named = [f"options.{name}" for name in ("num_ctx", "mirostat", "num_gpu", "penalize_newline", "unheard_of")]
    assert validated(OllamaOptions, options).left_out == named
    assert validated(OllamaOptions, {"mirostat": 0, "tfs_z": 1.0}).left_out == []
