"""The interface through which the broker starts and ends processes: all that loop and performer know of them.

supervisor.py implements it for this machine. Another launcher may run processes elsewhere: a pid is for display only,
and a start that fails late is reported as an exit.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from broker.policy.actions import StartDownload, StartWorker
from broker.policy.specs import Exit
from broker.processes.lines import LogEvent


@dataclass(slots=True, frozen=True)
class Sample:
    """What a process takes: bytes; cpu_percent of one core since the last sample."""

    rss_bytes: int
    footprint_bytes: int
    cpu_percent: float


class Launcher(Protocol):
    """Processes by worker id. Nothing here blocks; each exit is reported once, by `take_exits`."""

    def start(self, what: StartWorker | StartDownload) -> int | None:
        """Start a process; its pid if that is known. Raises OSError if the start fails at once."""

    def kill(self, worker_id: str) -> None:
        """End a process and its children at once. Does nothing if it has exited."""

    @property
    def worker_ids(self) -> Collection[str]:
        """The processes whose exits have not been taken."""

    def sample(self, worker_id: str) -> Sample | None:
        """What this process takes now; None if unknown."""

    @property
    def exits_fd(self) -> int:
        """Readable when a process has exited: call `take_exits`."""

    def take_exits(self) -> list[tuple[str, Exit]]:
        """(worker id, exit) of the processes that have exited, each once."""

    @property
    def output_fds(self) -> dict[int, str]:
        """Descriptor -> worker id, as a new dict; readable when this process has output: call `read_output`."""

    def read_output(self, worker_id: str) -> None:
        """Read some output of this process, for `take_lines`."""

    def take_lines(self) -> list[tuple[str, LogEvent]]:
        """What processes have said: (worker id, event) in order, each once. After an exit was taken, its last lines."""

    def close(self) -> None:
        """End the processes that are left, and wait for them."""
