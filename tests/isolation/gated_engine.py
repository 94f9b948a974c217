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
        self.limit = folder / "gate"  # how far the engine may come; 0: no step at all; no file: open
        self.reached = folder / "reached"  # where it has stopped, and with how many requests
        self.gpu_error = folder / "gpu_error"  # the text of an error of the GPU
        self.hunger = folder / "hunger"  # take too much memory

    def close(self, limit: int) -> None:
        """Let the engine come so far."""
        self.reached.unlink(missing_ok=True)
        whole = self.limit.with_name("gate.new")  # the engine must not read half of it
        whole.write_text(str(limit))
        whole.rename(self.limit)

    def open(self) -> None:
        """Let it go on to the end."""
        for file in (self.limit, self.reached, self.gpu_error, self.hunger):
            file.unlink(missing_ok=True)

    def holds(self, limit: int, live: int) -> bool:
        """Whether the engine has stopped at this limit with so many requests."""
        with contextlib.suppress(FileNotFoundError):
            return self.reached.read_text() == f"{limit} {live}"
        return False


class Halt:
    """What an engine does at its gate. Mutable state: how often it has waited without a step, and what it has taken of
    memory, and will."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._waits = 0
        self._hungry = 0
        self._eaten: list[bytes] = []

    def stops(self, come: int, live: int) -> bool:
        """Whether an engine that has come so far makes no step now. The service goes on meanwhile: it takes requests
        in, sends signs of life, and what the last step gave. Raises the error of the GPU that a test wants."""
        self.meet_error()
        try:
            limit = int(self._gate.limit.read_text())
        except FileNotFoundError:
            limit = come + 1
        if come < limit:
            self._waits = 0
            return False
        self._waits += 1
        if self._waits > 2:
            self._gate.reached.write_text(f"{limit} {live}")
        with contextlib.suppress(FileNotFoundError):
            self._gate.hunger.unlink()
            self._hungry = MOUTHFULS
        if self._hungry:
            self._hungry -= 1
            self._eaten.append(b"x" * MOUTHFUL_BYTES)
        time.sleep(0.01)
        return True

    def meet_error(self) -> None:
        """Raises the error of the GPU, once."""
        with contextlib.suppress(FileNotFoundError):
            text = self._gate.gpu_error.read_text()
            self._gate.gpu_error.unlink()
            raise RuntimeError(text)


class GatedEngine(TextEngine):
    """The text engine behind a gate, whose limit is of steps after the one by which every request decodes; with
    from_the_first, of all steps, so that it stops between two pieces of a prompt. folder: of the model and of the
    gate's files."""

    def __init__(self, assign: Assign, report: Report) -> None:
        options = dict(assign.options)
        folder, self._from_the_first = options.pop("folder"), options.pop("from_the_first", False)
        self._halt = Halt(Gate(Path(folder)))
        self._steps = 0  # those that count
        super().__init__(replace(assign, path=folder, options=options), report)

    def step(self) -> list[Output]:
        if self._halt.stops(self._steps, self.stats().live):
            return []
        outputs = super().step()
        stats = self.stats()
        self._steps += bool(self._from_the_first or self._steps or 0 < stats.decoding == stats.live)
        if not self.has_work:
            self._steps = 0
        return outputs
