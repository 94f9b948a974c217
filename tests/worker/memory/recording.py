"""Engines that record what they tell MLX about memory, on a machine that plays a Mac with 8 GiB for Metal.

Each call is a line of the file that the option `record` names: the time, the process, the function and its number.
"""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from broker.wire.to_workers import Assign
from worker.embeddings.engine import EmbeddingEngine
from worker.engine import Report
from worker.text.engine import TextEngine
from worker.vision.engine import VisionEngine

WORKING_SET = 8 << 30

_FUNCTIONS = ("set_wired_limit", "set_memory_limit", "set_cache_limit")


def _recorded(assign: Assign, report: Report) -> tuple[Assign, Report]:
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

    return replace(assign, options=options), reported


class RecordingText(TextEngine):
    """A text engine."""

    def __init__(self, assign: Assign, report: Report) -> None:
        super().__init__(*_recorded(assign, report))


class RecordingVision(VisionEngine):
    """A vision engine."""

    def __init__(self, assign: Assign, report: Report) -> None:
        super().__init__(*_recorded(assign, report))


class RecordingEmbeddings(EmbeddingEngine):
    """An engine of embeddings."""

    def __init__(self, assign: Assign, report: Report) -> None:
        super().__init__(*_recorded(assign, report))
