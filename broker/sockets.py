"""ZeroMQ for the broker: bound ROUTER sockets and the poll set. No other module of the broker imports zmq.

Only `PollSet.wait` blocks. What messages mean is not known here.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from enum import Enum

import zmq

from broker.wire.frames import receive_frames, send_frames

# As plain integers, which are joined much faster than pyzmq's own.
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
_NOBLOCK_SNDMORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)


class Undelivered(Enum):
    """Why a message could not be sent."""

    FULL = "its queue is full"
    GONE = "its socket is closed"


class Router:
    """One bound ROUTER socket: messages come with the identity of their sender and go to an identity."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket

    def receive(self, limit: int) -> Iterator[tuple[bytes, list[bytes]]]:
        """Up to `limit` messages that are here now: (identity, frames). The limit gives other sockets their turn."""
        for _ in range(limit):
            try:
                frames = receive_frames(self.socket, wait=False)
            except zmq.Again:
                return
            yield frames.pop(0), frames
            if not int(self.socket.get(_EVENTS)) & _POLLIN:  # less work than the exception
                return

    def send(self, identity: bytes, frames: list[bytes]) -> Undelivered | None:
        """Send without waiting; None if the message is on its way."""
        try:
            self.socket.send(identity, _NOBLOCK_SNDMORE)  # less work than a new list with all frames
            send_frames(self.socket, frames, wait=False)
        except zmq.Again:
            return Undelivered.FULL
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return Undelivered.GONE
        return None


class Sockets:
    """All sockets of this process."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._bound: dict[str, zmq.Socket[bytes]] = {}

    def bind(self, endpoint: str, backlog: int) -> Router:
        """backlog: messages that may wait for one peer, 0 for no limit."""
        socket = self._context.socket(zmq.ROUTER)
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.SNDHWM, backlog)
        socket.set(zmq.RCVHWM, 0)
        socket.set(zmq.LINGER, 0)
        socket.bind(endpoint)
        self._bound[endpoint] = socket
        return Router(socket)

    def rebind(self, endpoint: str) -> None:
        """Make the file of a bound socket anew; whoever is connected stays so. Raises OSError."""
        try:
            self._bound[endpoint].bind(endpoint)  # not after unbind, which would end all connections
        except zmq.ZMQError as error:
            raise OSError(error.errno, error.strerror, endpoint) from error

    def close(self, linger_seconds: float) -> None:
        """Close all. linger_seconds: how long messages that wait for a peer may take to leave."""
        self._context.destroy(linger=int(linger_seconds * 1000))


class PollSet:
    """What to wait for, and what to call when it becomes readable, in this order."""

    def __init__(self, readers: Mapping[Router | int, Callable[[], object]]) -> None:
        self._poller = zmq.Poller()
        self._readers: dict[zmq.Socket[bytes] | int, Callable[[], object]] = {}
        for source, read in readers.items():
            pollable = source.socket if isinstance(source, Router) else source
            self._readers[pollable] = read
            self._poller.register(pollable, zmq.POLLIN)

    def wait(self, seconds: float) -> None:
        """Sleep until something is readable or the time is over, then read all that is."""
        for source, _ in self._poller.poll(max(0, math.ceil(seconds * 1000))):
            self._readers[source]()
