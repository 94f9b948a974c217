"""Engines with a prompt cache on disk."""

from pathlib import Path
from typing import Any

from tests.worker.engine_runs import load
from worker.text.engine import TextEngine

MIB = 2**20


def disk_at(folder: Path, *, nbytes: int = 200 * MIB, reserve: int = 0, rate: float = 1e9) -> dict[str, Any]:
    """The fields of Assign. folder: of all models."""
    return {
        "cache_dir": str(folder / "cache" / "model"),
        "cache_bytes": nbytes,
        "cache_reserve_bytes": reserve,
        "cache_bytes_per_second": rate,
    }


def over(folder: Path, model: Path, **options: Any) -> TextEngine:
    """An engine whose cache on disk is below this folder."""
    return load(model, disk=options.pop("disk", None) or disk_at(folder), **options)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "cache").rglob("*") if path.is_file())


def written(engine: TextEngine, folder: Path, seconds: float = 20.0) -> list[Path]:
    """The files, once all that is queued has been written."""
    disk = engine._saved._disk
    assert disk is not None
    assert disk.writer.wait(seconds)
    return files(folder)
