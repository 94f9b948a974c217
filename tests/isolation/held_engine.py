"""A real model that pauses as long as a test wants. In settings: `tests.isolation.held_engine:HeldEngine`."""

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
    loaded, and a step takes 50 ms longer. folder: of the model; a model with an engine in the settings has none."""

    def __init__(self, assign: Assign, report: Report) -> None:
        options = dict(assign.options)
        folder, self._hold = options.pop("folder"), Path(options.pop("hold"))
        super().__init__(replace(assign, path=folder, options=options), report)
        while self._hold.exists():
            report("held", None)
            time.sleep(0.01)

    def step(self) -> list[Output]:
        if self._hold.exists():
            stepping(self._hold).touch()
            time.sleep(STEP_SECONDS)
        return super().step()


def stepping(hold: Path) -> Path:
    """The file that is there once a step has begun while `hold` is."""
    return hold.with_name("stepping")
