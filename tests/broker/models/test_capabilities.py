"""What the catalog says of a model's abilities and size, by its files alone."""

import json
from collections.abc import Mapping
from inspect import getsource
from pathlib import Path
from typing import Any

import mlx_lm.tokenizer_utils as upstream
import pytest

from broker.models.capabilities import INFILL_MARKS, REASONING_MARKS
from broker.models.catalog import Catalog
from broker.models.entry import CatalogEntry, ModelOverride
from tests.broker.models.model_folders import LLAMA, make_model
from worker.generation.calls.harmony import _MARKS
from worker.generation.infill import _FORMS
from worker.generation.reasoning import _TAGS

TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages[0].content }}"
PLAIN = "{{ messages[0].content }}"
VISION = {"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl", "vision_config": {"depth": 2}}


def entry_of(models: Path, override: ModelOverride | None = None) -> CatalogEntry:
    [entry] = Catalog(models, models / "none", {} if override is None else {"tiny": override}).entries()
    return entry


def capabilities(models: Path, **options: Any) -> tuple[str, ...]:
    return entry_of(models, ModelOverride(options=options)).capabilities


def write_weights(path: Path, tensors: Mapping[str, tuple[int, ...]]) -> None:
    """A header as safetensors has it; nobody reads what follows."""
    entries = {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in tensors.items()}
    header = json.dumps({"__metadata__": {"format": "mlx"}, **entries}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LLAMA, ("generate",)),
        ({"architectures": ["BertModel"], "model_type": "bert"}, ("embed",)),
        ({"architectures": ["BertForSequenceClassification"], "model_type": "bert"}, ("rerank",)),
        (VISION, ("generate", "vision")),
        ({"architectures": ["Cohere2MoeForCausalLM"], "model_type": "cohere2_moe"}, ("generate",)),
    ],
)
def test_the_work_of_each_type(models: Path, config: dict[str, Any], expected: tuple[str, ...]) -> None:
    folder = make_model(models / "tiny", config)
    write_weights(folder / "model.safetensors", {"vision_tower.patch": (1,)})
    assert entry_of(models).capabilities == expected


def test_an_engine_without_files_has_those_of_its_type(models: Path) -> None:
    entry = entry_of(models, ModelOverride("echo", "worker.echo.engine:EchoEngine"))
    assert (entry.capabilities, entry.architecture, entry.parameters) == (("generate",), None, None)


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template.jinja": TOOLS},
        {"chat_template.json": json.dumps({"chat_template": TOOLS})},
        {"tokenizer_config.json": json.dumps({"chat_template": TOOLS})},
        {"tokenizer_config.json": json.dumps({"chat_template": [{"name": "tool_use", "template": TOOLS}]})},
        {"tokenizer_config.json": "{", "chat_template.json": json.dumps({"chat_template": TOOLS})},
    ],
)
def test_a_template_that_writes_tools(models: Path, files: dict[str, str]) -> None:
    folder = make_model(models / "tiny")
    for name, text in files.items():
        (folder / name).write_text(text)
    assert capabilities(models) == ("generate", "tools")


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"chat_template.jinja": PLAIN},
        {"chat_template.jinja": "{{ messages.toolset }}"},
        {"chat_template.jinja": PLAIN, "tokenizer_config.json": json.dumps({"chat_template": TOOLS})},
        {"tokenizer_config.json": "[]", "chat_template.json": json.dumps({"chat_template": [1, {"template": 2}]})},
        {"tokenizer_config.json": "[" * 100_000},
    ],
)
def test_a_template_that_does_not(models: Path, files: dict[str, str]) -> None:
    folder = make_model(models / "tiny")
    for name, text in files.items():
        (folder / name).write_text(text)
    assert capabilities(models) == ("generate",)


def test_the_settings_may_say_otherwise(models: Path, tmp_path: Path) -> None:
    folder = make_model(models / "tiny")
    (folder / "chat_template.jinja").write_text(TOOLS)
    (tmp_path / "plain.jinja").write_text(PLAIN)
    assert capabilities(models, tool_form="refuse") == ("generate",)
    assert capabilities(models, chat_template=PLAIN) == ("generate",)
    assert capabilities(models, chat_template=str(tmp_path / "plain.jinja")) == ("generate",)
    assert capabilities(models, chat_template="/no/such/file") == ("generate",)
    assert capabilities(models, chat_template=TOOLS) == ("generate", "tools")
    assert capabilities(models, chat_template=PLAIN, tool_form="generic") == ("generate", "tools")
    assert capabilities(models, tool_form="template") == ("generate", "tools")


@pytest.mark.parametrize("marks", REASONING_MARKS)
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_with_marks_of_reasoning(models: Path, marks: tuple[str, str], file: str) -> None:
    tokens = [{"id": n, "content": mark} for n, mark in enumerate(marks)]
    text = json.dumps({"version": "1.0", "added_tokens": tokens, "model": {}})
    (make_model(models / "tiny") / file).write_text(text)
    assert capabilities(models) == ("generate", "reasoning")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "gemma4", "audio_config": {"hidden_size": 8}}, ("generate", "vision", "audio")),
        ({"model_type": "gemma4_unified", "audio_config": {}}, ("generate", "vision", "audio")),
        ({"model_type": "gemma4", "audio_config": None}, ("generate", "vision")),
        ({"model_type": "gemma4"}, ("generate", "vision")),
        ({"model_type": "phi4mm", "audio_config": {}}, ("generate", "vision")),
    ],
)
def test_a_model_that_hears(models: Path, config: dict[str, Any], expected: tuple[str, ...]) -> None:
    make_model(models / "tiny", {**config, "vision_config": {}})
    assert capabilities(models) == expected


def test_a_model_that_hears_and_speaks(models: Path) -> None:
    thinker: dict[str, Any] = {"audio_config": {}, "vision_config": {}, "text_config": {"max_position_embeddings": 64}}
    make_model(models / "tiny", {"model_type": "qwen3_omni_moe", "thinker_config": thinker})
    assert capabilities(models) == ("generate", "vision", "audio")
    assert entry_of(models).context_length == 64


@pytest.mark.parametrize("marks", INFILL_MARKS)
def test_a_tokenizer_with_marks_for_a_gap(models: Path, marks: tuple[str, ...]) -> None:
    tokenizer = make_model(models / "tiny") / "tokenizer.json"
    for present, expected in ((marks, ("generate", "infill")), (marks[:-1], ("generate",))):
        tokenizer.write_text(json.dumps({"added_tokens": [{"content": m} for m in present]}, ensure_ascii=False))
        assert capabilities(models) == expected


def test_the_marks_for_a_gap_are_those_that_a_worker_looks_for() -> None:
    assert list(INFILL_MARKS) == [tuple(form.marks) for form in _FORMS]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"added_tokens": [{"content": "<think>"}]}),  # half a pair
        json.dumps({"chat_template": "{{ '<think>' }}{{ \"</think>\" }}"}),  # text, and no tokens
        json.dumps({"added_tokens": [], "model": {"vocab": "x" * 2_000_000 + '"<think>" "</think>"'}}),
    ],
)
def test_a_tokenizer_without(models: Path, text: str) -> None:
    (make_model(models / "tiny") / "tokenizer.json").write_text(text)
    assert capabilities(models) == ("generate",)


def test_the_marks_are_those_that_a_worker_looks_for() -> None:
    assert set(_TAGS) < set(REASONING_MARKS)
    assert ("<|channel|>", "<|message|>") in REASONING_MARKS
    assert {"<|channel|>", "<|message|>"} <= set(_MARKS)
    known = getsource(upstream._infer_thinking) + getsource(upstream._is_xtml_vocab)
    others = set(REASONING_MARKS) - set(_TAGS) - {("<|channel|>", "<|message|>")}
    for start, end in others:
        assert f'"{start}"' in known
        assert f'"{end}"' in known


@pytest.mark.parametrize(("named", "expected"), [("llama", "llama"), (None, None), (3, None)])
def test_the_architecture_is_named_as_it_is(models: Path, named: object, expected: str | None) -> None:
    make_model(models / "tiny", LLAMA | {"model_type": named})
    assert entry_of(models).architecture == expected


HUGE = json.dumps({"a": {"shape": [2**40, 2**40]}}).encode()  # no message can hold this number


# ---- parameters ---------------------------------------------------------------------------------------------------

HALVES = {"model.embed.weight": (10, 4), "model.norm.weight": (4,), "scalar": ()}


def test_all_numbers_are_counted(models: Path) -> None:
    folder = make_model(models / "tiny", weights={})
    write_weights(folder / "model-00001-of-00002.safetensors", HALVES)
    write_weights(folder / "model-00002-of-00002.safetensors", {"lm_head.weight": (10, 4)})
    write_weights(folder / "adapters.safetensors", {"lora": (100, 100)})
    assert entry_of(models).parameters == 40 + 4 + 1 + 40


def test_a_quantised_weight_counts_what_it_stands_for(models: Path) -> None:
    layer = {"weight": (8, 16), "scales": (8, 2), "biases": (8, 2), "bias": (8,)}  # 8 x 128 in 4 bits
    tensors = {f"layer.{part}": shape for part, shape in layer.items()}
    tensors |= {"own.weight": (8, 32), "own.scales": (8, 4), "own.biases": (8, 4), "norm.weight": (4,)}
    quantization = {"group_size": 64, "bits": 4, "own": {"group_size": 32, "bits": 8}}
    folder = make_model(models / "tiny", LLAMA | {"quantization": quantization})
    write_weights(folder / "model.safetensors", tensors)
    assert entry_of(models).parameters == 8 * 128 + 8 + 8 * 128 + 4


@pytest.mark.parametrize(("total", "expected"), [(7000, 7000), ("many", 45), (0, 45), (True, 45), (2**64, 45)])
def test_the_index_says_it_where_there_is_one(models: Path, total: object, expected: int) -> None:
    folder = make_model(models / "tiny")
    write_weights(folder / "model.safetensors", HALVES)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_parameters": total}}))
    assert entry_of(models).parameters == expected


def test_nothing_is_said_of_other_forms_of_quantisation_and_of_broken_files(models: Path) -> None:
    folder = make_model(models / "tiny", LLAMA | {"quantization_config": {"quant_method": "awq", "bits": 4}})
    write_weights(folder / "model.safetensors", HALVES)
    assert entry_of(models).parameters is None
    (folder / "config.json").write_text(json.dumps(LLAMA))
    for header in (b"", b"{", b"[]", b'{"a": 3, "b": {"shape": "large"}, "c": {"shape": [true]}}', HUGE):
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        assert entry_of(models).parameters is None
