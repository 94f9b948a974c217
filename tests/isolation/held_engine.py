"""A real model that pauses as long as a test wants, and meets an error of the GPU when a test wants it. In settings:
`tests.isolation.held_engine:HeldEngine`.
"""

import contextlib
import time
from dataclasses import replace
from pathlib import Path

from broker.wire.outputs import Output
from broker.wire.to_workers import Assign
from worker.engine import Report
from worker.text.engine import TextEngine

STEP_SECONDS = 0.05


class HeldEngine(TextEngine):
    """The text engine. While the file of the option `hold` exists, a load does not end, although the weights are
    loaded, and a step takes 50 ms longer. The text in the file `gpu_error` beside it is raised once, as an error of
    the GPU. folder: of the model; a model with an engine in the settings has none."""

    def __init__(self, assign: Assign, report: Report) -> None:
        options = dict(assign.options)
        folder, self._hold = options.pop("folder"), Path(options.pop("hold"))
        super().__init__(replace(assign, path=folder, options=options), report)
        while self._hold.exists():
            report("held", None)
            time.sleep(0.01)
            self._meet_error()

    def step(self) -> list[Output]:
        if self._hold.exists():
            stepping(self._hold).touch()
            time.sleep(STEP_SECONDS)
        self._meet_error()
        return super().step()

    def _meet_error(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            text = gpu_error(self._hold).read_text()
            gpu_error(self._hold).unlink()
            raise RuntimeError(text)


def stepping(hold: Path) -> Path:
    """The file that is there once a step has begun while `hold` is."""
    return hold.with_name("stepping")


def gpu_error(hold: Path) -> Path:
    """The file whose text is the next error of the GPU."""
    return hold.with_name("gpu_error")
