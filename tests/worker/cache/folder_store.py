"""A store of another kind than the worker's own: one safetensors file for each entry, which outlives its engine."""

import hashlib
import time
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
        heads = sorted(map(_head, self._folder.glob("*.safetensors")), key=lambda head: head[0])
        return {key: entry for _, key, entry in heads}

    def keep(self, key: Key, entry: Entry, cache: list[Any]) -> None:
        # Several files can have the same time of change: the system's clock for files is coarse.
        facts = {"key": key.hex(), "kind": entry.kind, "nbytes": str(entry.nbytes), "kept": str(time.time_ns())}
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


def _head(file: Path) -> tuple[int, Key, Entry]:
    _, facts = load_prompt_cache(str(file), return_metadata=True)
    entry = Entry(int(facts["nbytes"]), facts["kind"], facts["can_be_shortened"] == "True")
    return int(facts["kept"]), bytes.fromhex(facts["key"]), entry
