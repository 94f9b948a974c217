"""How likely tokens were, against mlx-lm called directly."""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import stream_generate
from mlx_lm.sample_utils import make_sampler

from broker.protocol import PARTIAL
from tests.worker.engine_runs import joined, load, run
from worker.logprobs import TokenTexts, token_logprobs
from worker.text_engine import TextEngine


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TextEngine:
    return load(tiny_model)


def test_they_are_mlx_lms(engine: TextEngine) -> None:
    model, tokenizer = engine._loaded.model, engine._loaded.tokenizer
    prompt = tokenizer.encode("likely")
    direct = list(stream_generate(model, tokenizer, prompt, max_tokens=30, sampler=make_sampler(temp=0.0)))
    fields: dict[str, Any] = {"prompt": prompt, "temperature": 0.0, "max_tokens": 30, "logprobs": 3}
    company: list[dict[str, Any]] = [{"prompt": "else", "max_tokens": 50}, {"prompt": "and", "seed": 1, "logprobs": 0}]
    outputs = run(engine, [fields, {**fields, "stream": True}, *({"max_tokens": 40, **c} for c in company)])
    for of_one in outputs[:2]:
        entries = joined(of_one)["logprobs"]
        assert len(entries) == 30
        for entry, step in zip(entries, direct, strict=True):
            row: Any = step.logprobs
            assert entry["logprob"] == pytest.approx(row[step.token].item(), abs=1e-4)
            best: Any = mx.sort(row)[-3:][::-1].tolist()
            assert [other["logprob"] for other in entry["top"]] == pytest.approx(best, abs=1e-4)
            assert entry["token"] == tokenizer.decode([step.token])
            # Greedy: the likeliest is the one that was taken.
            assert entry["top"][0]["bytes"] == entry["bytes"]
        assert b"".join(entry["bytes"] for entry in entries).decode(errors="replace") == joined(of_one)["text"]
    assert "logprobs" not in joined(outputs[2])
    assert [entry["top"] for entry in joined(outputs[3])["logprobs"]] == [[]] * 40


def test_they_travel_with_their_text(engine: TextEngine) -> None:
    (outputs,) = run(engine, [{"prompt": "x", "seed": 4, "max_tokens": 60, "logprobs": 1, "stream": True}])
    for output in outputs:
        if output.kind == PARTIAL:
            assert output.body["logprobs"]
    assert len(joined(outputs)["logprobs"]) == 60


def test_what_is_impossible_is_a_number(engine: TextEngine) -> None:
    row = mx.array([0.0, -math.inf, -math.inf])
    entry = token_logprobs(row, 1, 20, TokenTexts(engine._loaded.tokenizer))
    assert entry["logprob"] == -9999.0
    assert [other["logprob"] for other in entry["top"]] == [0.0, -9999.0, -9999.0]


def test_every_byte_is_known(engine: TextEngine) -> None:
    texts = TokenTexts(engine._loaded.tokenizer)
    entries = [texts.entry(token, -1.0) for token in range(256)]
    assert sorted(entry["bytes"] for entry in entries) == [bytes([byte]) for byte in range(256)]
