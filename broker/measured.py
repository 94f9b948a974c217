"""What models took when they were loaded last, remembered across restarts of the broker: one small JSON file.

Only a better guess than the size of the files: what cannot be read is ignored with a warning, and written anew by the
next load.
"""

import json
import logging
from pathlib import Path

from broker.state_files import write_json

logger = logging.getLogger(__name__)


def read_measured(path: Path) -> dict[str, int]:
    """Fingerprint of a model's files -> bytes; empty if there is no such file."""
    try:
        measured = json.loads(path.read_bytes())["measured"]
        known = {str(key): size for key, size in measured.items() if type(size) is int and size > 0}
        if len(known) != len(measured):
            raise ValueError("`measured` must be fingerprints and bytes")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s is not a file of measured sizes (%s): they are measured again", path, error)
        return {}
    return known


def write_measured(path: Path, measured: dict[str, int]) -> None:
    write_json(path, {"measured": measured}, "sizes of models will be estimated after a restart")
