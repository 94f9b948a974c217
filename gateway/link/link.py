"""The interface between the app and what runs the models: one broker today, several machines later.

The app and its handlers know this interface only; they never see a socket, a request id or a map of the wire.
"""

import asyncio
from typing import Protocol

from broker.wire.failure import Failure, FailureError
from gateway.core.ask import Ask
from gateway.link.call import Call, T


class Link(Protocol):
    """`open` it within a running event loop, `close` it there."""

    @property
    def connected(self) -> asyncio.Event:
        """Set while work can be sent."""

    def open(self) -> None: ...

    def close(self) -> None:
        """End what has not ended with `broker_unavailable`."""

    async def call(self, *asks: Ask[T]) -> Call[T]:
        """Send these units of work together. Raises FailureError `broker_unavailable` if no work can be sent."""

    def refuse(self, failure: Failure) -> None:
        """The gateway stops: end every call with `failure`, later ones too."""

    async def refused(self) -> FailureError:
        """Waits until the gateway stops, for work that is still being prepared."""
