"""Remembers what sharing.py found out about an architecture, because its probes take seconds where only a CPU computes.

One small file per architecture in the user's cache, whose name is a digest of the versions of the libraries and of the
configuration. Losing it costs the probes once more. Fast probes are not remembered.
"""

import logging
import os
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

import mlx.core as mx

from worker.text.sharing import Sharing, sharing_of

log = logging.getLogger("worker")

# Seconds. A probe that is faster is repeated at each load.
_SLOW = 0.25


def default_folder() -> Path:
    """Where it is remembered: in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-broker" / "sharing"


def remembered_sharing(
    model: Any, folder: Path, *, slow: float = _SLOW, find_out: Callable[[Any], Sharing] = sharing_of
) -> Sharing:
    """As `find_out`. folder: of the files; slow: seconds from which on the answer is written there."""
    args = getattr(model, "args", None)
    if args is None:
        return find_out(model)
    libraries = f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}, {mx.default_device()}"
    facts = f"{libraries}, {type(model).__module__}, {args!r}"
    file = folder / sha256(facts.encode()).hexdigest()[:32]
    try:
        return Sharing[file.read_text().strip()]
    except (OSError, ValueError, KeyError):
        pass  # not known yet, or not one of ours
    began = monotonic()
    sharing = find_out(model)
    if monotonic() - began >= slow:
        _write(file, sharing)
    return sharing


def _write(file: Path, sharing: Sharing) -> None:
    new = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(sharing.name)
        new.replace(file)
    except OSError as error:
        log.warning("cannot remember what sequences of a model may share: %s", error)
