"""How far workers are ahead of the gateways that read their outputs: pure, no clock.

A worker stops stepping while too many of its OUTPUTS are read by nobody (worker/service.py), so that a model faster
than a gateway fills no queue: neither this process's memory nor the way of other models' tokens. Gateways say how many
messages they have read, in order; what is kept here is whose each message was, so that it can be told on.

A gateway that reads nothing for a while is no reason to hold a model for the clients of others: its messages then count
as read when they are sent, until it reads again. Of a gateway whose process is stopped the socket bounds what that
leaves unread.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

STUCK_SECONDS = 1.0

# Worker id -> how many OUTPUTS of it, since its start, are read or never will be.
Settled = dict[str, int]

_NOTHING: Settled = {}


@dataclass(slots=True)
class _Gateway:
    """settled: messages since its HELLO that are no longer waited for. unread: whose those after them are, oldest
    first; "" for the broker's own. read_at: when it last said that it has read some, or got the first of those that
    wait."""

    settled: int = 0
    unread: deque[str] = field(default_factory=deque)
    read_at: float = 0.0
    is_stuck: bool = False


class Flow:
    """Every method returns the workers that have to be told, with their new counts."""

    def __init__(self) -> None:
        self._gateways: dict[bytes, _Gateway] = {}
        self._settled: Settled = {}

    def started(self, worker_id: str) -> None:
        self._settled[worker_id] = 0

    def exited(self, worker_id: str) -> None:
        """There is nobody to tell; its messages may still wait in gateways."""
        self._settled.pop(worker_id, None)

    def greeted(self, gateway_id: bytes) -> None:
        """It counts from here on. One that is known has to have left before."""
        self._gateways[gateway_id] = _Gateway()

    def sent(self, gateway_id: bytes, worker_id: str, now: float) -> Settled:
        """A message of this worker, or of the broker (""), is on its way to this gateway."""
        gateway = self._gateways.get(gateway_id)
        if gateway is None:
            return self.dropped(worker_id)
        if not gateway.unread:
            gateway.read_at = now
        gateway.unread.append(worker_id)
        return self._settle_all(gateway) if gateway.is_stuck else _NOTHING

    def dropped(self, worker_id: str) -> Settled:
        """A message of this worker goes to nobody."""
        return self._tell([worker_id])

    def read(self, gateway_id: bytes, total: int, now: float) -> Settled:
        """The gateway says that it has read so many messages since its HELLO."""
        gateway = self._gateways.get(gateway_id)
        if gateway is None:
            return _NOTHING
        gateway.read_at, gateway.is_stuck = now, False
        told = self._settle(gateway, total - gateway.settled)
        # Given up and back, it may count what it had been sent before: both go on from its number.
        gateway.settled = max(gateway.settled, total)
        return told

    def left(self, gateway_id: bytes) -> Settled:
        gateway = self._gateways.pop(gateway_id, None)
        return self._settle_all(gateway) if gateway is not None else _NOTHING

    def look(self, now: float) -> Settled:
        """Find the gateways that are stuck; call it about once in STUCK_SECONDS."""
        told: Settled = {}
        for gateway in self._gateways.values():
            if gateway.unread and now - gateway.read_at >= STUCK_SECONDS:
                gateway.is_stuck = True
                told.update(self._settle_all(gateway))
        return told

    def _settle_all(self, gateway: _Gateway) -> Settled:
        return self._settle(gateway, len(gateway.unread))

    def _settle(self, gateway: _Gateway, count: int) -> Settled:
        """The oldest of the unread, as many as there are at most."""
        settled = [gateway.unread.popleft() for _ in range(min(count, len(gateway.unread)))]
        gateway.settled += len(settled)
        return self._tell(settled)

    def _tell(self, worker_ids: Iterable[str]) -> Settled:
        told: Settled = {}
        for worker_id in worker_ids:
            if worker_id in self._settled:
                told[worker_id] = self._settled[worker_id] = self._settled[worker_id] + 1
        return told
