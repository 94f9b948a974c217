"""What a model's files say of it: its type, quantisation, context; and what settings say instead."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from broker.models.catalog import Catalog
from broker.models.entry import ModelOverride
from broker.models.facts import detect_type
from tests.broker.models.model_folders import LLAMA, make_hub_model, make_model, refusal


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "text-gen"),
        (LLAMA, "text-gen"),
        ({"architectures": "LlamaForCausalLM"}, "text-gen"),
        ({"architectures": [None, 3]}, "text-gen"),
        ({"architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {"depth": 2}}, "vision"),
        ({"architectures": ["LlavaForConditionalGeneration"], "image_token_index": 32000}, "vision"),
        ({"model_type": "idefics3", "image_token_id": 49190}, "vision"),
        ({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {}, "vision_config": {}}, "vision"),
        # Text-only checkpoints of multimodal families.
        ({"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}, "text-gen"),
        ({"architectures": ["Mistral3ForConditionalGeneration"], "text_config": {"hidden_size": 8}}, "text-gen"),
        ({"architectures": ["WhisperForConditionalGeneration"], "audio_config": {}}, "audio"),
        ({"model_type": "csm", "codec_config": {}}, "audio"),
        ({"architectures": ["BertModel"], "model_type": "bert"}, "embeddings"),
        ({"architectures": ["XLMRobertaModel"]}, "embeddings"),
        ({"architectures": ["Qwen3ForTextEmbedding"]}, "embeddings"),
    ],
)
def test_the_type_comes_from_the_config(config: dict[str, Any], expected: str) -> None:
    assert detect_type(config, sentence_transformer=False) == expected


def test_sentence_transformers_say_so_in_a_file(catalog: Catalog, models: Path) -> None:
    assert detect_type(LLAMA, sentence_transformer=True) == "embeddings"
    folder = make_model(models / "sentences", LLAMA | {"model_type": "qwen3"})
    (folder / "modules.json").write_text("[]")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    [entry] = catalog.entries()
    assert (entry.spec.model_type, entry.context_length) == ("embeddings", 256)


@pytest.mark.parametrize("content", ["[]", "{", '{"max_seq_length": "long"}'])
def test_unreadable_files_beside_the_config_are_ignored(catalog: Catalog, models: Path, content: str) -> None:
    folder = make_model(models / "tiny")
    (folder / "sentence_bert_config.json").write_text(content)
    assert catalog.entries()[0].context_length == 2048


def test_an_unknown_architecture_is_refused_with_its_name(catalog: Catalog, models: Path) -> None:
    make_model(models / "strange", LLAMA | {"model_type": "zork"})
    make_model(models / "sentences", {"architectures": ["ZorkBertModel"], "model_type": "zorkbert"})
    make_model(models / "pictures", {"vision_config": {}, "model_type": "zork_vl"})
    for name, architecture, kind in (
        ("strange", "zork", "text-gen"),
        ("sentences", "zorkbert", "embeddings"),
        ("pictures", "zork_vl", "vision"),
    ):
        says = f"{name}: config.json names the architecture '{architecture}', unknown for type {kind}"
        assert refusal(catalog, name) == ("load_failed", says)
    assert catalog.entries() == []


def test_any_error_in_a_folder_is_a_refusal(
    catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_model(models / "long", LLAMA | {"model_type": "a" * 300})
    assert refusal(catalog, "long")[0] == "load_failed"

    def endless(config: dict[str, Any], model_type: str) -> str | None:
        raise RecursionError("café")

    make_model(models / "odd")
    monkeypatch.setattr("broker.models.facts.unknown_architecture", endless)
    code, message = refusal(catalog, "odd")
    assert code == "load_failed"
    assert message == "odd: its files cannot be read: RecursionError: 'caf\\xe9'"
    assert "Traceback" in caplog.text
    assert catalog.entries() == []


GEMMA = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "vision_config": {}}


def write_header(path: Path, header: bytes, size: int | None = None) -> None:
    path.write_bytes((len(header) if size is None else size).to_bytes(8, "little") + header)


def test_a_checkpoint_without_tensors_for_pictures_is_text(catalog: Catalog, models: Path) -> None:
    text = {"__metadata__": {"format": "mlx"}, "language_model.model.embed_tokens.weight": {}}
    folder = make_model(models / "gemma", GEMMA)
    write_header(folder / "model.safetensors", json.dumps(text).encode())
    assert catalog.find("gemma").model_type == "text-gen"
    write_header(folder / "model-2.safetensors", json.dumps({"vision_tower.encoder.weight": {}}).encode())
    os.utime(folder, ns=(1, 1))
    assert catalog.find("gemma").model_type == "vision"


def test_weights_that_are_replaced_are_read_again(catalog: Catalog, models: Path) -> None:
    folder = make_model(models / "gemma", GEMMA)
    weights = folder / "model.safetensors"
    write_header(weights, json.dumps({"language_model.norm.weight": {}}).encode())
    assert catalog.find("gemma").model_type == "text-gen"
    write_header(weights, json.dumps({"vision_tower.encoder.weight": {}}).encode())
    spec = catalog.find("gemma")
    assert (spec.model_type, spec.weight_bytes) == ("vision", weights.stat().st_size)


# Families that mlx-lm lacks and mlx-vlm has: what their configurations say of pictures and what their tensors are
# called, no rule knows.
ONLY_MLX_VLM = [
    ({"model_type": "phi3_v", "img_processor": {}}, "model.vision_embed_tokens.x"),
    ({"model_type": "phi4mm", "embd_layer": {}}, "model.embed_tokens_extend.x"),
    ({"model_type": "molmo"}, "vision_backbone.x"),
    ({"model_type": "qwen3_omni_moe", "thinker_config": {"vision_config": {}}}, "thinker.visual.x"),
    ({"model_type": "minicpmo", "vision_config": {}, "audio_config": {}}, "vpm.x"),
    ({"model_type": "minicpmo", "audio_config": {}}, "resampler.x"),
    ({"model_type": "flint"}, "model.x"),
    ({"model_type": "cohere2_moe"}, "model.x"),
    ({"model_type": "hy_v4"}, "model.x"),
]


@pytest.mark.parametrize(("config", "tensor"), ONLY_MLX_VLM)
def test_what_only_mlx_vlm_can_run_is_run_by_it(
    catalog: Catalog, models: Path, config: dict[str, Any], tensor: str
) -> None:
    folder = make_model(models / "m", config)
    write_header(folder / "model.safetensors", json.dumps({tensor: {}}).encode())
    assert catalog.find("m").model_type == "vision"


@pytest.mark.parametrize(("header", "size"), [(b"", None), (b"[1]", None), (b"{}", None), (b"{", None), (b"{}", 2**60)])
def test_weights_without_readable_headers_change_nothing(
    catalog: Catalog, models: Path, header: bytes, size: int | None
) -> None:
    write_header(make_model(models / "gemma", GEMMA) / "model.safetensors", header, size)
    assert catalog.find("gemma").model_type == "vision"


def test_the_name_of_a_folder_decides_nothing(catalog: Catalog, models: Path) -> None:
    make_model(models / "bert-vision-whisper-embedding")
    assert catalog.find("bert-vision-whisper-embedding").model_type == "text-gen"


def test_the_settings_decide_over_the_files(models: Path, hub: Path) -> None:
    make_model(models / "odd", LLAMA | {"vision_config": {}})
    override = ModelOverride("text-gen", None, {"a": 1}, 5.0, 1 << 30)
    spec = Catalog(models, hub, {"odd": override}).find("odd")
    assert (spec.model_type, spec.options, spec.keep_alive_seconds, spec.memory_limit_bytes) == (
        "text-gen",
        {"a": 1},
        5.0,
        1 << 30,
    )


def test_a_model_with_an_engine_of_its_own_needs_no_files(models: Path, hub: Path) -> None:
    override = ModelOverride("echo", "worker.echo.engine:EchoEngine", {"delay_seconds": 0.1})
    catalog = Catalog(models, hub, {"echo": override})
    spec = catalog.find("echo")
    assert (spec.model_type, spec.engine, spec.weight_bytes) == ("echo", "worker.echo.engine:EchoEngine", 0)
    assert [e.spec.model_id for e in catalog.entries()] == ["echo"]


@pytest.mark.parametrize(
    ("config", "quantization", "context_length"),
    [
        (LLAMA, None, 2048),
        (LLAMA | {"quantization": {"bits": 4, "group_size": 32}}, "4-bit", 2048),
        (LLAMA | {"quantization_config": {"bits": 8}}, "8-bit", 2048),
        (LLAMA | {"quantization": {"group_size": 32}}, None, 2048),
        (LLAMA | {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}, "fp8", 2048),
        (LLAMA | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "4-bit", 2048),
        (LLAMA | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "8-bit", 2048),
        (LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "4-bit", 2048),
        ({"architectures": ["LlamaForCausalLM"], "n_positions": 1024}, None, 1024),
        (LLAMA | {"text_config": {"hidden_size": 8}}, None, 2048),
        (LLAMA | {"quantization": "q4"}, None, 2048),
        (LLAMA | {"text_config": {"max_position_embeddings": 512}}, None, 512),
        (LLAMA | {"max_position_embeddings": "many"}, None, 0),
        (LLAMA | {"max_position_embeddings": -1}, None, 0),
        (LLAMA | {"max_position_embeddings": 1 << 70}, None, 0),
        ({"architectures": ["LlamaForCausalLM"]}, None, 0),
    ],
)
def test_what_a_list_of_models_shows(
    catalog: Catalog, models: Path, config: object, quantization: str | None, context_length: int
) -> None:
    folder = make_model(models / "tiny", config)
    [entry] = catalog.entries()
    assert (entry.quantization, entry.context_length) == (quantization, context_length)
    assert entry.created == (folder / "config.json").stat().st_mtime


def test_the_list_has_every_usable_model_once_and_leaves_the_others_out(
    catalog: Catalog, models: Path, hub: Path
) -> None:
    make_model(models / "one")
    make_model(models / "org" / "two")
    make_model(models / "org" / "broken", "{")
    make_model(models / "deep" / "er" / "three")
    make_model(models / ".cache")
    make_model(models.parent / "outside")
    (models / "out").symlink_to("../outside")
    make_hub_model(hub, "org/two")
    make_hub_model(hub, "org/four")
    make_hub_model(hub, "five")
    (hub / "models--a--b--c").mkdir()
    (models / "a file").write_text("")
    assert [e.spec.model_id for e in catalog.entries()] == ["five", "one", "org/four", "org/two"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take no such name")
def test_a_name_that_is_not_text_is_not_listed(catalog: Catalog, models: Path) -> None:
    make_model(models / os.fsdecode(b"\xff"))
    assert catalog.entries() == []


def test_folders_that_do_not_exist_hold_no_models(tmp_path: Path) -> None:
    assert Catalog(tmp_path / "no", tmp_path / "hub", {}).entries() == []
