"""A model whose load takes as long as a test wants. In settings: `tests.isolation.held_engine:HeldEngine`."""

import time
from dataclasses import replace
from pathlib import Path

from broker.protocol import Assign
from worker.engine import Report
from worker.text_engine import TextEngine


class HeldEngine(TextEngine):
    """The text engine, which goes on loading after its weights are there for as long as the file exists that the
    option `hold` names. folder: of the model, because a model whose engine is named in settings has none."""

    def __init__(self, assign: Assign, report: Report) -> None:
        super().__init__(replace(assign, path=assign.options["folder"], options={}), report)
        while Path(assign.options["hold"]).exists():
            report("held", None)
            time.sleep(0.01)
