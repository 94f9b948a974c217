"""The pins that survive a restart of the broker: one small JSON file, written atomically.

The broker serves without it: a file that cannot be parsed is moved aside and reported, a file that cannot be written is
reported.
"""

import json
import logging
from pathlib import Path

from broker.state_files import write_json

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
        try:
            path.replace(aside)
        except OSError as failure:
            logger.error("%s cannot be set aside: %s", path, failure)
        return []
    except OSError as error:
        logger.error("%s cannot be read: %s; starting without pins", path, error)
        return []
    return pins


def write_pins(path: Path, model_ids: list[str]) -> None:
    """Replace the file in one step; a failure is logged, not raised."""
    write_json(path, {"pinned": model_ids}, "pins will not survive a restart")
