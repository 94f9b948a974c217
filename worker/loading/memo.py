"""Remembers what was found out about a model by computing, because that takes seconds where only a CPU computes.

One small file for each in the user's cache, whose name is a digest of the versions of the libraries and of the model's
configuration. Losing it costs the computation once more. What was found out fast is not remembered.
"""

from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import mlx.core as mx

from worker.loading.memo_files import write as write_file

# Seconds. What is faster is found out at each load.
SLOW = 0.25

T = TypeVar("T")


def remembered(
    model: Any,
    folder: Path,
    find_out: Callable[[], T],
    *,
    read: Callable[[str], T],
    write: Callable[[T], str],
    slow: float | None = None,
    beside: str = "",
) -> T:
    """As `find_out`. folder: of the files; read, write: a fact from and to a line, `read` raises ValueError or KeyError
    for any other line; slow: seconds from which on it is remembered, None for the usual; beside: what else the fact
    depends on."""
    args = getattr(model, "args", None)
    if args is None:
        return find_out()
    libraries = f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}, {mx.default_device()}"
    facts = f"{libraries}, {type(model).__module__}, {args!r}{beside}"
    file = folder / sha256(facts.encode()).hexdigest()[:32]
    try:
        return read(file.read_text().strip())
    except (OSError, ValueError, KeyError):
        pass  # not known yet, or not one of ours
    began = monotonic()
    found = find_out()
    if monotonic() - began >= (SLOW if slow is None else slow):
        write_file(file, write(found))
    return found
