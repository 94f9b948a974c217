"""One HTTP request's work at the broker, and what has come for it and is not read yet. Knows no socket and no HTTP."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from broker.wire.failure import Code, Failure
from broker.wire.outputs import PARTIAL

log = logging.getLogger(__name__)

# What came for a call: the number of the unit of work, the kind of output, its body.
Item = tuple[int, int, dict[str, Any]]

MAX_WAITING_BYTES = 1 << 18  # of outputs that one call holds unread: about a thousand tokens
_ITEM_BYTES = 256  # what an output occupies beside its text

_SLOW_READER = Failure(Code.CANCELLED, "the client read too slowly: too much output waited for it")


class CallClosedError(Exception):
    """The call was closed while its owner waited: the client has gone."""


class Call:
    """Units of work that were sent together. `cancel` is the client's: it ends what has not ended.

    size: how many units; pending: request id -> number of the unit, for those that have not ended. shortcut: while the
    owner waits in `take`, items that are all PARTIAL are offered to this first, without the turn of the event loop that
    waking a task takes; whether it has dealt with all of them.
    """

    def __init__(self, size: int, cancel: Callable[["Call", Failure | None], None]) -> None:
        self.size = size
        self.pending: dict[bytes, int] = {}
        self.shortcut: Callable[[list[Item]], bool] | None = None
        self._cancel = cancel
        self._items: list[Item] = []
        self._has_end = False  # among the items
        self._waiting_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False

    async def take(self) -> list[Item]:
        """All items that wait, at least one; maybe none after `wake`. Raises CallClosedError."""
        if not self._items and not self._is_closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._is_closed:
            raise CallClosedError
        items, self._items = self._items, []
        self._has_end = False
        self._waiting_bytes = 0
        return items

    def wake(self) -> None:
        """Let `take` return, whatever waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Cancel what has not ended. The owner does this in any case; for an ended call it does nothing."""
        self._is_closed = True
        self._cancel(self, None)
        self.wake()

    def put(self, item: Item) -> None:
        """For the client: one more output; `flush` follows."""
        self._items.append(item)
        if item[1] != PARTIAL:
            self._has_end = True
            return
        self._waiting_bytes += _ITEM_BYTES
        for part in item[2].values():
            self._waiting_bytes += len(part) if isinstance(part, str) else _size_of(part)
        if self._waiting_bytes > MAX_WAITING_BYTES:
            log.warning("request cancelled: its client reads too slowly")
            self._items.clear()
            self._cancel(self, _SLOW_READER)

    def flush(self) -> None:
        """For the client: what has been put is complete for now."""
        if not self._items or self._waiter is None or self._waiter.done():
            return  # the owner is at work and takes the items when it is done
        if self.shortcut is not None and not self._has_end and self.shortcut(self._items):
            self._items = []
            self._waiting_bytes = 0
        else:
            self._waiter.set_result(None)


def _size_of(part: Any) -> int:
    """Roughly the bytes of a part that is no text: a list has a map for each token or call in it."""
    return _ITEM_BYTES * len(part) if isinstance(part, list) else 0
