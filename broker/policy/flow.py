"""How far workers are ahead of the gateways that read their outputs: pure, no clock.

A worker stops stepping while too many of its OUTPUTS are unread (worker/service.py), so that a model faster than a
gateway fills no queue: neither this process's memory nor the way of other models' tokens. Gateways acknowledge messages
by count, in order; this file keeps whose each message was, so that the acknowledgement can be passed back.

A gateway that reads nothing for a while must not hold a model for the clients of others: its messages then count as
read when they are sent, until it reads again. If its process is stopped, the socket bounds what remains unread.

`handle(event, now) -> actions` and `next_deadline()`, as all policies. `sent` and `dropped` are called once for each
message of a worker: no event is made for them.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from broker.policy.actions import Acknowledge
from broker.policy.events import Event, PauseEnded, TimePassed, WorkerExited, WorkerStarted
from broker.policy.flow_events import LinkClosed, LinkOpened, OutputsRead, OutputsSent

# A gateway acknowledges at the latest when it gets the next heartbeat, which is sent every second.
STUCK_SECONDS = 1.5

_BROKER = ""  # in place of a worker id: a message of the broker's own
_NOTHING: Sequence[Acknowledge] = ()


@dataclass(slots=True)
class _Gateway:
    """settled: messages since its link was opened that are no longer waited for. unread: the workers of those after
    them, oldest first. read_at: when it last acknowledged, or was sent the first of the unread ones."""

    settled: int = 0
    unread: deque[str] = field(default_factory=deque)
    read_at: float = 0.0
    is_stuck: bool = False

    @property
    def stuck_at(self) -> float:
        return self.read_at + STUCK_SECONDS


class Flow:
    """See the top of this file."""

    def __init__(self) -> None:
        self._gateways: dict[bytes, _Gateway] = {}
        self._settled: dict[str, int] = {}

    def handle(self, event: Event, now: float) -> Sequence[Acknowledge]:
        """What to do now that `event` has happened. now: seconds, monotonic."""
        match event:
            case OutputsSent():
                return self.sent(event.gateway_id, _BROKER, now)
            case OutputsRead():
                return self._read(event, now)
            case LinkOpened():
                self._gateways[event.gateway_id] = _Gateway()
            case LinkClosed():
                gateway = self._gateways.pop(event.gateway_id, None)
                return self._settle_all(gateway) if gateway is not None else _NOTHING
            case WorkerStarted():
                self._settled[event.worker_id] = 0
            case WorkerExited():
                # There is no process to acknowledge to; its messages may still be unread.
                self._settled.pop(event.worker_id, None)
            case TimePassed():
                return self._find_stuck(now)
            case PauseEnded():
                for gateway in self._gateways.values():
                    gateway.read_at = now
            case _:  # all others change nothing that is read
                pass
        return _NOTHING

    def next_deadline(self) -> float | None:
        """When to call `handle(TimePassed(), now)` at the latest; None: only when something happens."""
        read_at = [gateway.read_at for gateway in self._gateways.values() if gateway.unread]
        return min(read_at) + STUCK_SECONDS if read_at else None

    def sent(self, gateway_id: bytes, worker_id: str, now: float) -> Sequence[Acknowledge]:
        """A message of this worker is on its way to this gateway."""
        gateway = self._gateways.get(gateway_id)
        if gateway is None:
            return self.dropped(worker_id)
        if not gateway.unread:
            gateway.read_at = now
        gateway.unread.append(worker_id)
        return self._settle_all(gateway) if gateway.is_stuck else _NOTHING

    def dropped(self, worker_id: str) -> Sequence[Acknowledge]:
        """A message of this worker is sent to no gateway."""
        return self._acknowledge([worker_id])

    def _read(self, event: OutputsRead, now: float) -> Sequence[Acknowledge]:
        gateway = self._gateways.get(event.gateway_id)
        if gateway is None:
            return _NOTHING
        gateway.read_at, gateway.is_stuck = now, False
        told = self._settle(gateway, event.total - gateway.settled)
        # A gateway that was given up and is back may count what it was sent before: both go on from its number.
        gateway.settled = max(gateway.settled, event.total)
        return told

    def _find_stuck(self, now: float) -> Sequence[Acknowledge]:
        stuck = [g for g in self._gateways.values() if g.unread and now >= g.stuck_at]
        for gateway in stuck:
            gateway.is_stuck = True
        latest = {a.worker_id: a for gateway in stuck for a in self._settle_all(gateway)}
        return list(latest.values())

    def _settle_all(self, gateway: _Gateway) -> Sequence[Acknowledge]:
        return self._settle(gateway, len(gateway.unread))

    def _settle(self, gateway: _Gateway, count: int) -> Sequence[Acknowledge]:
        """The oldest of the unread messages, as many as there are at most."""
        settled = [gateway.unread.popleft() for _ in range(min(count, len(gateway.unread)))]
        gateway.settled += len(settled)
        return self._acknowledge(settled)

    def _acknowledge(self, worker_ids: Iterable[str]) -> Sequence[Acknowledge]:
        told: dict[str, int] = {}
        for worker_id in worker_ids:
            if worker_id in self._settled:
                told[worker_id] = self._settled[worker_id] = self._settled[worker_id] + 1
        return [Acknowledge(worker_id, total) for worker_id, total in told.items()]
