"""The weight files of a model folder: which ones there are, which are missing, and the names of their tensors. Reads
headers, never a tensor.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<total>\d{5})\.safetensors")
_MAX_SHARDS = 10_000
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
# A tensor for pictures has one of these in its name.
_FOR_PICTURES = ("vision", "visual", "image", "patch", "vit.")


def weight_files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """(name, bytes, time of the last change in nanoseconds) of each weight file, except for adapters and the second set
    of weights that some repositories have. Raises OSError."""
    found = []
    with os.scandir(folder) as files:
        for file in files:
            if file.name.endswith(".safetensors") and not file.name.startswith(("adapter", "consolidated", ".")):
                stat = file.stat()
                found.append((file.name, stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(found))


def part_files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """The same of the folders within, with names such as `voices/one.safetensors`: audio models have parts there. What
    cannot be read is left out. Raises OSError."""
    found: list[tuple[str, int, int]] = []
    with os.scandir(folder) as files:
        for file in files:
            with suppress(OSError):
                if not file.name.startswith((".", "original")) and file.is_dir():
                    found += _files_in(Path(file.path))
    return tuple(sorted(found))


def _files_in(folder: Path) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as files:
        for file in files:
            with suppress(OSError):
                if file.name.endswith(".safetensors"):
                    stat = file.stat()
                    yield f"{folder.name}/{file.name}", stat.st_size, stat.st_mtime_ns


def missing_shards(names: Iterable[str]) -> list[str]:
    """The files that must lie beside `model-00001-of-00003.safetensors` but do not: a copy or a download was cut short.
    The index is not read, because some repositories have that of another checkpoint, and mlx-lm ignores it."""
    present = set(names)
    shards = [shard for name in present if (shard := _SHARD.fullmatch(name)) and int(shard["total"]) < _MAX_SHARDS]
    sets = {(shard["name"], shard["total"]) for shard in shards}
    named = {f"{name}-{n:05d}-of-{total}.safetensors" for name, total in sets for n in range(1, int(total) + 1)}
    return sorted(named - present)


def are_text_only(folder: Path, names: Iterable[str]) -> bool:
    """Whether these files hold tensors, and none for pictures: a text-only checkpoint of a multimodal family."""
    found = [tensor.lower() for name in names for tensor in tensors(folder / name)]
    return bool(found) and not any(part in tensor for tensor in found for part in _FOR_PICTURES)


def tensors(path: Path) -> dict[str, list[int]]:
    """Name -> shape of each tensor in this file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= _MAX_HEADER_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(header, dict):
        return {}
    return {name: _shape(entry) for name, entry in header.items() if name != "__metadata__"}


def _shape(entry: Any) -> list[int]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    return shape if isinstance(shape, list) and all(type(size) is int for size in shape) else [0]
