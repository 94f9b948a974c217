"""The head of a response and its first piece in one write: each write is a system call and a packet, which wakes its
reader. A head whose first piece does not follow at once goes alone, when the loop turns.
"""

import asyncio
import weakref

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class JoinedHead:
    """Stands for the transport of `cycle` until its second write."""

    __slots__ = ("_cycle", "_flushing", "_head", "_loop", "_transport")

    def __init__(self, cycle: RequestResponseCycle, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = cycle.transport
        self._loop = loop
        self._cycle = weakref.ref(cycle)  # which has this as its transport: else the two would wait for the collector
        self._head = b""
        self._flushing: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        """As a transport's."""
        if self._flushing is None:
            self._head = data
            self._flushing = self._loop.call_soon(self._flush)
        else:
            self._head += data
            self._flush()

    def close(self) -> None:
        """As a transport's."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """As a transport's."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
        if (cycle := self._cycle()) is not None:
            cycle.transport = self._transport
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._head = b""
