"""The broker's loop alone: in which order it tells what it has seen."""

from collections import deque
from typing import Any

from broker.loop import Loop
from broker.policy.events import Event, SystemSampled, WorkerSampled
from broker.policy.pressure import Pressure
from broker.processes.launcher import Sample
from broker.processes.lines import LogEvent
from broker.processes.system import SystemMemory
from broker.wire.clock import Clock

GIB = 1 << 30


class Seen:
    """A machine in which one worker grows while it is looked at."""

    worker_ids = ("w1",)

    def __init__(self) -> None:
        self._taken = 0

    def grown(self) -> int:
        self._taken += 5 * GIB
        return self._taken

    def of_system(self) -> SystemMemory:
        return SystemMemory(Pressure.NORMAL, self.grown())

    def take_lines(self) -> list[tuple[str, LogEvent]]:
        return []

    def sample(self, _worker_id: str) -> Sample:
        taken = self.grown()
        return Sample(taken, taken, 0.0)


class Nothing:
    """In place of all that a look at memory does not need."""

    router = None
    is_finished = False

    def next_deadline(self) -> None:
        return None

    def keep_time(self, _now: float) -> None:
        pass

    def flush(self) -> None:
        pass


class System:
    def __init__(self, seen: Seen) -> None:
        self.sample = seen.of_system


def test_what_workers_take_is_told_before_what_the_system_has_given() -> None:
    """Else memory that a worker has got since the last look would be nobody's for a moment."""
    seen, inbox = Seen(), deque[Event]()
    nothing: Any = Nothing()
    machine: Any = seen
    loop = Loop(
        inbox=inbox,
        policy=nothing,
        performer=nothing,
        workers=nothing,
        gateways=nothing,
        launcher=machine,
        logs=nothing,
        system=System(seen),  # type: ignore[arg-type] # only `sample` is asked
        stop=nothing,
        must_end=lambda: False,
        clock=Clock(),
        sample_seconds=1.0,
    )
    loop._keep_time()
    worker, system = inbox
    assert isinstance(worker, WorkerSampled)
    assert isinstance(system, SystemSampled)
    assert system.wired_bytes is not None
    assert worker.footprint_bytes >= system.wired_bytes
