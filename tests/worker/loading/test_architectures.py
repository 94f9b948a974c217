"""The table of architectures against the libraries themselves: after a new version of one, `make architectures`."""

import json
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from inspect import getsource
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx_audio
import pytest

from broker.models.architectures import unknown_architecture
from broker.models.catalog import Catalog
from tests.service import ROOT
from worker.loading.architectures import audio_tasks, survey

TABLE: dict[str, Any] = json.loads((ROOT / "broker/models/architectures.json").read_bytes())


def test_the_table_is_of_the_installed_versions() -> None:
    installed = {name: version(name) for name in TABLE["versions"]}
    assert installed == TABLE["versions"], "the libraries have changed: run `make architectures`"
    assert installed.keys() == {"mlx-lm", "mlx-vlm", "mlx-audio"}


@pytest.mark.slow  # the answers change with the versions of the libraries, and those are compared with every change
@pytest.mark.timeout(300)  # every module of both libraries, perhaps never compiled before
def test_the_table_is_what_the_libraries_answer() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "worker.loading.architectures"], cwd=ROOT, capture_output=True, check=True
    )
    assert json.loads(asked.stdout) == TABLE, "the answers have changed: run `make architectures`"


def test_the_table_has_the_audio_models_of_the_library() -> None:
    assert audio_tasks() == TABLE["audio_tasks"], "the answers have changed: run `make architectures`"


def test_the_documentation_has_every_family_of_audio_models() -> None:
    lines = (ROOT / "docs/models.md").read_text().splitlines()
    for task, kind in (("transcribe", "stt"), ("speak", "tts")):
        [row] = [line for line in lines if line.startswith(f"| {task} | ")]
        folders = {path.name for path in (Path(mlx_audio.__file__).parent / kind / "models").iterdir()}
        known = folders & set(TABLE["audio_tasks"][task]) - ({"vibevoice"} if task == "transcribe" else set())
        assert set(re.findall("`(.*?)`", row)) - {"vibevoice"} == known


def test_a_child_that_dies_costs_the_question_that_it_was_at(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import os, sys\n"
        "for line in map(str.strip, sys.stdin):\n"
        "    if 'crash' in line: os.abort() if '1' in line else os._exit(0)\n"
        "    print('yes' if 'good' in line else 'no', line, flush=True)\n"
    )
    questions = ["text-gen crash1", "vision good1", "vision bad", "vision crash1", "a crash2", "a good2", "a crash1"]
    assert survey([sys.executable, str(child)], questions) == {"vision good1", "a good2"}
    assert survey([sys.executable, str(child)], []) == set()


# ---- by another way: import each module and look at what is in it --------------------------------------------------


def module_of(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except (ImportError, SystemExit):  # `olmo` of mlx-lm
        return None


def names_of(package: str) -> set[str]:
    return {module.name for module in pkgutil.iter_modules(import_module(package).__path__)}


def writes(name: str) -> bool:
    """Whether mlx-vlm's model of this family has a part that writes, by the code of its class."""
    model = getattr(module_of(f"mlx_vlm.models.{name}"), "Model", None)
    classes = [kind for kind in getattr(model, "__mro__", ()) if kind.__module__.startswith("mlx_vlm.models")]
    return any("self.language_model =" in (s := getsource(kind)) or "def language_model" in s for kind in classes)


def makes_vectors(name: str) -> bool:
    module = module_of(f"mlx_vlm.models.{name}")
    if hasattr(module, "SequenceClassificationModel"):
        return True
    model = getattr(module, "Model", None)
    return model is not None and "EmbeddingOutput(" in getsource(model)


def known(kind: str, names: set[str]) -> set[str]:
    return {name for name in names if unknown_architecture({"model_type": name}, kind) is None}


@pytest.mark.timeout(300)
def test_every_module_of_mlx_lm() -> None:
    from mlx_lm.utils import MODEL_ARCHITECTURE_REMAPPING, MODEL_REMAPPING

    modules = {name: f"mlx_lm.models.{name}" for name in names_of("mlx_lm.models")}
    modules |= {name: f"mlx_lm.models.{module}" for name, module in MODEL_REMAPPING.items()}
    has_model = {name for name, module in modules.items() if hasattr(module_of(module), "ModelArgs")}
    assert len(has_model) > 100
    assert known("text-gen", set(modules)) == has_model
    for name, architecture in MODEL_ARCHITECTURE_REMAPPING:
        assert unknown_architecture({"model_type": name, "architectures": [architecture]}, "text-gen") is None


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_module_of_mlx_vlm(tmp_path: Path) -> None:
    """All that mlx-vlm can write with are served: as text where mlx-lm has them too, else as vision."""
    from mlx_vlm.embedding_loader import EMBEDDING_MODEL_REMAPPING
    from mlx_vlm.utils import MODEL_REMAPPING

    names = {name: MODEL_REMAPPING.get(name, name) for name in names_of("mlx_vlm.models") | MODEL_REMAPPING.keys()}
    writers = {name for name, module in names.items() if writes(module)}
    assert len(writers) > 150
    assert known("vision", set(names)) == writers

    encoders = {name: EMBEDDING_MODEL_REMAPPING.get(name, module) for name, module in names.items()}
    encoders |= EMBEDDING_MODEL_REMAPPING
    assert known("embeddings", set(encoders)) == {name for name, module in encoders.items() if makes_vectors(module)}

    for name in writers:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": name}))
        (folder / "model.safetensors").touch()
    entries = Catalog(tmp_path / "models", tmp_path, {}).entries()
    assert {entry.spec.model_id for entry in entries} == writers
    types = {entry.spec.model_id: entry.spec.model_type for entry in entries}
    as_text = known("text-gen", writers)
    assert types == {name: "text-gen" if name in as_text else "vision" for name in writers}
    assert {"phi3_v", "molmo", "flint"} <= writers - as_text
