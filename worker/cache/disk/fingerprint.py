"""The fingerprint of all that decides what a cache of some tokens holds. What differs in it never meets on disk."""

import hashlib
import json
import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

# Raised whenever files are written otherwise than before.
_FORMAT = 1

# Files up to this size are read in whole; of others the size, the time of change and samples count.
_WHOLE_BYTES = 4 * 2**20
_SAMPLES = 256
_SAMPLE_BYTES = 4096

# What a folder has beside the model.
_IGNORED = frozenset({".md", ".png", ".jpg", ".gitattributes", ".lock", ".metadata"})


def fingerprint_of(folders: Iterable[Path], facts: dict[str, Any]) -> bytes:
    """folders: of the model, its draft model, its adapter; facts: settings that change caches or prompts. Raises
    OSError."""
    found = hashlib.blake2b(digest_size=32)
    libraries = {name: version(name) for name in ("mlx", "mlx-lm")}
    about = {"format": _FORMAT, "libraries": libraries, "device": str(mx.default_device()), **facts}
    found.update(json.dumps(about, sort_keys=True).encode())
    for folder in folders:
        for file in sorted(path for path in folder.iterdir() if path.suffix not in _IGNORED and path.is_file()):
            found.update(f"\0{file.name}\0".encode())
            found.update(_digest(file))
    return found.digest()


def _digest(file: Path) -> bytes:
    found = hashlib.blake2b(digest_size=32)
    with file.open("rb") as opened:
        status = os.fstat(opened.fileno())
        if status.st_size <= _WHOLE_BYTES:
            found.update(opened.read())
        else:
            found.update(f"{status.st_size} {status.st_mtime_ns}".encode())
            step = (status.st_size - _SAMPLE_BYTES) // (_SAMPLES - 1)
            for place in range(0, status.st_size, step):
                found.update(os.pread(opened.fileno(), _SAMPLE_BYTES, place))
    return found.digest()
