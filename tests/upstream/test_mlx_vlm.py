"""Contracts of mlx-vlm, and of transformers beneath it: see docs/upstream.md."""

import io
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tokenizer_utils import load
from mlx_vlm.embedding_loader import EMBEDDING_MODEL_REMAPPING, load_embedding_model
from mlx_vlm.generate.ar import BatchGenerator, PromptProcessingBatch
from mlx_vlm.generate.common import _chunked_prefill_enabled
from mlx_vlm.generate.diffusion import is_diffusion_model
from mlx_vlm.models.cache import BatchKVCache
from mlx_vlm.models.pooling import EmbeddingOutput, pool_by_config, read_pooling_config
from mlx_vlm.prompt_utils import MODEL_CONFIG, apply_chat_template, get_chat_template
from mlx_vlm.reranker_loader import is_sequence_classifier_config, load_sequence_classification_model
from mlx_vlm.utils import (
    MODEL_REMAPPING,
    get_model_and_args,
    load_config,
    load_image,
    load_image_processor,
    load_model,
    load_processor,
    prepare_inputs,
    should_add_special_tokens,
)
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerFast, dynamic_module_utils
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from tests.tiny_encoders import make_tiny_encoder, make_tiny_reranker
from tests.tiny_hearing import make_tiny_hearing
from tests.tiny_models import make_tiny_model
from tests.tiny_vision import IMAGE_TOKEN, make_tiny_vision, picture
from worker.vision.batch import join
from worker.vision.bounds import keep_in_bounds
from worker.vision.copies import begun_like

CHAT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_vision(tmp_path_factory.mktemp("models") / "tiny", family="qwen3_vl")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_model(folder, trust_remote_code=False)


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return load_processor(folder, True, eos_token_ids=None, trust_remote_code=False)


def prompt_of(model: Any, processor: Any) -> tuple[list[int], dict[str, Any]]:
    """The tokens of a chat with a picture, and what the model makes of them."""
    text = processor.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    inputs: Any = prepare_inputs(
        processor,
        images=[Image.open(io.BytesIO(picture()))],
        prompts=text,
        image_token_index=None,
        add_special_tokens=False,
    )
    tokens: list[int] = inputs.pop("input_ids")[0].tolist()
    mask, pixels = inputs.pop("attention_mask"), inputs.pop("pixel_values")
    features = model.get_input_embeddings(mx.array([tokens]), pixels, mask=mask, **inputs)
    return tokens, {**inputs, **{name: value for name, value in features.to_dict().items() if value is not None}}


def generator_of(model: Any, processor: Any, **options: Any) -> Any:
    stream = mx.default_stream(mx.default_device())
    return BatchGenerator(
        model.language_model,
        processor,
        stop_tokens=[0],
        completion_batch_size=4,
        prefill_batch_size=1,
        compute_logprobs=False,
        stream=stream,
        **options,
    )


def test_mlx_vlm_loading(folder: Path, model: Any, processor: Any) -> None:
    assert load_config(folder)["model_type"] == model.config.model_type == "qwen3_vl"
    assert hasattr(model, "language_model")
    assert not is_diffusion_model(model)
    assert load_image_processor(folder, trust_remote_code=False) is None
    assert processor.tokenizer.stopping_criteria.eos_token_ids
    assert "qwen3_vl" in MODEL_CONFIG
    turns = apply_chat_template(processor, model.config, CHAT, return_messages=True, num_images=1)
    assert turns[0]["role"] == "user"
    assert "what?" in get_chat_template(processor, turns, add_generation_prompt=True)
    assert isinstance(should_add_special_tokens("qwen3_vl", processor), bool)
    tokens, seen = prompt_of(model, processor)
    assert IMAGE_TOKEN in tokens
    assert seen["inputs_embeds"].shape[:2] == (1, len(tokens))


def test_mlx_vlm_architectures() -> None:
    assert MODEL_REMAPPING["llava-qwen2"] == "llava_bunny"
    assert EMBEDDING_MODEL_REMAPPING["xlm-roberta"] == "xlm_roberta"
    module, name = get_model_and_args({"model_type": "BERT"})
    assert (module.__name__, name) == ("mlx_vlm.models.bert", "bert")
    assert any(value is EmbeddingOutput for value in module.Model.__call__.__globals__.values())
    with pytest.raises(ValueError, match="zork"):
        get_model_and_args({"model_type": "zork"})


def test_mlx_vlm_chunked_prefill(model: Any, processor: Any) -> None:
    tokens, seen = prompt_of(model, processor)
    options = {"input_ids": mx.array([tokens]), "inputs_embeds": seen["inputs_embeds"], "prefill_kwargs": seen}
    assert _chunked_prefill_enabled(model, **options) in (True, False)


def test_mlx_vlm_batch_generator(model: Any, processor: Any) -> None:
    """One prompt at a time; a processor with `process_last_token` gets every token but the first; `remove` by uid."""
    tokens, seen = prompt_of(model, processor)
    calls: list[tuple[str, Any]] = []

    class Only:
        """Leaves one token possible: first 5, then 6, 7 and so on."""

        def __call__(self, context: mx.array, logits: mx.array) -> mx.array:
            calls.append(("first", context.size))
            return self.only(5, logits)

        def process_last_token(self, token: int, logits: mx.array) -> mx.array:
            calls.append(("last", token))
            return self.only(token + 1, logits)

        def only(self, token: int, logits: mx.array) -> mx.array:
            return mx.where(mx.arange(logits.shape[-1]) != token, -mx.inf, mx.zeros_like(logits))

    generator = generator_of(model, processor)
    generator.prefill_step_size = None
    (uid,) = generator.insert([tokens], [3], prompt_kwargs=[seen], logits_processors=[[Only()]])
    assert generator.has_pending_prompts
    responses = []
    for _ in range(10):
        responses += generator.next()[1]
    assert not generator.has_pending_prompts
    assert not generator.has_work
    assert [(r.uid, r.token, r.finish_reason) for r in responses] == [
        (uid, 5, None),
        (uid, 6, None),
        (uid, 7, "length"),
    ]
    assert calls[:3] == [("first", len(tokens)), ("last", 5), ("last", 6)]
    (other,) = generator.insert([tokens], [50], prompt_kwargs=[seen], logits_processors=[None])
    generator.next()
    assert generator.remove(other)
    assert generator.next()[1] == []


def test_mlx_vlm_copied_sequence(model: Any, processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequence that begins with a copy of another's caches goes on in the same batch as that one does."""
    tokens, seen = prompt_of(model, processor)
    copies: list[Any] = []

    class Batch(PromptProcessingBatch):  # type: ignore[misc] # mlx-vlm is not read by mypy
        def generate(self, *arguments: Any, **rest: Any) -> Any:
            first: Any = super().generate(*arguments, **rest)
            likeliest = (mx.arange(model.language_model.args.vocab_size)[None] == first._next_tokens[:, None]) * 1.0
            copies.append(begun_like(first, likeliest, tokens, None, 6))
            return first

    monkeypatch.setattr(import_module("mlx_vlm.generate"), "PromptProcessingBatch", Batch)
    generator = generator_of(model, processor)
    generator.prefill_step_size = None
    generator.insert([tokens], [6], prompt_kwargs=[seen], logits_processors=[None])
    said: dict[int, list[int]] = {}
    while generator.has_work:
        for response in generator.next()[1]:
            said.setdefault(response.uid, []).append(response.token)
        if copies:
            join(generator, copies.pop())
    one, other = said.values()
    assert other == one
    assert len(one) == 6


def test_mlx_vlm_greedy_decode(model: Any, processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator asks `fused_greedy_decode` for the tokens of a step without processors. What is left-padded is in
    an array that the cache replaces when sequences come or go, and only then."""
    tokens, seen = prompt_of(model, processor)
    caches: list[Any] = []
    paddings: list[mx.array] = []

    def decode(inputs: mx.array, *, cache: list[Any], **rest: Any) -> mx.array:
        caches.append(cache[0])
        paddings.append(cache[0].left_padding)
        assert inputs.shape == (cache[0].left_padding.size, 1)
        model.language_model(inputs, cache=cache, **rest)
        return mx.full((inputs.shape[0],), 40 + len(caches))

    monkeypatch.setattr(model.language_model, "fused_greedy_decode", decode, raising=False)
    generator = generator_of(model, processor)
    generator.insert([tokens], [50], prompt_kwargs=[seen], logits_processors=[None])
    said = [response.token for _ in range(6) for response in generator.next()[1]]
    assert said[1:4] == [41, 42, 43]
    assert all(type(cache) is BatchKVCache for cache in caches)
    assert all(padding is paddings[0] for padding in paddings)
    short = tokens[-3:]
    (other,) = generator.insert(
        [short], [50], prompt_kwargs=[{"inputs_embeds": seen["inputs_embeds"][:, -3:]}], logits_processors=[None]
    )
    while paddings[-1].size == 1:
        generator.next()
    both: Any = paddings[-1].tolist()
    assert max(both) > 0
    generator.remove(other)
    generator.next()
    assert paddings[-1].tolist() == [0]
    assert BatchKVCache([0]).make_mask(1, window_size=None) is not None


def test_mlx_vlm_prompt_batch(model: Any, processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator takes its class of prompts from `mlx_vlm.generate`; `_prompt_kwargs` has the features of pictures
    and the mask of what is left of the prompt; `prompt_step` gives the tokens that it has prefilled."""
    tokens, seen = prompt_of(model, processor)
    assert isinstance(seen["deepstack_visual_embeds"], list)
    steps: list[tuple[int, int]] = []

    class Batch(PromptProcessingBatch):  # type: ignore[misc] # mlx-vlm is not read by mypy
        def prompt_step(self) -> int:
            features = self._prompt_kwargs["deepstack_visual_embeds"]
            before = self._prompt_kwargs["visual_pos_masks"]
            assert self.needs_processing() == (self._inputs_embeds.shape[1] > 1)
            assert self._inputs_embeds.shape[1] == len(tokens) - self._processed_prompt_columns
            if self._processed_prompt_columns == 4:
                self.prefill_step_size = 2  # counts at once
            count = int(super().prompt_step())
            mx.eval([layer.state for layer in self.prompt_cache])
            if count:
                steps.append((count, before.shape[1]))
                shown: Any = mx.sum(before[:, :count]).item()
                if self._prompt_kwargs["deepstack_visual_embeds"] is features:
                    self._prompt_kwargs["deepstack_visual_embeds"] = [of_layer[shown:] for of_layer in features]
            return count

    # `mlx_vlm.generate` is a function too, so the module comes from here.
    monkeypatch.setattr(import_module("mlx_vlm.generate"), "PromptProcessingBatch", Batch)
    generator = generator_of(model, processor, prefill_step_size=4)
    generator.insert([tokens], [1], prompt_kwargs=[seen], logits_processors=[None])
    for _ in range(len(tokens)):
        generator.next()
    assert steps[0] == (4, len(tokens))
    assert steps[1] == (2, len(tokens) - 4)
    assert sum(count for count, _ in steps) == len(tokens) - 1


def test_mlx_vlm_load_image() -> None:
    """A picture of Pillow becomes an upright one in RGB."""
    image = Image.new("L", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    loaded = load_image(Image.open(file))
    assert (loaded.mode, loaded.size) == ("RGB", (2, 4))


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_mlx_vlm_hearing(tmp_path: Path) -> None:
    folder = make_tiny_hearing(tmp_path / "hears")
    model: Any = load_model(folder, trust_remote_code=False)
    processor: Any = load_processor(folder, True, eos_token_ids=None, trust_remote_code=False)
    assert processor.audio_seq_length * processor.audio_ms_per_token == 30_000
    samples = np.sin(np.arange(8000, dtype=np.float32))
    made = processor.feature_extractor([samples], sampling_rate=16_000, return_attention_mask=True)
    features = {name: mx.array(np.asarray(made[name])) for name in ("input_features", "input_features_mask")}
    tokens = mx.array([[1, *[model.config.audio_token_id] * 13, 2]])
    silent, heard = (model.get_input_embeddings(tokens, None, **kind).inputs_embeds for kind in ({}, features))
    changed: Any = mx.any(silent != heard, axis=-1)[0].tolist()
    assert changed == [False, *[True] * 13, False]


def test_mlx_vlm_encoders(tmp_path: Path) -> None:
    folder = make_tiny_encoder(tmp_path / "encoder")
    assert read_pooling_config(folder) is None
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    model: Any = load_embedding_model(folder, lazy=True)
    config = read_pooling_config(folder)
    model.pooling_config = config
    mask = mx.array([[1, 1, 1]])
    out = model(mx.array([[1, 2, 3]]), attention_mask=mask)
    assert out.text_embeds.shape == pool_by_config(out.last_hidden_state, mask, config).shape
    assert out.text_embeds.ndim == 2
    assert is_sequence_classifier_config({"architectures": ["BertForSequenceClassification"]})
    assert not is_sequence_classifier_config({"architectures": ["BertModel"]})
    reranker: Any = load_sequence_classification_model(make_tiny_reranker(tmp_path / "reranker"), lazy=True)
    pair = reranker(mx.array([[1, 2, 3]]), attention_mask=mask, token_type_ids=mx.array([[0, 0, 1]]))
    assert pair.logits.shape == (1, 1)


def test_transformers_backend_tokenizer(tmp_path: Path) -> None:
    """The tokenizer beneath puts special tokens around texts that were tokenized one by one."""
    tokenizer: Any = AutoTokenizer.from_pretrained(make_tiny_encoder(tmp_path / "encoder"), local_files_only=True)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    one, two = (backend.encode(text, add_special_tokens=False) for text in ("ab", "c"))
    pair = backend.post_process(one, two)
    whole = tokenizer("ab", "c", return_token_type_ids=True)
    assert (pair.ids, pair.type_ids) == (whole["input_ids"], whole["token_type_ids"])


def test_transformers_ways_to_encode(tmp_path: Path) -> None:
    """A class whose ways are those of its bases encodes a chat as the tokenizer beneath does."""
    wrapper = load(make_tiny_model(tmp_path / "model"))
    tokenizer = wrapper._tokenizer
    assert isinstance(tokenizer, TokenizersBackend)
    kind = type(tokenizer)
    assert kind.__call__ is PreTrainedTokenizerBase.__call__
    assert kind._encode_plus is TokenizersBackend._encode_plus
    assert kind.apply_chat_template is PreTrainedTokenizerBase.apply_chat_template
    assert tokenizer.split_special_tokens is False
    turns = [{"role": "user", "content": "Why </s>?"}]
    text = wrapper.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = wrapper.apply_chat_template(turns, add_generation_prompt=True)
    assert tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids == ids


def test_transformers_foreign_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever loads code that comes with a model asks `get_cached_module_file`, by its name in the module, first."""
    (tmp_path / "evil.py").write_text("import sys; sys.evil = True\nclass Evil: pass\n")
    asked: list[str] = []

    def refuse(_folder: Any, file: str, *_: Any, **__: Any) -> None:
        asked.append(file)
        raise ValueError(file)

    monkeypatch.setattr(dynamic_module_utils, "get_cached_module_file", refuse)
    with pytest.raises(ValueError, match=r"evil\.py"):
        get_class_from_dynamic_module("evil.Evil", str(tmp_path))
    assert asked == ["evil.py"]
    assert not hasattr(sys, "evil")


def test_transformers_vocabulary(tmp_path: Path) -> None:
    """A tokenizer's `get_vocab` is a method of its class, and its length counts added tokens."""
    tokenizer: Any = AutoTokenizer.from_pretrained(make_tiny_model(tmp_path / "tiny"))
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert "get_vocab" in vars(PreTrainedTokenizerFast)
    before = len(tokenizer)
    tokenizer.add_tokens(["<new>"])
    assert len(tokenizer) == before + 1 == len(tokenizer.get_vocab())


@pytest.mark.parametrize("is_kept", [False, True])
def test_mlx_vlm_places_of_selected_blocks(monkeypatch: pytest.MonkeyPatch, *, is_kept: bool) -> None:
    """The second block of two is none, and a block is longer than what there is."""
    module: Any = import_module("mlx_vlm.models.qwen4_exp.language")
    indexer = module.Qwen4ExpQSAIndexer.__new__(module.Qwen4ExpQSAIndexer)
    nn: Any = import_module("mlx.nn")
    nn.Module.__init__(indexer)
    indexer.compress_ratio, indexer.block_topk = 8, 2
    holder = nn.Module()
    holder.indexer = indexer
    if is_kept:
        keep_in_bounds(holder)
    places: list[int] = []

    def put(array: mx.array, indices: mx.array, values: mx.array, axis: int) -> mx.array:
        lowest: Any = mx.min(indices).item()
        places.append(lowest)
        return array  # the real one may write outside of it

    monkeypatch.setattr(mx, "put_along_axis", put)
    indexer.build_mask(
        SimpleNamespace(
            selected_blocks=mx.array([[[0, -1]] * 3]),
            query_ends=mx.array([[1, 2, 3]]),
            complete_counts=mx.array([[0, 0, 0]]),
            left_padding=mx.array([0]),
            key_len=3,
        )
    )
    assert places == [0 if is_kept else -8]
