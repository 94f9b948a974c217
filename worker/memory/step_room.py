"""The share of memory of an engine that keeps nothing between steps: how large a step may be.

Steps are batches of rows, each padded to the longest. With less memory than usual they are smaller, and a row that does
not fit alone waits for more.
"""

from worker.memory.cost import WorkCost
from worker.memory.plan import Wish, block_of
from worker.memory.room import Limits


class StepRoom:
    """Mutable state: the share and the largest that it can be, 0 for no bound; the longest row so far; how many rows
    wait for more memory; what the broker has been told, and the share to which it has wanted this process to come down,
    and whether others have what they waited for."""

    def __init__(
        self, work: WorkCost, *, fixed: int, most_tokens: int, limits: Limits, share_bytes: int, limit_bytes: int
    ) -> None:
        """fixed: bytes without any step; most_tokens: of a step, if there is room."""
        self._work = work
        self._fixed = fixed
        self._most_tokens = most_tokens
        self._limits = limits
        self._is_bounded = share_bytes > 0
        self._share = share_bytes
        self.limit = limit_bytes
        self._longest = 0
        self._told: Wish | None = None
        self._shrinks_to: int | None = None
        self._others_have_it = False
        self.waiting = 0

    def needs(self, rows: int, longest: int) -> int:
        """Bytes of the process during a step with so many rows."""
        return self._fixed + self._work.bytes(rows * longest, longest, rows)

    def fits(self, rows: int, longest: int) -> bool:
        """Whether such a step may be made now."""
        return not self._is_bounded or self.needs(rows, longest) <= self._share

    def can_ever_fit(self, longest: int) -> bool:
        """Whether a row of this length fits into the largest share, alone."""
        return not self.limit or self.needs(1, longest) <= self.limit

    def comes(self, longest: int) -> None:
        """A row of this length is to be computed."""
        self._longest = max(self._longest, longest)
        if self._others_have_it:
            self._shrinks_to, self._others_have_it = None, False

    def granted(self, share_bytes: int, limit_bytes: int) -> None:
        """As in MemoryShare."""
        self.limit = limit_bytes or self.limit
        self._others_have_it = self._shrinks_to is not None
        self._set_share(share_bytes if self._told is None else min(share_bytes, self._told.wanted))

    def shrink(self, share_bytes: int) -> None:
        """As in MemoryShare. Steps are as small until others have got it, and a new row comes."""
        if share_bytes != self._shrinks_to or self._others_have_it:
            self._shrinks_to, self._told = share_bytes, None  # an answer is due, but not to the same words again
        self._others_have_it = False

    def wish(self) -> Wish | None:
        """As in MemoryShare: what steps of the usual size take, and at least one row of the longest input so far."""
        if not self._is_bounded:
            return None
        if self.waiting:
            self._shrinks_to = None
        least = self.needs(1, self._longest)
        if self._shrinks_to is None:
            length = max(self._longest, 1)
            block = block_of(self.limit or self._share)
            wanted = max(self.needs(max(1, self._most_tokens // length), length), least)
            wanted = -(-wanted // block) * block
        else:
            wanted = min(max(self._shrinks_to, least), self._share)
        wish = Wish(max(min(wanted, self.limit or wanted), least), least, least)
        if wish == self._told:
            return None
        self._told = wish
        self._set_share(min(self._share, wish.wanted))
        return wish

    def _set_share(self, share_bytes: int) -> None:
        self._share = share_bytes
        self._limits.apply(share_bytes)
