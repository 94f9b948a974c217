"""A real audio model that stops where a test wants, and meets there what a test wants. In settings:
`tests.isolation.gated_audio:GatedAudio`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from broker.wire.outputs import Output
from broker.wire.to_workers import Assign
from tests.isolation.gated_engine import Gate, Halt
from worker.audio.engine import audio_engine
from worker.engine import Report


class GatedAudio:
    """An audio engine behind a gate, whose limit is of requests of which a client has heard something. While it is 0, a
    load does not end. folder: of the model and of the gate's files."""

    def __init__(self, assign: Assign, report: Report) -> None:
        options = dict(assign.options)
        folder = options.pop("folder")
        self._halt = Halt(Gate(Path(folder)))
        self._begun: set[bytes] = set()  # the requests that have text or sound
        self._engine = audio_engine(replace(assign, path=folder, options=options), report)
        while self._halt.stops(0, 0):
            report("held", None)

    def __getattr__(self, name: str) -> Any:
        """What a step does not change is the engine's."""
        return getattr(self._engine, name)

    def step(self) -> list[Output]:
        """As the engine's; none at the gate."""
        if self._halt.stops(len(self._begun), self._engine.stats().live):
            return []
        outputs = self._engine.step()
        self._begun |= {it.request_id for it in outputs if it.body.get("text") or it.body.get("audio")}
        if not self._engine.has_work:
            self._begun.clear()
        return outputs
