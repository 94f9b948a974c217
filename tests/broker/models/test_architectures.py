"""What the libraries can run is asked of their files: checked against the libraries themselves, in this process."""

import json
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from inspect import getsource
from pathlib import Path
from typing import Any

import pytest

from broker.models import architectures
from broker.models.architectures import unknown_architecture
from broker.models.catalog import Catalog
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


@pytest.mark.parametrize(
    "name", ["qwen2_vl", "qwen2_5_vl", "gemma3", "smolvlm", "solar_open", "llava-qwen2", "Bunny-Llama"]
)
def test_what_can_see(name: str) -> None:
    assert unknown_architecture({"model_type": name}, "vision") is None


# base and cache are files beside the models; yolo11 and dinov2 write no text.
@pytest.mark.parametrize(
    "name", ["zork", "yolo11", "dinov2_with_registers", "base", "cache", "__pycache__", "../models/qwen2_vl", ""]
)
def test_what_cannot(name: str) -> None:
    assert unknown_architecture({"model_type": name}, "vision") == name


# Makers of pictures and vectors, taken for writers because their sources speak of a part that writes. Loading them is
# refused by the worker.
TAKEN_FOR_WRITERS = frozenset(
    {
        *("ernie_image", "flux3", "ideogram4", "llada_image", "llama_bidirec", "mage_flow", "minimax_h3"),
        *("moss_image", "qwen_image"),
    }
)


def writes(name: str) -> bool:
    """Whether mlx-vlm's model of this family has a part that writes, by the code of its class."""
    if find_spec(f"mlx_vlm.models.{name}") is None:
        return False
    model = getattr(import_module(f"mlx_vlm.models.{name}"), "Model", None)
    classes = [kind for kind in getattr(model, "__mro__", ()) if kind.__module__.startswith("mlx_vlm.models")]
    return any("self.language_model =" in (s := getsource(kind)) or "def language_model" in s for kind in classes)


@pytest.mark.slow  # it imports all of mlx-vlm
@pytest.mark.timeout(180)
def test_every_family_goes_to_a_library_that_has_it(tmp_path: Path) -> None:
    """All that mlx-vlm can write with are served: as text where mlx-lm has them too, else as vision."""
    import mlx_vlm.models
    from mlx_lm.utils import _get_classes
    from mlx_vlm.utils import MODEL_REMAPPING

    folders = {path.parent.name for path in Path(mlx_vlm.models.__path__[0]).glob("*/__init__.py")}
    names = {name: MODEL_REMAPPING.get(name, name) for name in folders | MODEL_REMAPPING.keys()}
    writers = {name for name, module in names.items() if writes(module)}
    assert len(writers) > 150
    assert {name for name in names if unknown_architecture({"model_type": name}, "vision") is None} - writers == (
        TAKEN_FOR_WRITERS
    )
    for name in writers:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": name}))
        (folder / "model.safetensors").touch()
    entries = Catalog(tmp_path / "models", tmp_path, {}).entries()
    assert {entry.spec.model_id for entry in entries} == writers
    for entry in entries:
        if entry.spec.model_type == "text-gen":
            _get_classes({"model_type": entry.spec.model_id})
        else:
            assert entry.spec.model_type == "vision"
    assert {"phi3_v", "molmo", "flint"} <= {e.spec.model_id for e in entries if e.spec.model_type == "vision"}


def test_other_types_are_not_judged_here() -> None:
    assert unknown_architecture({"model_type": "zork"}, "audio") is None


def test_a_library_that_is_not_installed() -> None:
    assert architectures._library("no_such_package") is None


def test_asking_imports_nothing() -> None:
    probe = (
        "import sys; from broker.models.architectures import unknown_architecture as u;"
        'assert u({"model_type": "zork"}, "text-gen") == u({"model_type": "zork"}, "embeddings") == "zork";'
        'assert not {"mlx", "mlx_lm", "mlx_vlm", "numpy", "transformers"} & sys.modules.keys()'
    )
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, timeout=30, check=True)
