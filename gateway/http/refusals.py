"""Refusals that come late: a program that guesses the admin's key can try a few in a second on each connection.

Nothing is remembered of a caller, so that nobody is ever locked out: a right key passes at once, whatever else is
going on. A flood cannot pile up: so many refusals wait at most, and those beyond them are answered at once. What
protects against a flood of guesses is the length of the key.
"""

import asyncio

SECONDS = 1.0
_MOST_WAITING = 64


class Refusals:
    """Mutable state: how many wait."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._waiting = 0

    async def delay(self) -> None:
        """Before a wrong key is refused."""
        if self._waiting >= _MOST_WAITING:
            return
        self._waiting += 1
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self._waiting -= 1
