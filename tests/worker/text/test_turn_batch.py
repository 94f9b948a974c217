"""Draft models and quantised key-value caches: the tokens of mlx-lm's own generators, alone and in company."""

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.generate import generate_step, speculative_generate_step

from broker.wire.outputs import FINAL, Output
from broker.wire.work import Generate
from tests.tiny_models import VOCABULARY, make_tiny_model
from tests.worker.engine_runs import add, assert_empty, load, load_with_batch, run, without_count
from tests.worker.harness import text_of
from tests.worker.stepping import MOST_STEPS, steps
from worker.text.engine import TextEngine

pytestmark = pytest.mark.exact

# Heads of 32 numbers, the fewest that share a scale.
WIDE: dict[str, Any] = {"hidden_size": 128}
BITS: dict[str, Any] = {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 20}

ALL = "".join(map(chr, range(32, 127)))

REQUESTS: list[dict[str, Any]] = [
    {"prompt": "once upon a time", "temperature": 0.0, "max_tokens": 40},
    {"prompt": "a longer prompt " * 9, "temperature": 0.0, "max_tokens": 20},
    {"prompt": "x", "temperature": 0.0, "max_tokens": 1},
    # Its tokens come in the answer too: it differs where the prompt does not count.
    {"prompt": ALL, "temperature": 0.0, "repetition_penalty": 1.9, "repetition_context_size": 0, "max_tokens": 20},
    {"prompt": "b", "temperature": 0.0, "frequency_penalty": 1.5, "logit_bias": {"65": 5.0}, "max_tokens": 20},
    {"prompt": "g", "temperature": 0.0, "grammar": "start: /[ab]{9,30}/", "max_tokens": 12},
    {"prompt": "l", "temperature": 0.0, "logprobs": 2, "max_tokens": 12},
]
SAMPLED: list[dict[str, Any]] = [
    {"prompt": "x" * 70, "seed": 2, "temperature": 0.7, "top_p": 0.9, "max_tokens": 20, "stream": True},
    {"prompt": "k", "seed": 4, "top_k": 9, "min_p": 0.01, "xtc_probability": 0.5, "max_tokens": 20},
    {"prompt": "f", "seed": 6, "frequency_penalty": 1.5, "logit_bias": {"65": 5.0, "66": -100}, "max_tokens": 20},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "wide", **WIDE)


@pytest.fixture(scope="module")
def draft(model: Path) -> Path:
    """The same model, a little off: it is right often, and often wrong."""
    folder = make_tiny_model(model.parent / "draft", **WIDE)
    weights = mx.load(str(model / "model.safetensors"))
    assert isinstance(weights, dict)
    off = {
        name: weight + 0.03 * mx.random.normal(weight.shape, key=mx.random.key(n)) / weight.shape[-1] ** 0.5
        for n, (name, weight) in enumerate(weights.items())
    }
    mx.save_safetensors(str(folder / "model.safetensors"), off, metadata={"format": "mlx"})
    return folder


@pytest.fixture(scope="module")
def plain(model: Path) -> TextEngine:
    return load(model)


KINDS = ("draft", "bits", "both")


def options(kind: str, draft: Path) -> dict[str, Any]:
    drafted: dict[str, Any] = {"draft_model": str(draft)}
    return {"draft": drafted, "bits": BITS, "both": {**drafted, **BITS}}[kind]


def bodies(outputs: list[list[Any]]) -> list[Any]:
    return [(text_of(of_one), without_count({**of_one[-1].body, "text": ""})) for of_one in outputs]


def test_a_draft_changes_no_greedy_text(model: Path, draft: Path, plain: TextEngine) -> None:
    drafted = load(model, draft_model=str(draft), prompt_cache_tokens=0)
    expected = bodies(run(plain, REQUESTS))
    assert bodies([run(drafted, [fields])[0] for fields in REQUESTS]) == expected
    assert bodies(run(drafted, REQUESTS)) == expected


def test_a_draft_saves_runs_of_the_model(model: Path, draft: Path) -> None:
    """Else it would be of no use, and the tests here would prove nothing of it."""
    loaded, tokenizer, *_ = mlx_lm.load(str(model))
    small, *_ = mlx_lm.load(str(draft))
    prompt = mx.array(tokenizer.encode("once upon a time"))
    drawn = list(speculative_generate_step(prompt, loaded, small, num_draft_tokens=3, max_tokens=60))
    share = sum(from_draft for *_, from_draft in drawn) / len(drawn)
    assert 0.2 < share < 0.74


@pytest.mark.parametrize("start", [0, 20, 5000])
def test_a_quantised_cache_gives_mlx_lms_tokens(model: Path, start: int) -> None:
    bits: dict[str, Any] = {**BITS, "quantized_kv_start": start}
    engine = load(model, **bits, prompt_cache_tokens=0, prefill_step_size=64)
    requests = [*REQUESTS[:5], *SAMPLED]
    expected = [directly(engine, prefill_step_size=64, **bits, **fields) for fields in requests]
    assert [text_of(run(engine, [fields])[0]) for fields in requests] == expected
    assert [text_of(outputs) for outputs in run(engine, requests)] == expected
    # And quantising does make a difference, where it has begun.
    assert ([directly(engine, prefill_step_size=64, **fields) for fields in requests] != expected) == (start < 5000)


def directly(engine: TextEngine, **fields: Any) -> str:
    """What mlx-lm says, called directly for one request; what is no field of a request is an argument of mlx-lm."""
    names = {field.name for field in dataclasses.fields(Generate)}
    request = Generate(**{name: value for name, value in fields.items() if name in names})
    tokenizer = engine.loaded.tokenizer
    sampler, processors = engine.generation.sampling(request)
    drawn = generate_step(
        mx.array(tokenizer.encode(request.prompt)),
        engine.loaded.model,
        max_tokens=request.max_tokens,
        sampler=sampler,
        logits_processors=processors,
        **{name: value for name, value in fields.items() if name not in names},
    )
    detokenizer = tokenizer.detokenizer
    for token, _ in drawn:
        detokenizer.add_token(token)
    detokenizer.finalize()
    return str(detokenizer.text)


@pytest.mark.parametrize("kind", KINDS)
def test_alone_and_in_company(model: Path, draft: Path, kind: str) -> None:
    """Greedy, seeded, constrained, with penalties, while others join and are cancelled; without a prompt cache."""
    requests = [*REQUESTS, *SAMPLED]
    engine = load(model, prefill_step_size=64, prompt_cache_tokens=0, **options(kind, draft))
    alone = [bodies([run(engine, [fields])[0]])[0] for fields in requests]
    ids = [add(engine, number, **fields) for number, fields in enumerate(requests)]
    outputs: dict[bytes, list[Output]] = {request_id: [] for request_id in ids}
    chance = random.Random(3)
    guests: list[bytes] = []
    for number in range(1000, 1000 + MOST_STEPS):
        if all(of_one and of_one[-1].kind == FINAL for of_one in outputs.values()):
            break
        if chance.random() < 0.2:
            prompt = "g" * chance.randint(1, 100)
            guests.append(add(engine, number, prompt=prompt, seed=1, max_tokens=chance.randint(1, 9)))
        if guests and chance.random() < 0.3:
            engine.cancel(guests.pop(chance.randrange(len(guests))))
        for output in engine.step():
            if output.request_id in outputs:
                outputs[output.request_id].append(output)
    for guest in guests:
        engine.cancel(guest)
    assert_empty(engine)
    assert bodies(list(outputs.values())) == alone


@pytest.mark.parametrize("kind", KINDS)
def test_no_sequence_waits_for_the_end_of_another(model: Path, draft: Path, kind: str) -> None:
    """While one prompt prefills in pieces of 64 tokens the other decodes, and afterwards both take turns."""
    engine, batch = load_with_batch(model, prefill_step_size=64, prompt_cache_tokens=0, **options(kind, draft))
    ids = [add(engine, 1, prompt="f", seed=1, max_tokens=60)]
    turns = []
    for number in range(8):
        if number == 2:
            ids.append(add(engine, 2, prompt="s" * 150, seed=2, max_tokens=60))
        before = list(batch.held())
        _, decoded = batch.next()
        has_prefilled = list(batch.held()) != before
        turns.append((has_prefilled, [one.uid for one in decoded]))
    alone = turns[0][1]
    both = [*alone, alone[0] + 1]
    assert turns == [(False, alone), (False, alone), *[(True, alone)] * 3, *[(False, both)] * 3]
    for request_id in ids:
        engine.cancel(request_id)
    assert_empty(engine)


def test_no_more_at_once_than_is_set(model: Path) -> None:
    engine = load(model, **BITS, completion_batch_size=2)
    for number in range(5):
        add(engine, number, prompt="many", seed=number, max_tokens=9)
    most = 0
    for _ in range(MOST_STEPS):
        if not engine.has_work:
            break
        engine.step()
        most = max(most, engine.stats().decoding)
    assert most == 2
    assert_empty(engine)


@pytest.mark.parametrize("kind", KINDS)
def test_stop_strings(model: Path, draft: Path, kind: str) -> None:
    # Without a prompt cache: the second run would go on from a cache that is quantised from its first token.
    engine = load(model, prompt_cache_tokens=0, **options(kind, draft))
    text = text_of(run(engine, [{"prompt": "stop", "temperature": 0.0, "max_tokens": 60}])[0])
    stop = text[20:23]
    (outputs,) = run(engine, [{"prompt": "stop", "temperature": 0.0, "max_tokens": 60, "stop": [stop]}])
    assert text_of(outputs) == text[: text.index(stop)]
    assert outputs[-1].body["finish_reason"] == "stop"


def test_an_end_of_text_token_ends(model: Path, draft: Path, tmp_path: Path) -> None:
    for kind in ("draft", "bits"):
        ends = shutil.copytree(model, tmp_path / kind)
        plain_ids = ids_of(load(model), "end here", 30)
        config = json.loads((ends / "config.json").read_text()) | {"eos_token_id": plain_ids[12]}
        (ends / "config.json").write_text(json.dumps(config))
        extra = {**options(kind, draft), "quantized_kv_start": 5000}
        (outputs,) = run(load(ends, **extra), [{"prompt": "end here", "temperature": 0.0, "max_tokens": 30}])
        body = outputs[-1].body
        assert body["finish_reason"] == "stop"
        assert body["completion_tokens"] == plain_ids.index(plain_ids[12]) + 1


def ids_of(engine: TextEngine, prompt: str, count: int) -> list[int]:
    ids = mx.array(engine.loaded.tokenizer.encode(prompt))
    return [token for token, _ in generate_step(ids, engine.loaded.model, max_tokens=count)]


@pytest.mark.parametrize("kind", KINDS)
def test_cancels_at_random_moments_leave_nothing(model: Path, draft: Path, kind: str) -> None:
    engine = load(model, prefill_step_size=64, **options(kind, draft))
    chance = random.Random(5)
    for number in range(25):
        extra: dict[str, Any] = chance.choice([{}, {"seed": 1}, {"logprobs": 2}, {"grammar": "start: /[ab]{9,}/"}])
        request_id = add(engine, number, prompt="c" * chance.randint(1, 150), max_tokens=50, **extra)
        add(engine, 1000 + number, prompt="short", max_tokens=chance.randint(1, 5))
        for _ in range(chance.randint(0, 6)):
            engine.step()
        engine.cancel(request_id)
    steps(engine)
    assert_empty(engine)


def test_earlier_prompts_are_not_read_again(model: Path, draft: Path, plain: TextEngine) -> None:
    """With a draft model both caches are kept, wherever its tokens were wrong when the text ended."""
    drafted = load(model, draft_model=str(draft))
    for length in range(1, 10):
        prompt = "again " * 9
        first = {"prompt": prompt, "temperature": 0.0, "max_tokens": length}
        said = ids_of(plain, prompt, length)
        begin = plain.loaded.tokenizer.encode(prompt)
        run(drafted, [first])
        second = {"prompt": [*begin, *said, *range(40, 60)], "temperature": 0.0, "max_tokens": 5}
        got = run(drafted, [second])[0][-1].body
        # The last token may not have been read yet, nor the one before by the draft model.
        assert len(begin) + length - 2 <= got["cached_tokens"] <= len(begin) + length
        assert got["text"] == run(plain, [second])[0][-1].body["text"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancelled_request_leaves_what_it_has_read(model: Path, draft: Path, kind: str) -> None:
    """While its prompt is read in pieces of 64, and while it decodes; nothing where it had not begun."""
    engine = load(model, prefill_step_size=64, **options(kind, draft))
    for letter, steps_before, read in (("a", 1, 64), ("b", 2, 128), ("c", 9, 149)):
        fields: dict[str, Any] = {"prompt": letter * 150, "temperature": 0.0, "max_tokens": 30}
        request_id = add(engine, 1, **fields)
        for _ in range(steps_before):
            engine.step()
        engine.cancel(request_id)
        assert_empty(engine)
        assert run(engine, [fields])[0][-1].body["cached_tokens"] == read
    before = engine.stats().cached_tokens
    engine.cancel(add(engine, 1, prompt="a" * 150, max_tokens=3))
    assert engine.stats().cached_tokens == before
    # A prompt that was cached except for its last token leaves the tokens of its answer.
    run(engine, [{"prompt": "d" * 150, "temperature": 0.0, "max_tokens": 1}])
    before = engine.stats().cached_tokens
    request_id = add(engine, 1, prompt="d" * 150, temperature=0.0, max_tokens=30)
    for _ in range(9):
        engine.step()
    engine.cancel(request_id)
    assert before < engine.stats().cached_tokens < before + 20


@pytest.mark.parametrize("kind", KINDS)
def test_what_others_have_read_is_shared_before_they_end(model: Path, draft: Path, kind: str) -> None:
    """The same text as after their end, at whatever moment of a draft the copy is made."""
    first = {"prompt": "live " * 30 + "one", "temperature": 0.0, "max_tokens": 40}
    second = {"prompt": "live " * 30 + "two", "temperature": 0.0, "max_tokens": 20}
    ended = load(model, prefill_step_size=64, **options(kind, draft))
    run(ended, [first])
    expected = run(ended, [second])[0][-1].body
    assert expected["cached_tokens"] == 150
    for steps_before in range(3, 12):
        engine, batch = load_with_batch(model, prefill_step_size=64, **options(kind, draft))
        add(engine, 1, **first)
        for _ in range(steps_before):
            engine.step()
        ((uid, held),) = batch.held()
        assert batch.extract_cache([uid])[uid].tokens == held
        wanted = add(engine, 2, **second)
        assert [output.body for output in steps(engine) if output.request_id == wanted] == [expected]


def test_a_quantised_prompt_is_not_read_again(model: Path) -> None:
    engine = load(model, **BITS)
    begin = {"prompt": "q" * 100, "temperature": 0.0, "max_tokens": 5}
    run(engine, [begin])
    nbytes = engine.stats().cached_bytes
    assert nbytes < load_and_run(model, begin).stats().cached_bytes / 2
    assert run(engine, [{**begin, "prompt": "q" * 100 + "more"}])[0][-1].body["cached_tokens"] >= 99


def load_and_run(model: Path, fields: dict[str, Any]) -> TextEngine:
    engine = load(model)
    run(engine, [fields])
    return engine


def test_the_facts_count_both_models(model: Path, draft: Path, plain: TextEngine) -> None:
    assert load(model, draft_model=str(draft)).facts.weights_bytes == 2 * plain.facts.weights_bytes


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"draft_model": 1}, "path of a folder"),
        ({"draft_model": "/nowhere/small"}, "draft_model small: .*no such model folder"),
        ({"num_draft_tokens": 0}, "whole number of at least 1"),
        ({"kv_bits": "4"}, "whole number of at least 1"),
        ({"kv_bits": 7, "kv_group_size": 32}, "kv_bits 7 with kv_group_size 32 does not work with this model"),
        ({"kv_bits": 4}, "kv_bits 4 with kv_group_size 64 does not work with this model"),
        ({"quantized_kv_start": -1}, "whole number of at least 0"),
    ],
)
def test_bad_options(model: Path, extra: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(model, **extra)


def test_a_draft_model_that_does_not_fit(model: Path, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    content["model"]["vocab"]["ab"] = VOCABULARY
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"draft_model other: its vocabulary of 260 tokens is not the model's of 259"):
        load(model, draft_model=str(other))
    window = make_tiny_model(tmp_path / "window", layers=2, sliding_window=32)
    with pytest.raises(ValueError, match="draft_model window: its key-value cache cannot go back"):
        load(model, draft_model=str(window))
    with pytest.raises(ValueError, match="the model's key-value cache cannot go back"):
        load(window, draft_model=str(model))
