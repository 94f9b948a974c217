"""What the table says of models that people have. The libraries themselves are compared with it in
tests/worker/loading/test_architectures.py."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from broker.models import architectures
from broker.models.architectures import Table, unknown_architecture
from tests.service import ROOT


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama"},
        {"model_type": "mistral"},  # by the library's table
        {"model_type": "bailing_hybrid", "architectures": ["BailingMoeV3ForCausalLM"]},
        {"model_type": "qwen2_5_vl", "architectures": ["Anything"]},
        {"model_type": "gemma3_text"},
        {},
        {"model_type": 3},
    ],
)
def test_an_architecture_that_generates_text(config: dict[str, Any]) -> None:
    assert unknown_architecture(config, "text-gen") is None


# cache is a file beside the models; olmo ends the process that imports it.
@pytest.mark.parametrize("name", ["zork", "../models/llama", "llama.py", "", "bert", "Llama", "cache", "olmo"])
def test_an_architecture_that_does_not_generate_text(name: str) -> None:
    assert unknown_architecture({"model_type": name, "architectures": [None]}, "text-gen") == name


@pytest.mark.parametrize(
    "name", ["bert", "xlm-roberta", "xlm_roberta", "modernbert", "qwen3", "gemma3_text", "lfm2", "llama_bidirec"]
)
def test_an_architecture_for_embeddings(name: str) -> None:
    assert unknown_architecture({"model_type": name}, "embeddings") is None


# qwen2 is there, but as a text model only; pooling is a file beside the models.
@pytest.mark.parametrize("name", ["zork", "nomic_bert", "distilbert", "qwen2", "llama", "pooling", "."])
def test_an_architecture_that_is_not_for_embeddings(name: str) -> None:
    assert unknown_architecture({"model_type": name}, "embeddings") == name


@pytest.mark.parametrize(
    "name", ["qwen2_vl", "qwen2_5_vl", "gemma3", "smolvlm", "solar_open", "llava-qwen2", "Bunny-Llama"]
)
def test_an_architecture_for_vision(name: str) -> None:
    assert unknown_architecture({"model_type": name}, "vision") is None


# base and cache are files beside the models; yolo11 and dinov2 write no text, qwen_image makes pictures.
@pytest.mark.parametrize(
    "name",
    ["zork", "yolo11", "dinov2_with_registers", "qwen_image", "base", "cache", "__pycache__", "../models/qwen2_vl", ""],
)
def test_an_architecture_that_is_not_for_vision(name: str) -> None:
    assert unknown_architecture({"model_type": name}, "vision") == name


@pytest.mark.parametrize("name", ["whisper", "Whisper", "parakeet", "kokoro", "csm", "qwen3_tts"])
def test_an_architecture_for_audio(name: str) -> None:
    assert unknown_architecture({"model_type": name}, "audio") is None


# mlx-audio has the others too: a text model of other models, a codec, what separates sounds, what finds speech.
@pytest.mark.parametrize("name", ["zork", "llama", "encodec", "sam_audio", "silero_vad", "wav2vec", "registry", ""])
def test_an_architecture_that_is_not_for_audio(name: str) -> None:
    assert unknown_architecture({"model_type": name}, "audio") == (name or None)


def test_other_types_are_not_judged_here() -> None:
    assert unknown_architecture({"model_type": "zork"}, "echo") is None


def test_a_table_of_other_versions_leaves_names_that_it_lacks_to_the_worker() -> None:
    names = {"text-gen": frozenset({"llama"}), "vision": frozenset({"flint"})}
    for is_complete, new in ((True, "zork"), (False, None)):
        table = Table(names, is_complete)
        assert table.unknown({"model_type": "zork"}, "text-gen") == new
        assert table.unknown({"model_type": "flint"}, "text-gen") == "flint"  # still a model for mlx-vlm
        assert table.unknown({"model_type": "llama"}, "text-gen") is None


def test_a_library_of_another_version_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "architectures.json"
    versions = {"pytest": "0.0.1", "no-such-library": "1"}
    table.write_text(json.dumps({"versions": versions, "model_types": {"vision": []}}))
    monkeypatch.setattr(architectures, "_TABLE", table)
    with caplog.at_level(logging.WARNING):
        read = architectures._table.__wrapped__()
    assert read.unknown({"model_type": "zork"}, "vision") is None
    [line] = caplog.messages
    assert f"pytest {pytest.__version__} and no-such-library None" in line


def test_asking_imports_nothing() -> None:
    probe = (
        "import sys; from broker.models.architectures import unknown_architecture as u;"
        'assert u({"model_type": "zork"}, "text-gen") == u({"model_type": "zork"}, "embeddings") == "zork";'
        'assert not {"mlx", "mlx_lm", "mlx_vlm", "numpy", "transformers"} & sys.modules.keys()'
    )
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, timeout=30, check=True)
