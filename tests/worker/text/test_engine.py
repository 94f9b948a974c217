"""The text engine in this process, on tiny models with real weights, against mlx-lm called directly."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx.utils import tree_flatten
from mlx_lm.generate import stream_generate
from mlx_lm.sample_utils import make_sampler
from mlx_lm.tuner.utils import linear_to_lora_layers

from broker.wire.failure import FailureError
from broker.wire.outputs import ERROR, FINAL, PARTIAL
from tests.tiny_models import VOCABULARY, make_tiny_model
from tests.worker.engine_runs import add, answer, assert_empty, load, load_with_batch, run, without_count
from tests.worker.harness import text_of
from tests.worker.stepping import MOST_STEPS
from worker.text.engine import TextEngine

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi é"}]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TextEngine:
    return load(tiny_model)


def in_one_process(engine: TextEngine, tokens: list[int], max_tokens: int, **sampling: Any) -> tuple[str, list[int]]:
    """What mlx-lm says, called directly."""
    model, tokenizer = engine.loaded.model, engine.loaded.tokenizer
    responses = list(stream_generate(model, tokenizer, tokens, max_tokens=max_tokens, sampler=make_sampler(**sampling)))
    return "".join(response.text for response in responses), [response.token for response in responses]


MIXED: list[dict[str, Any]] = [
    {"messages": CHAT, "temperature": 0.0, "max_tokens": 60},
    {"prompt": "once upon a time", "temperature": 0.0, "max_tokens": 7},
    {"prompt": "x", "seed": 1, "max_tokens": 90},
    {"prompt": "x", "seed": 2, "temperature": 0.7, "top_p": 0.9, "max_tokens": 40},
    {"prompt": "a much longer prompt " * 20, "seed": -5, "top_p": 0.5, "max_tokens": 30},
    {"prompt": [1, 2, 3, 4], "temperature": 0.0, "max_tokens": 1},
    {"messages": [{"role": "user", "content": "stop"}], "temperature": 0.0, "max_tokens": 100, "stop": ["\x0f", "zz"]},
    {
        "prompt": "k",
        "seed": 4,
        "top_k": 9,
        "min_p": 0.01,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.1,
        "max_tokens": 40,
    },
    {"prompt": "p" * 30, "temperature": 0.0, "repetition_penalty": 1.3, "presence_penalty": 0.5, "max_tokens": 50},
    {"prompt": "b", "seed": 6, "frequency_penalty": 1.5, "logit_bias": {"65": 5.0, "66": -100}, "max_tokens": 50},
    {"prompt": "é€", "seed": 2**63, "temperature": 2.0, "max_tokens": 64, "stream": True},
]


def test_a_batch_of_mixed_requests_says_what_each_says_alone(engine: TextEngine) -> None:
    alone = [run(engine, [fields])[0] for fields in MIXED]
    together = run(engine, MIXED)
    for one, other in zip(alone, together, strict=True):
        assert [(o.kind, without_count(o.body)) for o in one] == [(o.kind, without_count(o.body)) for o in other]


def test_company_that_comes_and_goes_changes_nothing(engine: TextEngine) -> None:
    """The same again while others join and are cancelled at every step."""
    alone = [without_count(run(engine, [fields])[0][-1].body) for fields in MIXED]
    ids = [add(engine, number, **fields) for number, fields in enumerate(MIXED)]
    generator = random.Random(3)
    guests: list[bytes] = []
    ends: dict[bytes, dict[str, Any]] = {}
    for number in range(1000, 1000 + MOST_STEPS):
        if len(ends) == len(ids):
            break
        if generator.random() < 0.3:
            length = generator.randint(1, 60)
            guests.append(add(engine, number, prompt="g" * length, max_tokens=generator.randint(1, 60)))
        if guests and generator.random() < 0.3:
            engine.cancel(guests.pop(generator.randrange(len(guests))))
        for output in engine.step():
            if output.request_id in ids and output.kind == FINAL:
                ends[output.request_id] = without_count(output.body)
    for guest in guests:
        engine.cancel(guest)
    assert_empty(engine)
    assert [ends[request_id] for request_id in ids] == alone


@pytest.mark.parametrize("prompt", ["hello", "a much longer prompt " * 30, "日本語 👩‍👩‍👧‍👦"])
def test_greedy_text_is_mlx_lms(engine: TextEngine, prompt: str) -> None:
    tokens = engine.loaded.tokenizer.encode(prompt)
    text, ids = in_one_process(engine, tokens, 200, temp=0.0)
    got = answer(engine, prompt=prompt, temperature=0.0, max_tokens=200)
    assert got == {
        "text": text,
        "finish_reason": "length",
        "prompt_tokens": len(tokens),
        "completion_tokens": len(ids),
    }
    assert answer(engine, prompt=tokens, temperature=0.0, max_tokens=200) == got


def test_a_chat_goes_through_the_models_template(engine: TextEngine) -> None:
    rendered = "[system] be brief\n[user] hi é\n[assistant] "
    direct = answer(engine, prompt=rendered, temperature=0.0, max_tokens=20)
    assert answer(engine, messages=CHAT, temperature=0.0, max_tokens=20) == direct
    parts = [CHAT[0], {"role": "user", "content": [{"type": "text", "text": "hi "}, {"type": "text", "text": "é"}]}]
    assert answer(engine, messages=parts, temperature=0.0, max_tokens=20) == direct
    suffixed = answer(engine, messages=CHAT, chat_template_kwargs={"suffix": "!" * 9}, temperature=0.0, max_tokens=20)
    assert suffixed["prompt_tokens"] == direct["prompt_tokens"] + 9


@pytest.mark.parametrize("seed", range(8))
def test_streamed_text_joined_is_the_text_not_streamed(engine: TextEngine, seed: int) -> None:
    fields = {"prompt": f"seed {seed}", "seed": seed, "temperature": 1.5, "max_tokens": 150, "stop": ["qq", "\x00\x00"]}
    whole, streamed = run(engine, [{**fields, "stream": False}, {**fields, "stream": True}])
    assert len(whole) == 1
    assert len(streamed) > 10
    assert all(output.body["text"] for output in streamed if output.kind == PARTIAL)
    assert text_of(streamed) == text_of(whole)


def test_a_completion_keeps_the_space_that_it_begins_with(engine: TextEngine) -> None:
    fields = {"prompt": "Shall we?", "grammar": 'start: " yes, " /[a-c]{9}/', "seed": 3, "max_tokens": 40}
    whole, streamed = run(engine, [{**fields, "stream": False}, {**fields, "stream": True}])
    assert text_of(whole).startswith(" yes, ")
    assert text_of(streamed) == text_of(whole)


def test_seeds(engine: TextEngine) -> None:
    def text(**fields: Any) -> str:
        return str(answer(engine, prompt="x", max_tokens=40, **fields)["text"])

    assert text(seed=7) == text(seed=7)
    assert text(seed=7) != text(seed=8)
    assert text() != text()
    # Nothing is random at temperature 0, and just above it nothing overflows.
    assert text(temperature=0.0) == text(temperature=0.0, seed=1) == text(temperature=1e-9)


def test_runs_of_the_process_differ_without_a_seed() -> None:
    code = "import mlx.core as mx; print(mx.random.uniform(shape=(4,)).tolist())"
    command = [sys.executable, "-c", code]
    runs = {subprocess.run(command, capture_output=True, check=True, timeout=30).stdout for _ in range(3)}
    assert len(runs) == 3


def test_equal_parameters_share_a_sampler(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the batch would sample row by row."""
    engine, batch = load_with_batch(tiny_model)
    samplers, insert = [], batch.insert

    def watched(*args: Any, **options: Any) -> int:
        samplers.append(options["sampler"])
        return insert(*args, **options)

    monkeypatch.setattr(batch, "insert", watched)
    for number in range(4):
        add(engine, number, prompt="x", temperature=0.8, top_p=0.9, max_tokens=5)
    assert len(samplers) == 4
    assert len(set(map(id, samplers))) == 1


def test_a_stop_string_ends_the_text_before_it(engine: TextEngine) -> None:
    full = str(answer(engine, prompt="stop here", temperature=0.0, max_tokens=100)["text"])
    # Several tokens long, and not at the beginning.
    stop = next(full[i : i + 3] for i in range(20, 90) if "\ufffd" not in full[i : i + 3])
    (outputs,) = run(
        engine, [{"prompt": "stop here", "temperature": 0.0, "max_tokens": 100, "stop": [stop], "stream": True}]
    )
    assert text_of(outputs) == full[: full.index(stop)]
    assert outputs[-1].body["finish_reason"] == "stop"
    assert outputs[-1].body["completion_tokens"] < 100


@pytest.fixture
def ending_model(tmp_path: Path, engine: TextEngine) -> tuple[Path, int]:
    """A model that greedily ends its text after the prompt `end`, and the position of that token, at least 10."""
    _, ids = in_one_process(engine, engine.loaded.tokenizer.encode("end"), 60, temp=0.0)
    position = next(i for i in range(10, 60) if ids[i] not in ids[:i])
    return make_tiny_model(tmp_path / "ending", eos_token_id=ids[position]), position


def test_an_end_of_text_token_ends_and_is_never_text(ending_model: tuple[Path, int]) -> None:
    folder, position = ending_model
    engine = load(folder)
    got = answer(engine, prompt="end", temperature=0.0, max_tokens=100)
    text, _ = in_one_process(engine, engine.loaded.tokenizer.encode("end"), 100, temp=0.0)
    assert got["text"] == text
    assert (got["finish_reason"], got["completion_tokens"]) == ("stop", position + 1)
    # What is held back because it could become a stop string is text after all.
    assert answer(engine, prompt="end", temperature=0.0, max_tokens=100, stop=[text[-1] + "never"])["text"] == text


def test_max_tokens_and_the_context(tmp_path: Path) -> None:
    engine = load(make_tiny_model(tmp_path / "short", context_length=64))
    assert engine.facts.context_length == 64
    for asked, expected in ((None, 54), (20, 20), (54, 54), (1000, 54)):
        got = answer(engine, prompt="x" * 10, max_tokens=asked)
        assert (got["prompt_tokens"], got["completion_tokens"], got["finish_reason"]) == (10, expected, "length")
        assert got.get("context_full", False) is (asked in (None, 1000))
    assert answer(engine, prompt="x" * 63)["completion_tokens"] == 1
    for length in (64, 200):
        with pytest.raises(FailureError, match=f"{length} tokens.*64") as raised:
            add(engine, 1, prompt="x" * length)
        assert raised.value.failure.code == "context_length_exceeded"
        # So many token ids are refused before they are checked.
        with pytest.raises(FailureError, match=f"{length} tokens.*64") as raised:
            add(engine, 1, prompt=[-1] * length)
        assert (raised.value.failure.code, raised.value.failure.param) == ("context_length_exceeded", "prompt")
    assert_empty(engine)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({}, "messages", "either"),
        ({"messages": CHAT, "prompt": "x"}, "messages", "either"),
        ({"messages": []}, "messages", "empty"),
        ({"messages": ["hi"]}, "messages[0]", "object"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "string or a list"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].parts[0]",
            "not a text part",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}], "images": [b"x"]},
            "images[0]",
            "takes no images",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio"}]}], "audios": [b"x"]},
            "audios[0]",
            "does not hear",
        ),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0]", "unknown role wizard"),
        ({"messages": CHAT, "chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs", "tokenize"),
        ({"messages": CHAT, "chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs", "chat_template"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": [1, VOCABULARY]}, "prompt", r"prompt\[1\] must be a token id from 0 to 258, not 259"),
        ({"prompt": [-1]}, "prompt", r"prompt\[0\] must .* not -1"),
        ({"prompt": [True]}, "prompt", r"prompt\[0\] must .* not True"),
        ({"prompt": ["1"]}, "prompt", r"prompt\[0\] must .* not '1'"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens", "at least 1"),
        ({"prompt": "x", "temperature": -0.1}, "temperature", "at least 0"),
        ({"prompt": "x", "top_p": -0.1}, "top_p", "at least 0"),
        ({"prompt": "x", "top_p": 1.1}, "top_p", "at most 1"),
    ],
)
def test_bad_requests(engine: TextEngine, fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(FailureError, match=message) as raised:
        add(engine, 1, **fields)
    assert (raised.value.failure.code, raised.value.failure.param) == ("invalid_request", param)
    assert_empty(engine)


def test_a_model_without_a_template_still_chats(tmp_path: Path) -> None:
    engine = load(make_tiny_model(tmp_path / "plain", chat_template=None))
    rendered = "ASSISTANT's RULE: be brief\nUSER: hi é\nASSISTANT:"
    direct = answer(engine, prompt=rendered, temperature=0.0, max_tokens=9)
    assert answer(engine, messages=CHAT, temperature=0.0, max_tokens=9) == direct


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefil_step_size": 1}, "'prefil_step_size' is unknown"),
        ({"prefill_step_size": 0}, "whole number of at least 1"),
        ({"completion_batch_size": "8"}, "whole number of at least 1"),
        ({"completion_batch_size": True}, "whole number of at least 1"),
        ({"prompt_cache_tokens": -1}, "whole number of at least 0"),
        ({"context_length": 1.5}, "whole number of at least 0"),
        ({"adapter_path": 3}, "path of a folder"),
        ({"adapter_path": "/nowhere"}, "adapter_path nowhere: .* missing"),
        ({"chat_template": 3}, "a chat template or the path"),
        ({"chat_template": "/nowhere/a.jinja"}, "^chat_template a.jinja: missing"),
    ],
)
def test_bad_options(tiny_model: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tiny_model, **options)


def test_another_chat_template(tiny_model: Path, engine: TextEngine, tmp_path: Path) -> None:
    template = "{% for message in messages %}<{{ message['content'] }}>{% endfor %}"
    (tmp_path / "mine.jinja").write_text(template)
    direct = answer(engine, prompt="<be brief><hi é>", temperature=0.0, max_tokens=20)
    for given in (template, str(tmp_path / "mine.jinja")):
        changed = load(tiny_model, chat_template=given)
        assert answer(changed, messages=CHAT, temperature=0.0, max_tokens=20) == direct
    # A folder's own template may lie in a file of its own.
    folder = make_tiny_model(tmp_path / "other", chat_template=None)
    (folder / "chat_template.jinja").write_text("another")
    rendered = load(folder, chat_template=template).loaded.tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert rendered == "<be brief><hi é>"


def test_a_setting_decides_about_the_context(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "short", context_length=64)
    assert [load(folder, context_length=length).facts.context_length for length in (0, 32, 100)] == [64, 32, 100]
    # Which config.json may name without what YaRN makes of it.
    got = answer(load(folder, context_length=100), prompt="x" * 80, temperature=0.0)
    assert (got["prompt_tokens"], got["completion_tokens"]) == (80, 20)
    with pytest.raises(FailureError, match=r"40 tokens.*32"):
        add(load(folder, context_length=32), 1, prompt="x" * 40)


@pytest.fixture
def adapter(tmp_path: Path, tiny_model: Path) -> Path:
    """A LoRA adapter with random weights."""
    model, *_ = mlx_lm.load(str(tiny_model))
    config: dict[str, Any] = {"num_layers": 1, "lora_parameters": {"rank": 4, "scale": 20.0, "dropout": 0.0}}
    linear_to_lora_layers(model, config["num_layers"], config["lora_parameters"])
    parameters: Any = tree_flatten(model.parameters())
    weights = {
        name: mx.random.normal(weight.shape, key=mx.random.key(number))
        for number, (name, weight) in enumerate(parameters)
        if "lora_" in name
    }
    folder = tmp_path / "adapter"
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_changes_the_model_as_in_mlx_lm(tiny_model: Path, engine: TextEngine, adapter: Path) -> None:
    model, tokenizer, *_ = mlx_lm.load(str(tiny_model), adapter_path=str(adapter))
    prompt = tokenizer.encode("tuned")
    steps_ = stream_generate(model, tokenizer, prompt, max_tokens=60, sampler=make_sampler(temp=0.0))
    expected = "".join(step.text for step in steps_)
    fields: dict[str, Any] = {"prompt": prompt, "temperature": 0.0, "max_tokens": 60}
    assert answer(load(tiny_model, adapter_path=str(adapter)), **fields)["text"] == expected
    assert answer(engine, **fields)["text"] != expected


def test_a_request_that_fails_in_a_step_fails_alone(tmp_path: Path) -> None:
    """A tokenizer that lacks a token the model produces: a fault that no check at loading finds."""
    folder = make_tiny_model(tmp_path / "hole")
    whole = load(folder)
    tokenizer = whole.loaded.tokenizer
    good = {"prompt": "good", "temperature": 0.0, "max_tokens": 12}
    expected = answer(whole, **good)["text"]
    _, used = in_one_process(whole, tokenizer.encode("good"), 12, temp=0.0)
    bad, missing = _prompt_with_a_token_of_its_own(whole, {*used, *tokenizer.encode("good")})
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    del vocabulary[next(piece for piece, token in vocabulary.items() if token == missing)]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    of_good, of_bad = run(load(folder), [good, {"prompt": bad, "temperature": 0.0, "max_tokens": 12}])
    assert text_of(of_good) == expected
    assert of_bad[-1].kind == ERROR
    assert of_bad[-1].body["code"] == "internal_error"


def _prompt_with_a_token_of_its_own(engine: TextEngine, taken: set[int]) -> tuple[list[int], int]:
    for first in range(256):
        _, ids = in_one_process(engine, [first], 12, temp=0.0)
        if own := set(ids) - taken - {first}:
            return [first], own.pop()
    raise AssertionError("no prompt leads to a token of its own")
