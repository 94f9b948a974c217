"""What gateways have read: the events of flow.py. Ids as in events.py.

Handled at once, in the order of sending; GatewayLeft takes its turn with the requests that it cancels.
"""

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class LinkOpened:
    """A gateway counts what it reads from here on. A link that is open was closed before."""

    gateway_id: bytes


@dataclass(slots=True, frozen=True)
class LinkClosed:
    """This gateway will not read what it was sent."""

    gateway_id: bytes


@dataclass(slots=True, frozen=True)
class OutputsSent:
    """A message of the broker's own is on its way to this gateway."""

    gateway_id: bytes


@dataclass(slots=True, frozen=True)
class OutputsRead:
    """The gateway has read so many messages since its link was opened."""

    gateway_id: bytes
    total: int


FlowEvent = LinkOpened | LinkClosed | OutputsSent | OutputsRead
