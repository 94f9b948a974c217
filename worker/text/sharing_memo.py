"""Remembers what sharing.py found out about an architecture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.loading.memo import remembered
from worker.loading.memo_files import folder_of
from worker.text.sharing import Sharing, sharing_of


def default_folder() -> Path:
    """Where it is remembered."""
    return folder_of("sharing")


def remembered_sharing(
    model: Any, folder: Path, *, slow: float | None = None, find_out: Callable[[Any], Sharing] = sharing_of
) -> Sharing:
    """As `find_out`. folder: of the files; slow: seconds from which on the answer is written there."""
    return remembered(
        model, folder, lambda: find_out(model), read=Sharing.__getitem__, write=lambda found: found.name, slow=slow
    )
