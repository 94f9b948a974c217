"""Contracts of mlx-lm and llguidance: see docs/upstream.md."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import llguidance
import llguidance.hf
import mlx.core as mx
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.generate import (
    TextStateMachine,
    generate_step,
    make_text_state_machine,
    maybe_quantize_kv_cache,
    speculative_generate_step,
)
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    RotatingKVCache,
    TokenBuffer,
    can_trim_prompt_cache,
    make_prompt_cache,
    trim_prompt_cache,
)
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, apply_xtc, make_logits_processors, make_sampler
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, NaiveStreamingDetokenizer
from mlx_lm.tool_parsers.pythonic import parse_tool_call as parse_pythonic
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import (
    MODEL_ARCHITECTURE_REMAPPING,
    MODEL_REMAPPING,
    _get_classes,
    load_config,
    load_model,
    load_tokenizer,
    maybe_set_recommended_wired_limit,
)

from tests.tiny_models import BOS, EOS, VOCABULARY, make_tiny_model

GREEDY: Callable[[mx.array], mx.array] = lambda logits: mx.argmax(logits, axis=-1)  # noqa: E731


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", layers=2)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_model(folder)[0]


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder, {"trust_remote_code": False}, eos_token_ids=EOS)


def filled(cache: Any, length: int, start: int = 0, width: int = 4) -> Any:
    """A cache with the numbers from `start` on as keys and values (1, 1, length, width)."""
    numbers = mx.arange(start, start + length, dtype=mx.float32)[None, None, :, None]
    rows = mx.broadcast_to(numbers, (1, 1, length, width))
    cache.update_and_fetch(rows, rows)
    return cache


def held(cache: Any) -> list[float]:
    numbers: Any = cache.keys_and_values()[0][0, 0, :, 0].tolist()
    return list(numbers)


def test_mlx_lm_loading(folder: Path, tmp_path: Path) -> None:
    config = load_config(folder)
    assert config["model_type"] == "llama"
    model, same = load_model(folder, lazy=True)
    assert same["vocab_size"] == config["vocab_size"] == VOCABULARY
    assert model(mx.array([[1, 2]])).shape == (1, 2, VOCABULARY)
    template = {"trust_remote_code": False, "chat_template": "{{ messages[0]['content'] }}!"}
    tokenizer = load_tokenizer(folder, template, eos_token_ids=[EOS, 3])
    assert tokenizer.eos_token_ids == {EOS, 3}
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "a!"
    with pytest.raises(FileNotFoundError):
        load_adapters(model, str(tmp_path / "none"))


def test_mlx_lm_architectures() -> None:
    assert MODEL_REMAPPING["mistral"] == "llama"
    for (model_type, architecture), module in MODEL_ARCHITECTURE_REMAPPING.items():
        classes = _get_classes({"model_type": model_type, "architectures": [architecture]})
        assert classes[0].__module__ == f"mlx_lm.models.{module}"
    assert [kind.__name__ for kind in _get_classes({"model_type": "llama"})] == ["Model", "ModelArgs"]
    with pytest.raises(ValueError, match="zork"):
        _get_classes({"model_type": "zork"})


def test_mlx_lm_batched_cache() -> None:
    """Caches of different lengths merge, grow, pad on the right, join, leave and come out again as they were."""
    batch = KVCache.merge([filled(KVCache(), 3), filled(KVCache(), 5)])
    assert type(batch) is BatchKVCache
    assert batch.size() == 5
    own = BatchKVCache([])
    own.state = batch.state
    assert own.size() == 5
    assert [held(own.extract(row)) for row in (0, 1)] == [[0, 1, 2], [0, 1, 2, 3, 4]]
    own.prepare(lengths=[1, 2], right_padding=[1, 0])
    own.update_and_fetch(mx.full((2, 1, 2, 4), 9.0), mx.full((2, 1, 2, 4), 9.0))
    own.finalize()
    assert [held(own.extract(row)) for row in (0, 1)] == [[0, 1, 2, 9], [0, 1, 2, 3, 4, 9, 9]]
    own.extend(KVCache.merge([filled(KVCache(), 2, start=7)]))
    own.filter([0, 2])
    assert [held(own.extract(row)) for row in (0, 1)] == [[0, 1, 2, 9], [7, 8]]
    # The mask that worker/text/rows.py makes by itself for one new token: what is no padding may be looked at.
    padding = mx.array([own.size() - 4, own.size() - 2])[:, None, None, None]
    assert mx.array_equal(own.make_mask(1, return_array=False), padding <= mx.arange(own.size() + 1))


def test_mlx_lm_row_caches() -> None:
    """`state` has the same parts in the same places, and a row's padding is what is missing to the others' length."""
    full = KVCache.merge([filled(KVCache(), 3), filled(KVCache(), 5)])
    keys, _, offset, padding, size = full.state
    assert (keys.shape[2], offset.tolist(), padding.tolist(), size) == (5, [3, 5], [2, 0], 5)
    one = KVCache()
    one.keys, one.values, one.offset = keys[:1, :, 2:], keys[:1, :, 2:], 3
    assert held(one) == [0, 1, 2]
    window = RotatingKVCache.merge([filled(RotatingKVCache(4), 2), filled(RotatingKVCache(4), 3)])
    assert type(window) is BatchRotatingKVCache
    for token in (7.0, 8.0):
        window.update_and_fetch(mx.full((2, 1, 1, 4), token), mx.full((2, 1, 1, 4), token))
    keys, _, offset, padding, most, _, end, rotated = window.state
    assert (keys.shape[2], offset.tolist(), most, end, rotated) == (4, [4, 5], 4, 1, True)
    assert padding.tolist() == [0, -1]
    out = window.extract(0)
    keys, _, offset, kept, most, end = out.state
    assert (keys[0, 0, :, 0].tolist(), offset, kept, most, end) == ([0, 1, 7, 8], 4, 0, 4, 4)
    both = CacheList()
    both.caches = (full,)
    both.filter([1])
    assert held(both.extract(0)[0]) == [0, 1, 2, 3, 4]


def test_mlx_lm_token_buffer() -> None:
    buffer = TokenBuffer([1, 2])
    assert buffer.update_and_fetch(mx.array([3])).tolist() == [1, 2, 3]
    assert buffer.update_and_fetch(mx.array([4])).tolist() == [1, 2, 3, 4]


def test_mlx_lm_single_generators(model: Any) -> None:
    """Both generators give (token, logprobs, ...) from the last token of a prompt on, into caches that are given."""
    prompt, stream = [5, 6, 7, 8], mx.default_stream(mx.default_device())
    reference = [GREEDY(model(mx.array([prompt]))[:, -1, :]).item()]
    reference.append(GREEDY(model(mx.array([[*prompt, *reference]]))[:, -1, :]).item())

    def prefilled(*models: Any) -> list[Any]:
        layers = []
        for one in models:
            cache = make_prompt_cache(one)
            one(mx.array([prompt[:-1]]), cache=cache)
            layers += cache
        return layers

    options = {"sampler": GREEDY, "logits_processors": [], "max_tokens": 2}
    quantised = {"kv_bits": None, "kv_group_size": 64, "quantized_kv_start": 0}
    last = mx.array(prompt[-1:], mx.uint32)
    alone = generate_step(last, model, stream, prompt_cache=prefilled(model), **options, **quantised)
    tokens = [(token, logprobs.shape) for token, logprobs, *_ in alone]
    assert tokens == [(token, (VOCABULARY,)) for token in reference]
    drafted = speculative_generate_step(
        last, model, model, stream, num_draft_tokens=2, prompt_cache=prefilled(model, model), **options, **quantised
    )
    assert [token for token, *_ in drafted] == reference
    cache = [filled(KVCache(), 3)]
    cache[0].keys = cache[0].values = mx.zeros((1, 1, 256, 64))
    maybe_quantize_kv_cache(cache, 0, 64, 8)
    assert type(cache[0]).__name__ == "QuantizedKVCache"


def test_mlx_lm_single_caches(model: Any) -> None:
    cache = make_prompt_cache(model)
    assert [type(layer) for layer in cache] == [KVCache, KVCache]
    layer = filled(KVCache(), 5)
    assert (layer.offset, layer.nbytes > 0, len(layer.state) > 1, hasattr(layer, "merge")) == (5, True, True, True)
    assert can_trim_prompt_cache([layer])
    assert trim_prompt_cache([layer], 2) == 2
    assert (layer.offset, held(layer)) == (3, [0, 1, 2])
    layer.trim(1)
    layer.keys, layer.values = (mx.contiguous(part) for part in layer.keys_and_values())
    assert (layer.offset, layer.keys.shape[2]) == (2, 2)
    chunked = filled(ChunkedKVCache(4), 6)
    chunked.maybe_trim_front()
    assert chunked.start_position == 2
    assert can_trim_prompt_cache([chunked])  # it says so, though it has dropped its first tokens


def test_mlx_lm_cache_states() -> None:
    """A state goes through JSON and arrays, and `from_state` makes the cache of it."""
    kept = [filled(KVCache(), 5), filled(RotatingKVCache(4), 6), filled(ChunkedKVCache(4), 3), ArraysCache(2)]
    kept[3][0] = mx.ones((1, 2))
    kept.append(CacheList(filled(KVCache(), 2), filled(RotatingKVCache(4), 2)))
    flat: Any
    again: Any
    for layer in kept:
        flat = tree_flatten([layer.state])
        (state,) = tree_unflatten([(place, value) for place, value in flat])
        again = type(layer).from_state(state)
        flat_again: Any = tree_flatten([again.state])
        for (place, one), (_, other) in zip(flat, flat_again, strict=True):
            same = mx.array_equal(one, other).item() if isinstance(one, mx.array) else one == other
            assert same, (type(layer).__name__, place)
    quantised: Any = filled(KVCache(), 3, width=32).to_quantized(group_size=32, bits=8)
    assert (quantised.group_size, quantised.bits, quantised.offset) == (32, 8, 3)
    assert (len(quantised.keys), len(quantised.values)) == (3, 3)


def test_mlx_lm_wired_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks MLX's function up whenever it wires memory, so that it can be replaced."""
    wired: list[int] = []
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 7})
    monkeypatch.setattr(mx, "set_wired_limit", wired.append)
    maybe_set_recommended_wired_limit()
    assert wired == [7]


def test_mlx_lm_detokenizers(tokenizer: Any) -> None:
    """Each read is a fresh one; `text` and `offset` set what stands before; byte-level vocabularies are recognised."""
    detokenizer = tokenizer.detokenizer
    assert tokenizer.detokenizer is not detokenizer
    assert isinstance(detokenizer, BPEStreamingDetokenizer | NaiveStreamingDetokenizer)
    bpe = BPEStreamingDetokenizer(tokenizer._tokenizer)
    bpe.text, bpe.offset = "a", 1
    for token in tokenizer.encode(" b", add_special_tokens=False):
        bpe.add_token(token)
    bpe.finalize()
    assert bpe.last_segment == " b"
    assert bpe.last_segment == ""


def test_mlx_lm_text_state_machine() -> None:
    """The state is a tuple whose fourth part is the text that is held; None as a state ends the matching."""
    state: Any = TextStateMachine({"normal": [("<a>", "other"), ("stop", None)], "other": []}).make_state("normal")
    state, segments = TextStateMachine.split(state, "x<a")
    assert (segments, state[3]) == ([("normal", "x")], "<a")
    state, segments = TextStateMachine.split(state, ">y")
    assert segments == [("normal", ""), ("other", "y")]
    state = TextStateMachine({"normal": [("stop", None)]}).make_state()
    state, clean, name = TextStateMachine.step(state, "abst")
    assert (clean, name) == ("ab", "normal")
    assert TextStateMachine.flush(state)[1:] == ("st", "normal")
    _, clean, name = TextStateMachine.step(state, "op!")
    assert (clean, name) == ("", None)


def test_mlx_lm_tokenizer_wrapper(tokenizer: Any) -> None:
    """What the wrapper knows of a model's marks, for one without any; and the tokenizer within."""
    assert tokenizer._tokenizer.__class__.__module__.startswith("transformers.")
    assert (tokenizer.has_thinking, tokenizer.has_tool_calling, tokenizer.has_chat_template) == (False, False, True)
    for name in ("structural_markers", "response_transitions", "response_initial_state", "tool_parser"):
        assert not getattr(tokenizer, name), name
    for name in ("think_start", "think_end"):
        assert hasattr(tokenizer, name), name
    called = {"name": "weather", "arguments": {"city": "Rome", "days": 2}}
    assert parse_pythonic('[weather(city="Rome", days=2)]', None) == called
    assert not tokenizer.tool_call_start
    assert not tokenizer.tool_call_end
    state: Any = make_text_state_machine(tokenizer).make_state("normal")
    assert TextStateMachine.split(state, "plain")[1] == [("normal", "plain")]


def test_mlx_lm_sampling() -> None:
    """The filters in the order of worker/generation/sampling.py draw what make_sampler draws from the same seed."""
    logprobs = mx.log(mx.softmax(mx.arange(20, dtype=mx.float32)[None] / 3, axis=-1))
    sampler = make_sampler(
        temp=0.7, top_p=0.9, min_p=0.05, top_k=5, xtc_probability=0.0, xtc_threshold=0.1, xtc_special_tokens=[]
    )
    kept = apply_top_k(apply_min_p(apply_top_p(logprobs, 0.9), 0.05), 5)
    mx.random.seed(3)
    drawn = [sampler(logprobs).item() for _ in range(8)]
    mx.random.seed(3)
    assert [mx.random.categorical(kept * (1 / 0.7)).item() for _ in range(8)] == drawn
    without_top = apply_xtc(logprobs, 1.0, 0.1, [])
    assert without_top[0, 19].item() == -mx.inf
    bias, penalty = make_logits_processors(
        logit_bias={1: 2.0},
        repetition_penalty=2.0,
        repetition_context_size=4,
        presence_penalty=0.0,
        presence_context_size=20,
        frequency_penalty=0.0,
        frequency_context_size=20,
    )
    assert bias(mx.array([0]), mx.zeros((1, 3))).tolist() == [[0, 2, 0]]
    assert penalty(mx.array([2]), mx.ones((1, 3))).tolist() == [[1, 1, 0.5]]


def test_llguidance_matcher(tokenizer: Any) -> None:
    """A byte for each token says whether it may follow; a matcher can be reset, and describes a wrong grammar."""
    guide = llguidance.hf.from_tokenizer(tokenizer._tokenizer, n_vocab=VOCABULARY + 5, eos_token=[EOS])
    options: Any = {"whitespace_pattern": r"[ \n\t]{0,16}"}
    grammar = llguidance.LLMatcher.grammar_from_json_schema('{"type": "boolean"}', defaults=options)
    matcher = llguidance.LLMatcher(guide, grammar)

    def may_follow() -> set[int]:
        flags = memoryview(matcher.compute_logit_bias())
        assert len(flags) >= VOCABULARY
        return {token for token, flag in enumerate(flags) if flag}

    def of(text: str) -> list[int]:
        tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return tokens

    assert {of("t")[0], of("f")[0]} <= may_follow()
    assert BOS not in may_follow()
    assert matcher.try_consume_tokens(of("x")) == 0
    for token in of("true"):
        assert matcher.consume_token(token)
    assert matcher.is_stopped() or EOS in may_follow()
    matcher.reset()
    assert of("t")[0] in may_follow()
    broken = llguidance.LLMatcher(guide, llguidance.LLMatcher.grammar_from_lark("start: nothing"))
    assert broken.is_error()
    assert "nothing" in broken.get_error()
    limits = llguidance.LLParserLimits(initial_lexer_fuel=200_000)
    assert not llguidance.LLMatcher.validate_grammar(grammar, limits=limits)
    silent: Any = {"lenient": False}
    odd = llguidance.LLMatcher.grammar_from_json_schema(
        '{"not": {}, "x-guidance": {"lenient": true}}', overrides=silent
    )
    assert "not" in llguidance.LLMatcher.validate_grammar(odd, limits=limits)


def test_llguidance_grammars_of_calls(tokenizer: Any) -> None:
    """Special tokens in a rule; JSON in a rule whose blanks are those of the rule; nested grammars; terminals that
    exclude others; the texts of tokens."""
    guide = llguidance.hf.from_tokenizer(tokenizer._tokenizer, n_vocab=VOCABULARY + 5, eos_token=[EOS])
    assert guide.vocab_size == VOCABULARY + 5
    assert (guide.is_special_token(BOS), guide.is_special_token(tokenizer.encode("a")[-1])) == (True, False)
    assert guide.decode_bytes(tokenizer.encode("a", add_special_tokens=False)) == b"a"
    options = '"x-guidance": {"whitespace_pattern": "[ ]{0,16}", "lenient": false, "coerce_one_of": false}'
    lark = (
        '%llguidance {"allow_initial_skip": true, "ignore_once": true}\n%ignore /[ ]{0,16}/\n'
        f'start: (one | "[" one "]" | TEXT | <[{BOS}]> nested) "."\n'
        f'one: %json {{"type": "boolean", {options}}}\n'
        'TEXT: "<" VALUE ">"\nVALUE: /(?s:.*)/ & ~HAS\nHAS: /(?s:.*)>(?s:.*)/\n'
        'nested: %lark {\nstart: "x" other\nother: "y"\n}\n'
    )
    matcher = llguidance.LLMatcher(guide, llguidance.LLMatcher.grammar_from_lark(lark))
    assert not matcher.is_error(), matcher.get_error()

    def takes(text: str, first: tuple[int, ...] = ()) -> bool:
        matcher.reset()
        tokens = [*first, *tokenizer.encode(text, add_special_tokens=False)]
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    assert all(map(takes, ("true.", "  true .", "[true ].", "< a\n>.")))
    assert takes("xy.", (BOS,))
    assert not any(map(takes, ("<a>b>.", "xy.", "x y.", "[true.", "[].")))
