"""Small JSON files of the state directory, replaced in one step. The broker serves without them."""

import json
import logging
import os
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def write_json(path: Path, value: Any, what_is_lost: str) -> None:
    """Replace the file; a failure is logged with what is lost by it, not raised."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        with new.open("w") as file:
            file.write(json.dumps(value, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        logger.error("%s cannot be written: %s; %s", path, error, what_is_lost)
