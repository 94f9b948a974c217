"""Answers that begin with their prompt: its text, and the log-probabilities of its tokens."""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from broker.wire.failure import FailureError
from tests.worker.engine_runs import add, answer, joined, load, run
from worker.text.engine import TextEngine

PROMPT = "once upon é"


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TextEngine:
    return load(tiny_model)


def expected(engine: TextEngine, tokens: list[int]) -> list[float]:
    """What the model says of each token but the first, in one run."""
    logits = engine.loaded.model(mx.array([tokens]))[0]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return [logprobs[position, token].item() for position, token in enumerate(tokens[1:])]


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_comes_first(engine: TextEngine, stream: bool) -> None:
    plain = {"prompt": PROMPT, "temperature": 0.0, "max_tokens": 8}
    without = joined(run(engine, [plain])[0])
    got = joined(run(engine, [{**plain, "echo": True, "stream": stream}])[0])
    assert got["text"] == PROMPT + without["text"]
    assert [got[name] for name in ("prompt_tokens", "completion_tokens", "finish_reason")] == [
        without[name] for name in ("prompt_tokens", "completion_tokens", "finish_reason")
    ]
    tokens = engine.loaded.tokenizer.encode(PROMPT)
    assert joined(run(engine, [{**plain, "prompt": tokens, "echo": True}])[0])["text"] == PROMPT + without["text"]


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"seed": 7}, {"seed": 7, "repetition_penalty": 1.3}])
@pytest.mark.parametrize("stream", [False, True])
def test_each_token_of_the_prompt_has_its_logprob(engine: TextEngine, sampling: dict[str, Any], stream: bool) -> None:
    plain = {"prompt": PROMPT, "max_tokens": 6, "logprobs": 2, **sampling}
    beside = {"prompt": "other words", "max_tokens": 20, "seed": 1}
    without, alone = (joined(run(engine, [fields])[0]) for fields in (plain, beside))
    outputs = run(engine, [{**plain, "echo": True, "stream": stream}, beside])
    got = joined(outputs[0])
    assert got["text"] == PROMPT + without["text"]
    assert joined(outputs[1])["text"] == alone["text"]
    tokens = engine.loaded.tokenizer.encode(PROMPT)
    entries = got["logprobs"]
    assert len(entries) == len(tokens) + len(without["logprobs"])
    assert math.isnan(entries[0]["logprob"])
    assert entries[0]["top"] == []
    recited = entries[1 : len(tokens)]
    assert [entry["logprob"] for entry in recited] == pytest.approx(expected(engine, tokens), abs=1e-4)
    assert all(len(entry["top"]) == 2 and entry["top"][0]["logprob"] >= entry["logprob"] - 1e-6 for entry in recited)
    assert [entry["token"] for entry in entries[len(tokens) :]] == [entry["token"] for entry in without["logprobs"]]
    assert (got["prompt_tokens"], got["completion_tokens"]) == (len(tokens), without["completion_tokens"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", [PROMPT, [65]])
def test_a_prompt_alone(engine: TextEngine, prompt: Any, stream: bool) -> None:
    for logprobs in (None, 0):
        fields = {"prompt": prompt, "echo": True, "max_tokens": 0, "logprobs": logprobs, "stream": stream}
        got = joined(run(engine, [fields])[0])
        count = got["prompt_tokens"]
        assert got["text"] == (prompt if isinstance(prompt, str) else engine.loaded.tokenizer.decode(prompt))
        assert (got["completion_tokens"], got["finish_reason"]) == (0, "length")
        assert len(got.get("logprobs", [])) == (0 if logprobs is None else count)


def test_a_stop_string_of_the_prompt_stops_nothing(engine: TextEngine) -> None:
    for logprobs in (None, 0):
        fields = {"prompt": PROMPT, "echo": True, "stop": ["upon"], "max_tokens": 4, "seed": 2, "logprobs": logprobs}
        assert answer(engine, **fields)["text"].startswith(PROMPT)


def test_a_grammar_binds_what_follows_the_prompt(engine: TextEngine) -> None:
    for logprobs in (None, 0):
        fields = {"prompt": PROMPT, "echo": True, "grammar": 'start: "yes" | "no"', "logprobs": logprobs}
        got = answer(engine, **fields, max_tokens=9, seed=3)
        assert got["text"] in (PROMPT + "yes", PROMPT + "no")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "max_tokens": -1, "echo": True}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "echo": True}, "echo"),
    ],
)
def test_mistakes_are_named(engine: TextEngine, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(FailureError) as caught:
        add(engine, 1, **fields)
    assert caught.value.failure.param == param


def test_the_end_of_a_text_inside_a_prompt_has_no_logprobs(engine: TextEngine) -> None:
    [end, *_] = engine.loaded.tokenizer.eos_token_ids
    with pytest.raises(FailureError, match="end of a text") as caught:
        add(engine, 1, prompt=[65, end, 66], echo=True, logprobs=0)
    assert caught.value.failure.param == "echo"
    assert answer(engine, prompt=[65, end, 66], echo=True, max_tokens=2)["prompt_tokens"] == 3


def test_with_a_draft_model_the_prompt_has_the_same_logprobs(tiny_model: Path) -> None:
    drafting = load(tiny_model, draft_model=str(tiny_model))
    got = answer(drafting, prompt=PROMPT, echo=True, max_tokens=3, logprobs=0, temperature=0.0)
    tokens = drafting.loaded.tokenizer.encode(PROMPT)
    recited = [entry["logprob"] for entry in got["logprobs"][1 : len(tokens)]]
    assert recited == pytest.approx(expected(drafting, tokens), abs=1e-4)
    assert (got["prompt_tokens"], got["completion_tokens"]) == (len(tokens), 3)
