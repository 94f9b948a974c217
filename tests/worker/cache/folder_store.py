"""A store of another kind than the worker's own: one safetensors file for each entry, which outlives its engine."""

import hashlib
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import load_prompt_cache, save_prompt_cache

from worker.cache.prefix_index import Key
from worker.cache.store import Entry


class FolderStore:
    """Every instance reads what earlier ones have left in the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def entries(self) -> dict[Key, Entry]:
        files = sorted(self._folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
        return dict(_head(file) for file in files)

    def keep(self, key: Key, entry: Entry, cache: list[Any]) -> None:
        facts = {"key": key.hex(), "kind": entry.kind, "nbytes": str(entry.nbytes)}
        facts["can_be_shortened"] = str(entry.can_be_shortened)
        mx.eval([layer.state for layer in cache])
        save_prompt_cache(str(self._file(key)), cache, facts)

    def load(self, key: Key) -> list[Any] | None:
        try:
            cache: list[Any] = load_prompt_cache(str(self._file(key)))
            mx.eval([layer.state for layer in cache])
        except (RuntimeError, ValueError):  # missing or torn
            return None
        return cache

    def drop(self, key: Key) -> None:
        self._file(key).unlink(missing_ok=True)

    def _file(self, key: Key) -> Path:
        return self._folder / f"{hashlib.sha256(key).hexdigest()}.safetensors"


def _head(file: Path) -> tuple[Key, Entry]:
    _, facts = load_prompt_cache(str(file), return_metadata=True)
    entry = Entry(int(facts["nbytes"]), facts["kind"], facts["can_be_shortened"] == "True")
    return bytes.fromhex(facts["key"]), entry
