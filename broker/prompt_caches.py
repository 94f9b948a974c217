"""Where the prompt caches of all models are on disk, and their removal. Workers write the files.

A folder is renamed first, so that nothing in it is found any more; a thread deletes it. What a broker leaves when it
ends meanwhile, the next one deletes. Names say nothing about models.
"""

import hashlib
import logging
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

logger = logging.getLogger(__name__)

_FOLDER = "prompt-cache"
_ASIDE = ".removed-"


@dataclass(slots=True, frozen=True)
class PromptCaches:
    """max_bytes: of all models together, 0: there are none; reserve_bytes: of the disk, to be left free;
    bytes_per_second: that each process writes."""

    state_dir: Path
    max_bytes: int = 0
    reserve_bytes: int = 0
    bytes_per_second: float = 0.0

    def assigned(self, model_id: str) -> dict[str, Any]:
        """The fields of ASSIGN."""
        if not self.max_bytes:
            return {}
        return {
            "cache_dir": str(self._folder_of(model_id)),
            "cache_bytes": self.max_bytes,
            "cache_reserve_bytes": self.reserve_bytes,
            "cache_bytes_per_second": self.bytes_per_second,
        }

    def forget(self, model_id: str | None) -> None:
        """Remove the files of a model, of all for None; also those of a time when the setting was another. Raises
        OSError."""
        if not self._whole.is_dir():
            return
        folders = self._whole.iterdir() if model_id is None else [self._folder_of(model_id)]
        for folder in folders:
            if not folder.name.startswith(_ASIDE) and folder.is_dir():
                with suppress(FileNotFoundError):  # its own process was quicker
                    _delete(folder.rename(folder.with_name(f"{_ASIDE}{uuid4().hex}")))

    def delete_leftovers(self) -> None:
        """What a broker before this one has not deleted any more."""
        for aside in self._whole.glob(f"{_ASIDE}*"):
            _delete(aside)

    @property
    def _whole(self) -> Path:
        return self.state_dir / _FOLDER

    def _folder_of(self, model_id: str) -> Path:
        return self._whole / hashlib.sha256(model_id.encode()).hexdigest()[:32]


def _delete(aside: Path) -> None:
    def delete() -> None:
        try:
            shutil.rmtree(aside)
        except OSError as error:
            logger.error("%s cannot be deleted: %s", error.filename, error.strerror)

    Thread(target=delete, name="prompt caches", daemon=True).start()
