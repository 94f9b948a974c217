"""The pins that survive a restart of the broker: one small JSON file, written atomically.

The broker serves without it: a file that cannot be parsed is moved aside and reported, a file that cannot be written is
reported.
"""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)


def read_pins(path: Path) -> list[str]:
    """The model ids in the file; none if there is no file, or it is not a file of pins and is moved aside."""
    try:
        content = json.loads(path.read_bytes())
        pins = content["pinned"]
        if not isinstance(pins, list) or not all(isinstance(pin, str) for pin in pins):
            raise ValueError("`pinned` must be a list of model ids")
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        aside = path.with_suffix(".corrupt")
        logger.error("%s is not a file of pins (%s): set aside as %s, starting without pins", path, error, aside)
        _try(lambda: path.replace(aside), path)
        return []
    except OSError as error:
        logger.error("%s cannot be read: %s; starting without pins", path, error)
        return []
    return pins


def write_pins(path: Path, model_ids: list[str]) -> None:
    """Replace the file in one step; a failure is logged, not raised."""

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        with new.open("w") as file:
            file.write(json.dumps({"pinned": model_ids}, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)

    _try(write, path)


def _try(action: Callable[[], object], path: Path) -> None:
    try:
        action()
    except OSError as error:
        logger.error("%s cannot be written: %s; pins will not survive a restart", path, error)
