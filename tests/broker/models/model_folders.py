"""Folders that look like models, as the catalog finds them, and what it says of those it refuses."""

import json
from pathlib import Path

import pytest

from broker.models.catalog import Catalog
from broker.models.entry import CatalogError

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 2048}


def make_model(folder: Path, config: object = LLAMA, weights: dict[str, int] | None = None) -> Path:
    """A folder that looks like a model. weights: bytes of each weight file."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name, size in ({"model.safetensors": 1000} if weights is None else weights).items():
        (folder / name).write_bytes(bytes(size))
    return folder


def make_hub_model(hub: Path, repository: str, weights: dict[str, int] | None = None) -> Path:
    """A snapshot as huggingface_hub lays it out: files are links into `blobs`, `refs/main` names the snapshot."""
    root = hub / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0123abcd")
    files = {"config.json": json.dumps(LLAMA).encode(), "tokenizer.json": b"{}"}
    files |= {name: bytes(size) for name, size in (weights or {"model.safetensors": 500}).items()}
    for number, (name, content) in enumerate(files.items()):
        (root / "blobs" / f"blob{number}").write_bytes(content)
        (snapshot / name).symlink_to(Path("../../blobs") / f"blob{number}")
    return snapshot


def refusal(catalog: Catalog, model_id: str) -> tuple[str, str]:
    """(code, message) of the error that this name gets."""
    with pytest.raises(CatalogError) as error:
        catalog.find(model_id)
    return error.value.failure.code, str(error.value)
