"""What the libraries can run is asked of their files: checked against the libraries themselves, in this process."""

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from broker import architectures
from broker.architectures import unknown_architecture
from tests.service import ROOT


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama"},
        {"model_type": "mistral"},  # by the library's table
        {"model_type": "qwen2_5_vl", "architectures": ["Anything"]},
        {"model_type": "gemma3_text"},
        {},
        {"model_type": 3},
    ],
)
def test_text_that_can_be_generated(config: dict[str, Any]) -> None:
    assert unknown_architecture(config, "text-gen") is None


@pytest.mark.parametrize("name", ["zork", "../models/llama", "llama.py", "", "bert"])
def test_text_that_cannot(name: str) -> None:
    assert unknown_architecture({"model_type": name, "architectures": [None]}, "text-gen") == name


def test_the_librarys_own_word_on_text() -> None:
    from mlx_lm.utils import MODEL_ARCHITECTURE_REMAPPING, MODEL_REMAPPING, _get_classes

    for name in MODEL_REMAPPING:
        config = {"model_type": name}
        assert unknown_architecture(config, "text-gen") is None
        _get_classes(config)
    for name, architecture in MODEL_ARCHITECTURE_REMAPPING:
        assert unknown_architecture({"model_type": name, "architectures": [architecture]}, "text-gen") is None


@pytest.mark.parametrize(
    "name", ["bert", "xlm-roberta", "xlm_roberta", "modernbert", "qwen3", "gemma3_text", "lfm2", "llama_bidirec"]
)
def test_vectors_that_can_be_made(name: str) -> None:
    assert unknown_architecture({"model_type": name}, "embeddings") is None


# qwen2 is there, but as a text model only; pooling is a file beside the models.
@pytest.mark.parametrize("name", ["zork", "nomic_bert", "distilbert", "qwen2", "llama", "pooling", "."])
def test_vectors_that_cannot(name: str) -> None:
    assert unknown_architecture({"model_type": name}, "embeddings") == name


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "gemma3", "smolvlm", "llava-qwen2", "Bunny-Llama"])
def test_what_can_see(name: str) -> None:
    assert unknown_architecture({"model_type": name}, "vision") is None


# base and cache are files beside the models.
@pytest.mark.parametrize("name", ["zork", "base", "cache", "__pycache__", "../models/qwen2_vl", ""])
def test_what_cannot(name: str) -> None:
    assert unknown_architecture({"model_type": name}, "vision") == name


def test_the_librarys_own_word_on_what_can_see() -> None:
    from mlx_vlm.utils import MODEL_REMAPPING

    unknown = [name for name in MODEL_REMAPPING if unknown_architecture({"model_type": name}, "vision") is not None]
    # Renamed to a model that the package does not have.
    assert all(find_spec(f"mlx_vlm.models.{MODEL_REMAPPING[name]}") is None for name in unknown)


def test_other_types_are_not_judged_here() -> None:
    assert unknown_architecture({"model_type": "zork"}, "audio") is None


def test_a_library_that_is_not_installed() -> None:
    assert architectures._library("no_such_package") is None


def test_asking_imports_nothing() -> None:
    probe = (
        "import sys; from broker.architectures import unknown_architecture as u;"
        'assert u({"model_type": "zork"}, "text-gen") == u({"model_type": "zork"}, "embeddings") == "zork";'
        'assert not {"mlx", "mlx_lm", "mlx_vlm", "numpy", "transformers"} & sys.modules.keys()'
    )
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, timeout=30, check=True)
