"""How likely tokens were, against mlx-lm called directly."""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import stream_generate
from mlx_lm.sample_utils import make_sampler

from broker.wire.outputs import FINAL, PARTIAL
from tests.scripted_model import make_scripted_model
from tests.worker.engine_runs import add, joined, load, load_with_batch, run
from tests.worker.stepping import steps
from worker.generation.logprobs import TokenTexts, token_logprobs
from worker.text.engine import TextEngine


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TextEngine:
    return load(tiny_model)


def test_they_are_mlx_lms(engine: TextEngine) -> None:
    model, tokenizer = engine.loaded.model, engine.loaded.tokenizer
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


@pytest.mark.parametrize(
    ("stop", "text", "tokens"),
    [
        ("cdef", "ab", ["ab"]),
        ("abcd", "", []),
        ("de", "abc", ["ab", "cd"]),  # a token that it begins in is whole
        ("cdx", "abcdef€!", ["ab", "cd", "ef", "€", "!"]),
        ("€", "abcdef", ["ab", "cd", "ef"]),
        ("!?", "abcdef€!", ["ab", "cd", "ef", "€", "!"]),
    ],
)
def test_what_a_stop_string_cuts_off_has_none(tmp_path: Path, stop: str, text: str, tokens: list[str]) -> None:
    engine = load(make_scripted_model(tmp_path, ["ab", "cd", "ef", "€", "!"]))
    fields: dict[str, Any] = {"prompt": "say ", "temperature": 0.0, "max_tokens": 9, "stop": [stop], "logprobs": 0}
    whole, streamed = run(engine, [fields, {**fields, "stream": True}])
    for outputs in (whole, streamed):
        assert joined(outputs)["text"] == text
        assert [entry["token"] for entry in joined(outputs).get("logprobs", [])] == tokens
    sent = said = ""
    for output in streamed:
        said += output.body["text"]
        sent += "".join(entry["token"] for entry in output.body.get("logprobs", []))
        assert sent == said or stop == "de"


def test_a_stop_string_cuts_into_what_was_held_back_for_it(tmp_path: Path) -> None:
    engine = load(make_scripted_model(tmp_path, ["a", "aa", "b"]))
    (outputs,) = run(engine, [{"prompt": "say ", "temperature": 0.0, "max_tokens": 9, "stop": ["aab"], "logprobs": 0}])
    assert outputs[-1].body["text"] == "a"
    assert [entry["token"] for entry in outputs[-1].body["logprobs"]] == ["a"]


@pytest.mark.parametrize("seed", range(6))
def test_streamed_ones_are_those_not_streamed(engine: TextEngine, seed: int) -> None:
    """Of noise, whose tokens are mostly parts of characters that never come."""
    fields = {"prompt": "s", "seed": seed, "temperature": 1.5, "max_tokens": 100, "stop": ["qq", "\x00", "zz"]}
    whole, streamed = run(engine, [{**fields, "logprobs": 1}, {**fields, "logprobs": 1, "stream": True}])
    assert joined(whole)["logprobs"] == joined(streamed)["logprobs"]
    assert joined(whole)["text"] == joined(streamed)["text"]


class Unread:
    def __getitem__(self, _: object) -> None:
        raise AssertionError("a row of log-probabilities is read")


def test_rows_that_no_request_asks_for_are_not_read(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs a wait for the device."""
    engine, batch = load_with_batch(tiny_model)
    asked = engine._uids[add(engine, 1, prompt="asked", max_tokens=20, logprobs=0)]
    add(engine, 2, prompt="not", max_tokens=20)
    add(engine, 3, prompt="not", max_tokens=20, stream=True, seed=1)
    original = batch.next

    def guarded() -> Any:
        ends, decoded = original()
        for one in decoded:
            if one.uid != asked:
                one.logprobs = Unread()  # type: ignore[assignment]
        return ends, decoded

    monkeypatch.setattr(batch, "next", guarded)
    ends = [output for output in steps(engine) if output.kind != PARTIAL]
    assert [output.kind for output in ends] == [FINAL] * 3
    assert sum("logprobs" in output.body for output in ends) == 1


def test_what_is_impossible_is_a_number(engine: TextEngine) -> None:
    row = mx.array([0.0, -math.inf, -math.inf])
    entry = token_logprobs(row, 1, 20, TokenTexts(engine.loaded.tokenizer))
    assert entry["logprob"] == -9999.0
    assert [other["logprob"] for other in entry["top"]] == [0.0, -9999.0, -9999.0]


def test_every_byte_is_known(engine: TextEngine) -> None:
    texts = TokenTexts(engine.loaded.tokenizer)
    entries = [texts.entry(token, -1.0) for token in range(256)]
    assert sorted(entry["bytes"] for entry in entries) == [bytes([byte]) for byte in range(256)]
