"""One answer for many who look: pages that watch ask every two seconds, and each says how old an answer may be.

It keeps the bytes of the last answer, and no task: whoever asks when it is too old fetches the next one for all.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable


class SharedAnswer:
    """The last answer. clock: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._fetching = asyncio.Lock()
        self._body = b""
        self._asked_at = float("-inf")

    async def get(self, max_age: float, fetch: Callable[[], Awaitable[bytes]]) -> bytes:
        """An answer that was asked for at most `max_age` seconds before this call; 0: after it. Raises what `fetch`
        raises, and keeps what was there."""
        if max_age <= 0:
            return await self._fetch(fetch)
        oldest = self._clock() - max_age  # of this call: an answer that comes slowly is one for all who waited for it
        if self._asked_at < oldest:
            async with self._fetching:
                if self._asked_at < oldest:  # else somebody fetched while this one waited
                    await self._fetch(fetch)
        return self._body

    async def _fetch(self, fetch: Callable[[], Awaitable[bytes]]) -> bytes:
        asked_at = self._clock()
        body = await fetch()
        if asked_at >= self._asked_at:
            self._body, self._asked_at = body, asked_at
        return body
