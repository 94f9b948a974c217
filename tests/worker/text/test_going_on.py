"""Answers that go on in another process: cut after every output, they are those of an undisturbed run."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.wire.failure import Code, FailureError
from tests.tiny_models import make_tiny_llama4, make_tiny_model
from tests.worker.engine_runs import add, answer, joined, load, run
from tests.worker.generation.scripted import TIME, WEATHER
from tests.worker.going_on import assert_clear, assert_goes_on, begun_after, plain, told
from worker.begun import TELL_EVERY
from worker.generation import sequence
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
    "not streamed, logprobs": {**GREEDY, "prompt": "once", "logprobs": 2, "max_tokens": 60, "stream": False},
    "not streamed, logprobs of bytes": {
        "prompt": "é€",
        "seed": 3,
        "temperature": 2.0,
        "logprobs": 1,
        "max_tokens": 60,
        "stream": False,
    },
    "not streamed, echo with logprobs": {
        **GREEDY,
        "prompt": "once upon",
        "echo": True,
        "logprobs": 1,
        "max_tokens": 40,
        "stream": False,
    },
    "not streamed, echo of one token": {
        **GREEDY,
        "prompt": "o",
        "echo": True,
        "logprobs": 0,
        "max_tokens": 40,
        "stream": False,
    },
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
    assert_goes_on(engine, following, **fields)
    if fields.get("temperature") == 0.0 and not fields.get("echo"):
        assert_clear(engine, **fields)


STOPPED = {"stream": True, "prompt": "x", "seed": 1, "grammar": "start: /[a-zé]{60}/", "max_tokens": 80}


@pytest.mark.parametrize("more", [{}, {"logprobs": 0}, {"logprobs": 0, "stream": False}])
def test_half_a_stop_string_is_held_back_in_the_next_process_too(
    engine: TextEngine, following: TextEngine, more: dict[str, Any]
) -> None:
    """One ends the text, and the beginnings of others are said when they turn out to be none."""
    text = str(answer(engine, **{**STOPPED, "stream": False})["text"])
    begins = [text[at : at + 4] + "NEVER" for at in range(5, 25, 6)]
    ends = text[40:45]
    fields = {**STOPPED, **more, "stop": [*begins, ends]}
    whole = assert_goes_on(engine, following, **fields)
    assert whole[-1].body["stop_string"] == ends
    lengths = [len(told([output])) for output in whole[:-1]]
    assert max(lengths) > (1 if fields["stream"] else TELL_EVERY), "something is held back"


WHOLE = {"prompt": "once", "logprobs": 2, "max_tokens": 60, "stream": False, "tells_tokens": True}


@pytest.mark.parametrize("more", [{"temperature": 0.0}, {"seed": 3}])
def test_log_probabilities_are_those_of_an_undisturbed_run(
    engine: TextEngine, following: TextEngine, more: dict[str, Any]
) -> None:
    """Of this model on the CPU to the last bit, where the answer is alone."""
    fields = {**WHOLE, **more}
    (whole,) = run(engine, [fields])
    (untold,) = run(engine, [{**fields, "tells_tokens": False}])
    assert len(untold) == 1
    assert joined(whole)["logprobs"] == joined(untold)["logprobs"]
    for cut in range(1, len(whole)):
        (rest,) = run(following, [{**fields, "begun": begun_after(whole[:cut])}])
        assert joined([*whole[:cut], *rest]) == joined(whole)


def test_from_a_bound_on_log_probabilities_are_told_at_the_end_alone(
    engine: TextEngine, following: TextEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the gateway keeps no more than that; the tokens beyond it are generated again."""
    fields = {**WHOLE, "seed": 3}
    (unbound,) = run(engine, [fields])
    monkeypatch.setattr(sequence, "MAX_TOLD_LOGPROBS", 20 * 3)
    (whole,) = run(engine, [fields])
    assert [len(told([output])) for output in whole] == [1, TELL_EVERY, 0, 0]
    assert joined(whole) == joined(unbound)
    (rest,) = run(following, [{**fields, "begun": begun_after(whole[:3])}])
    assert plain(joined([*whole[:3], *rest])) == plain(joined(unbound))


@pytest.mark.parametrize("logprobs", [0, 1])
def test_the_bound_counts_the_first_token_of_a_prompt_that_is_echoed(
    engine: TextEngine, logprobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has an entry without others, and was never drawn."""
    fields = {**WHOLE, "echo": True, "logprobs": logprobs, "temperature": 0.0}

    def entries() -> list[int]:
        outputs = run(engine, [fields])[0][:-1]
        return [sum(1 + len(one["top"]) for one in output.body.get("logprobs", ())) for output in outputs]

    first, second = entries()[:2]
    monkeypatch.setattr(sequence, "MAX_TOLD_LOGPROBS", first + second)
    assert entries() == [first, second, 0]
    monkeypatch.setattr(sequence, "MAX_TOLD_LOGPROBS", first + second - 1)
    assert entries() == [first, 0]


def test_a_context_that_is_full_says_so_after_the_cut_too(tiny_model: Path) -> None:
    engine = load(tiny_model, context_length=30)
    whole = assert_goes_on(engine, engine, prompt="x" * 10, temperature=0.0, stream=True)
    assert whole[-1].body["context_full"]
    assert whole[-1].body["completion_tokens"] == 20


def test_what_the_cache_holds_is_not_read_again(tiny_model: Path) -> None:
    engine = load(tiny_model)
    fields = {"prompt": "q" * 200, "temperature": 0.0, "max_tokens": 40, "stream": True, "tells_tokens": True}
    (whole,) = run(engine, [fields])
    cut = len(whole) // 2
    before = engine.stats().cached_prompt_tokens
    (rest,) = run(engine, [{**fields, "begun": begun_after(whole[:cut])}])
    read = engine.stats().cached_prompt_tokens - before
    assert read == 200 + len(told(whole[:cut])) - 1
    assert rest[-1].body["cached_tokens"] == 0, "what the first process found counts"


def test_all_that_a_model_serves_goes_on_together(engine: TextEngine, following: TextEngine) -> None:
    """As after a death: every answer at another point."""
    requests = [
        {"stream": True, "max_tokens": 24, "tells_tokens": True, "key": f"{number}", **fields}
        for number, fields in enumerate(PLAIN.values())
    ]
    whole = run(engine, requests)
    draw = random.Random(1)
    cuts = [draw.randrange(1, len(outputs)) for outputs in whole]
    begun = [
        {**fields, "begun": begun_after(outputs[:cut])}
        for fields, outputs, cut in zip(requests, whole, cuts, strict=True)
    ]
    for rest, outputs, cut in zip(run(following, begun), whole, cuts, strict=True):
        assert [plain(one.body) for one in rest] == [plain(one.body) for one in outputs[cut:]]


def test_an_answer_is_reviewed_as_a_whole(
    engine: TextEngine, following: TextEngine, caplog: pytest.LogCaptureFixture
) -> None:
    pair = {"type": "array", "items": {"const": 1}, "uniqueItems": True, "minItems": 2, "maxItems": 2}
    fields = {"messages": CHAT, "seed": 1, "max_tokens": 300, "stream": True, "tells_tokens": True, "json_schema": pair}
    (whole,) = run(engine, [fields])
    assert "does not follow json_schema.uniqueItems" in caplog.text
    for cut in range(1, len(whole), 9):
        caplog.clear()
        run(following, [{**fields, "begun": begun_after(whole[:cut])}])
        assert "does not follow json_schema.uniqueItems" in caplog.text


def make_sliding(folder: Path) -> Path:
    return make_tiny_model(folder, layers=2, sliding_window=16)


def make_in_turns(folder: Path) -> Path:
    return make_tiny_llama4(folder, chunk=16)


SOME: tuple[dict[str, Any], ...] = ({"temperature": 0.0}, {"seed": 5, "top_p": 0.9, "repetition_penalty": 1.2})


@pytest.mark.parametrize("make", [make_sliding, make_in_turns])
@pytest.mark.parametrize("fields", SOME)
def test_it_goes_on_whatever_the_caches_are(
    tmp_path: Path, make: Callable[[Path], Path], fields: dict[str, Any]
) -> None:
    folder = make(tmp_path / "model")
    engine, empty = load(folder), load(folder, prompt_cache_tokens=0)
    asked = {"prompt": "a prompt of some length", "max_tokens": 12, "stream": True, **fields}
    for following in (empty, engine):
        assert_goes_on(engine, following, **asked)


def test_a_greedy_answer_with_a_draft_model_goes_on(tmp_path: Path) -> None:
    folder, draft = make_tiny_model(tmp_path / "model"), make_tiny_model(tmp_path / "draft", seed=1)
    engine = load(folder, draft_model=str(draft))
    for following in (engine, load(folder, draft_model=str(draft), prompt_cache_tokens=0)):
        assert_goes_on(engine, following, prompt="once upon a time", max_tokens=12, stream=True, temperature=0.0)


@pytest.mark.parametrize(
    ("said", "tokens", "more", "why"),
    [
        ("ab", 2, {"characters": 3}, "2 characters, and 3 have been sent"),
        ("aé", 2, {"characters": 1}, "no output has ended"),
        ("abcdefghi", 9, {"characters": 9}, "all that it may have"),
        ("aXY", 3, {"characters": 1}, "end it"),
    ],
)
def test_an_answer_that_cannot_go_on_says_why(
    engine: TextEngine, said: str, tokens: int, more: dict[str, Any], why: str
) -> None:
    begun = {"ids": engine.loaded.tokenizer.encode(said)[:tokens], **more}
    with pytest.raises(FailureError, match=f"cannot go on: .*{why}") as caught:
        add(engine, 0, prompt="x", max_tokens=9, stream=True, tells_tokens=True, stop=["XY"], begun=begun)
    assert (caught.value.failure.code, caught.value.failure.retryable) == (Code.WORKER_DIED, True)
    assert not engine.has_work


def test_a_token_that_the_model_does_not_have_is_refused(engine: TextEngine) -> None:
    with pytest.raises(FailureError, match=r"begun\.ids\[1\] must be a token id"):
        add(engine, 0, prompt="x", begun={"ids": [1, 10**6], "characters": 1})


def test_without_the_wish_outputs_tell_no_tokens(engine: TextEngine) -> None:
    (outputs,) = run(engine, [{"prompt": "x", "temperature": 0.0, "max_tokens": 5, "stream": True}])
    assert all("ids" not in output.body for output in outputs)
