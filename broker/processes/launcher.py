"""The interface behind which processes start and end. The loop and the performer know nothing else of processes.

supervisor.py is the one for this machine. Another one may run its processes elsewhere: a pid is for people to read,
nothing here is looked up by it, and a start that fails late is an exit like any other.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from broker.policy.actions import StartDownload, StartWorker
from broker.policy.specs import Exit


@dataclass(slots=True, frozen=True)
class Sample:
    """What a process takes: bytes; cpu_percent of one core since the last sample."""

    rss_bytes: int
    footprint_bytes: int
    cpu_percent: float


class Launcher(Protocol):
    """Processes by worker id. Nothing here blocks; each exit is reported once, by `take_exits`."""

    def start(self, what: StartWorker | StartDownload) -> int | None:
        """Start this process; its pid if that is known already. Raises OSError if it is known that it cannot start."""

    def kill(self, worker_id: str) -> None:
        """End it at once, with its children. Does nothing if it has exited already."""

    @property
    def worker_ids(self) -> Collection[str]:
        """The processes that were started and whose exits have not been taken."""

    def sample(self, worker_id: str) -> Sample | None:
        """What this process takes now; None if that is not known."""

    @property
    def exits_fd(self) -> int:
        """Readable when a process has exited: call `take_exits`."""

    def take_exits(self) -> list[tuple[str, Exit]]:
        """(worker id, how it ended) of the processes that have exited."""

    @property
    def output_fds(self) -> Mapping[int, str]:
        """Descriptor -> worker id; readable when this process has printed something: call `read_output`."""

    def read_output(self, worker_id: str) -> None:
        """Log what the process has printed."""

    def close(self) -> None:
        """End whatever is left, and wait for it."""
