"""Small files in the user's cache, for what is slow to find out. Losing one costs the time once more."""

import logging
import os
from pathlib import Path

log = logging.getLogger("worker")


def folder_of(kind: str) -> Path:
    """Where facts of this kind are remembered: in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-broker" / kind


def write(file: Path, text: str) -> None:
    """Write it in one step; a failure is logged."""
    new = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text)
        new.replace(file)
    except OSError as error:
        log.warning("cannot remember what was found out: %s", error)
