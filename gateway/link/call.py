"""One HTTP request's work, and the outputs that have come for it and are not read yet. Knows no socket and no HTTP."""

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from broker.wire.failure import Code, Failure
from gateway.core.answer import weight_of

log = logging.getLogger(__name__)

T = TypeVar("T")

# The number of the unit of work, and an output of it or the failure that ends it.
Item = tuple[int, T | Failure]

MAX_WAITING_BYTES = 1 << 18  # of outputs that one call holds unread: about a thousand tokens

_SLOW_READER = Failure(Code.CANCELLED, "the client read too slowly: too much output waited for it")


class CallClosedError(Exception):
    """The call was closed while its owner waited: the client has gone."""


class Call(Generic[T]):
    """Units of work that were sent together, and their outputs. A link puts outputs in, the owner takes them out.

    size: number of units. cancel: the link's; it ends what has not ended. shortcut: while the owner waits in `take`,
    outputs none of which ends a unit are offered to this function first, which saves waking a task; it returns whether
    it has dealt with all of them. pending: the link's own note of units that have not ended: request id -> number.
    trace: the id of the HTTP request in the logs. most_waiting: bytes of outputs that it holds unread at most.
    """

    def __init__(self, size: int, cancel: Callable[["Call[T]", Failure | None], None], trace: str = "") -> None:
        self.size = size
        self.trace = trace
        self.most_waiting = MAX_WAITING_BYTES
        self.pending: dict[bytes, int] = {}
        self.shortcut: Callable[[list[tuple[int, T]]], bool] | None = None
        self._cancel = cancel
        self._items: list[Item[T]] = []
        self._has_end = False  # among the items
        self._weighed = 0  # of the items, and their bytes
        self._weight = 0
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False

    # ---- for the owner ----------------------------------------------------------------------------------------------

    async def take(self) -> list[Item[T]]:
        """All items that wait, at least one; maybe none after `wake`. Raises CallClosedError."""
        if not self._items and not self._is_closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._is_closed:
            raise CallClosedError
        return self._empty()

    def wake(self) -> None:
        """Let `take` return, whether anything waits or not."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Cancel what has not ended. The owner always calls this at last; for an ended call it does nothing."""
        self._is_closed = True
        self.shortcut = None  # which refers to the owner: else both would wait for the collector
        self._cancel(self, None)
        self.wake()

    # ---- for the link -----------------------------------------------------------------------------------------------

    def put(self, index: int, output: T) -> None:
        """One more output of unit `index`, which does not end it; `flush` follows."""
        self._items.append((index, output))

    def end(self, index: int, end: T | Failure) -> None:
        """The output that ends unit `index`; `flush` follows."""
        self._items.append((index, end))
        self._has_end = True

    def flush(self) -> None:
        """All outputs that one read of the socket brought have been put."""
        if not self._items:
            return
        if self._waiter is None or self._waiter.done():
            self._weigh()  # the owner is at work and takes the items when it is done
        elif self.shortcut is not None and not self._has_end and self.shortcut(self._items):  # type: ignore[arg-type]  # a failure is an end
            self._items = []
        else:
            self._waiter.set_result(None)

    def _weigh(self) -> None:
        self._weight += sum(weight_of(output) for _index, output in self._items[self._weighed :])
        self._weighed = len(self._items)
        if self._weight > self.most_waiting and self.pending:
            text = "request cancelled: its client reads too slowly, %d bytes waited for it"
            log.warning(text, self._weight, extra={"request_id": self.trace})
            self._empty()
            self._cancel(self, _SLOW_READER)

    def _empty(self) -> list[Item[T]]:
        items, self._items = self._items, []
        self._has_end = False
        self._weighed = self._weight = 0
        return items
