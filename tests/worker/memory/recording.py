"""Records what an engine tells MLX about memory, on a machine that plays a Mac with 8 GiB for Metal.

Each call is a line of the file that the option `record` names: the time, the process, the function and its number. The
option `folder` is that of the model, where the settings name the engine.
"""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from broker.wire.to_workers import Assign
from worker.engine import Report

WORKING_SET = 8 << 30

_FUNCTIONS = ("set_wired_limit", "set_memory_limit", "set_cache_limit")


def recorded(assign: Assign, report: Report) -> tuple[Assign, Report]:
    """Replaces MLX's functions in this process, before anything is loaded."""
    options = dict(assign.options)
    file = Path(options.pop("record"))

    def line(name: str, number: int) -> None:
        with file.open("a") as lines:
            lines.write(f"{time.monotonic()} {os.getpid()} {name} {number}\n")

    def recorder(name: str) -> Any:
        def record(limit: int) -> int:
            line(name, limit)
            return 0

        return record

    for name in _FUNCTIONS:
        setattr(mx, name, recorder(name))
    mx.device_info = lambda *_: {"max_recommended_working_set_size": WORKING_SET}
    mx.metal.is_available = lambda: True

    def reported(stage: str, fraction: float | None) -> None:
        line(stage, 0)
        report(stage, fraction)

    return replace(assign, path=options.pop("folder", assign.path), options=options), reported
