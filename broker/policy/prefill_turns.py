"""Which process may prefill, where a setting lets one do so at a time: pure, no clock.

The GPU does not share itself fairly between processes: beside one that multiplies large matrices, one that decodes
kept a ninth of its speed (d-inference#1116). So the broker lends prefill to the process that asked first, for a bounded
time. A process whose time is over asks again, behind the others. A process that has died holds nothing.

`handle(event, now) -> actions` and `next_deadline()`, as all policies. Where the setting is off no process asks.
"""

from collections.abc import Sequence

from broker.policy.actions import LendPrefill
from broker.policy.events import Event, PauseEnded, PrefillWanted, WorkerExited

# Seconds that a process may prefill while others wait. Its last piece, of half a second at most, may end after them.
LEASE_SECONDS = 2.0

_NOTHING: Sequence[LendPrefill] = ()


class PrefillTurns:
    """Mutable state: who prefills and until when, and who waits for that, in the order of asking."""

    def __init__(self) -> None:
        self._holder: str | None = None
        self._until = 0.0
        self._waiting: list[str] = []

    def handle(self, event: Event, now: float) -> Sequence[LendPrefill]:
        """What to do now that `event` has happened. now: seconds, monotonic."""
        match event:
            case PrefillWanted(worker_id, wanted):
                self._forget(worker_id)
                if wanted:
                    self._waiting.append(worker_id)
            case WorkerExited():
                self._forget(event.worker_id)
            case PauseEnded():
                self._until = now + LEASE_SECONDS
        if self._holder is not None and self._waiting and now >= self._until:
            self._holder = None
        if self._holder is not None or not self._waiting:
            return _NOTHING
        self._holder = self._waiting.pop(0)
        self._until = now + LEASE_SECONDS
        return [LendPrefill(self._holder, LEASE_SECONDS)]

    def next_deadline(self) -> float | None:
        """By when the next process in the queue gets its turn; None if the queue is empty."""
        return self._until if self._waiting else None

    def _forget(self, worker_id: str) -> None:
        if worker_id == self._holder:
            self._holder = None
        if worker_id in self._waiting:
            self._waiting.remove(worker_id)
