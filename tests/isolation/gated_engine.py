"""A real model that stops in the very step that a test wants, and meets there what a test wants. In settings:
`tests.isolation.gated_engine:GatedEngine`.
"""

import contextlib
import time
from dataclasses import replace
from pathlib import Path

from broker.wire.outputs import Output
from broker.wire.to_workers import Assign
from worker.engine import Report
from worker.text.engine import TextEngine

# In pieces: while one is filled, no other thread runs, and none may look like a hang.
MOUTHFUL_BYTES, MOUTHFULS = 1 << 26, 16


class Gate:
    """The files beside a model by which a test and the engine meet."""

    def __init__(self, folder: Path) -> None:
        # How many steps may follow the one after which every request has output; 0: no step at all; no file: open.
        self.steps = folder / "gate"
        self.reached = folder / "reached"  # how many requests the engine had when it stopped there
        self.gpu_error = folder / "gpu_error"  # the text of an error of the GPU
        self.hunger = folder / "hunger"  # take too much memory

    def close(self, steps: int) -> None:
        """Let the engine come so far."""
        self.reached.unlink(missing_ok=True)
        whole = self.steps.with_name("gate.new")
        whole.write_text(str(steps))
        whole.rename(self.steps)

    def open(self) -> None:
        """Let it go on to the end."""
        for file in (self.steps, self.reached, self.gpu_error, self.hunger):
            file.unlink(missing_ok=True)


class GatedEngine(TextEngine):
    """The text engine behind a gate. folder: of the model and of the gate's files."""

    def __init__(self, assign: Assign, report: Report) -> None:
        options = dict(assign.options)
        folder = options.pop("folder")
        self._gate = Gate(Path(folder))
        self._steps = 0  # from the one after which every request has output
        self._waits = 0  # without a step
        self._hungry = 0  # how many more
        self._eaten: list[bytes] = []
        super().__init__(replace(assign, path=folder, options=options), report)

    def step(self) -> list[Output]:
        with contextlib.suppress(FileNotFoundError):
            if self._steps >= int(self._gate.steps.read_text()):
                self._wait()
                return []
        self._waits = 0
        outputs = super().step()
        stats = self.stats()
        self._steps += bool(self._steps or (outputs and stats.decoding == stats.live))
        if not self.has_work:
            self._steps = 0
        return outputs

    def _wait(self) -> None:
        """The service goes on meanwhile: it takes requests in, sends signs of life, and what the last step gave."""
        self._waits += 1
        if self._waits > 2:
            self._gate.reached.write_text(str(self.stats().live))
        with contextlib.suppress(FileNotFoundError):
            text = self._gate.gpu_error.read_text()
            self._gate.gpu_error.unlink()
            raise RuntimeError(text)
        with contextlib.suppress(FileNotFoundError):
            self._gate.hunger.unlink()
            self._hungry = MOUTHFULS
        if self._hungry:
            self._hungry -= 1
            self._eaten.append(b"x" * MOUTHFUL_BYTES)
        time.sleep(0.01)
