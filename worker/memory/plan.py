"""What a process may do with its share of memory: pure decisions about sequences, the prompt cache and the broker.

All numbers are bytes, as MLX counts them, or tokens. A process needs what is fixed (weights and what loading has left),
the work of one step, and the caches of its sequences at their full length. The prompt cache has what is left. Above
that a process asks for some headroom, so that the next request seldom waits for the broker.
"""

from dataclasses import dataclass, field, replace

from worker.memory.cost import CacheCost, WorkCost

# Blocks in which a share grows and shrinks: a part of the limit, within bounds.
_BLOCKS = 64
_LEAST_BLOCK = 2**20
_MOST_BLOCK = 256 * 2**20

# A share is given back when it has so many blocks more than are wanted.
_SPARE_BLOCKS = 2

# The smallest piece of a prompt: with less room than its work takes, no prompt can be read.
LEAST_PIECE = 64


@dataclass(slots=True, frozen=True)
class Wish:
    """What a process would have of the machine's memory. wanted: all that it has use for now; least: what it cannot do
    without as long as its sequences run; must: how much of `wanted` requests wait for, None for all. Bytes."""

    wanted: int
    least: int
    must: int | None = None


def block_of(bound: int) -> int:
    """In which a share of at most so many bytes grows and shrinks."""
    return min(max(bound // _BLOCKS, _LEAST_BLOCK), _MOST_BLOCK)


@dataclass(slots=True)
class MemoryPlan:
    """cost, work: of sequences and steps; fixed: what the process takes without any sequence; padded: as in CacheCost;
    most_rows: sequences at once; step_tokens: prompt tokens of a step, if there is room; is_bounded: whether there is a
    share.

    Mutable state: share, what the broker has granted; limit, the largest share that this process can ever get, 0 if
    unknown. lengths: of the sequences that run, at most, by their ids; beside: bytes that some of them take beside
    their caches.
    """

    cost: CacheCost
    work: WorkCost
    fixed: int
    padded: bool
    most_rows: int
    step_tokens: int
    is_bounded: bool = False
    share: int = 0
    limit: int = 0
    lengths: dict[bytes, int] = field(default_factory=dict)
    beside: dict[bytes, int] = field(default_factory=dict)

    @property
    def block(self) -> int:
        """In which the share grows and shrinks."""
        return block_of(self.limit or self.share)

    def needed(self, more: tuple[int, ...] = ()) -> int:
        """For the sequences that run, and for `more` of these lengths."""
        lengths = [*self.lengths.values(), *more]
        if not lengths:
            return self.fixed
        sequences = self.cost.together(lengths, padded=self.padded)
        work = self._work(min(LEAST_PIECE, self.step_tokens), max(lengths), len(lengths))
        return self.fixed + sequences + work + sum(self.beside.values())

    def fits(self, length: int, beside: int = 0, share: int | None = None) -> bool:
        """Whether one more sequence of this length may begin now, if need be without the prompt cache. Without a share
        the batch decides. beside: bytes
        that it takes beside its caches; share: a smaller one, to which the process has to come down."""
        if not self.is_bounded:
            return True
        return len(self.lengths) < self.most_rows and self.needed((length,)) + beside <= self.smaller(share)

    def alone(self, length: int, beside: int = 0) -> int:
        """What the process needs for one sequence of this length and no other."""
        work = self._work(min(LEAST_PIECE, self.step_tokens), length, 1)
        return self.fixed + self.cost.together([length], padded=self.padded) + work + beside

    def can_ever_fit(self, length: int, beside: int = 0) -> bool:
        """Whether a sequence of this length fits into the largest share, alone."""
        return not self.limit or self.alone(length, beside) <= self.limit

    def longest(self, most: int, beside: int = 0) -> int:
        """The longest sequence, of at most so many tokens, that fits into the largest share; 0 if none does."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.can_ever_fit(middle, beside) else (low, middle - 1)
        return low

    def prompt_room(self, share: int | None = None) -> int | None:
        """What the prompt cache may take; None for no bound. share: as in `fits`."""
        return max(0, self.smaller(share) - self.needed()) if self.is_bounded else None

    def piece(self, prompt_bytes: int) -> int:
        """How many prompt tokens a step may have now."""
        if not self.is_bounded or not self.lengths:
            return self.step_tokens
        lengths = list(self.lengths.values())
        taken = self.fixed + prompt_bytes + sum(self.beside.values())
        room = self.share - taken - self.cost.together(lengths, padded=self.padded)
        work = replace(self.work, per_token=self.work.per_token + self.cost.per_window_token)
        most = work.tokens(room, max(lengths), len(lengths), self.step_tokens)
        return max(min(LEAST_PIECE, self.step_tokens), most)

    def wish(self, prompt_bytes: int, waiting: list[int], *, is_modest: bool = False) -> Wish:
        """What to tell the broker. waiting: lengths of the sequences that wait for room, in their order. is_modest: no
        more than is needed now, because others need memory."""
        more = tuple(waiting[: max(0, self.most_rows - len(self.lengths))])
        least = self.needed()
        must = self.needed(more)
        wanted = must + prompt_bytes
        if not is_modest:
            wanted += self._wider_steps([*self.lengths.values(), *more]) + self.block
            wanted = -(-wanted // self.block) * self.block
        if self.limit:
            wanted = min(wanted, self.limit)
        return Wish(max(wanted, least), least, min(must, max(wanted, least)))

    def is_news(self, wish: Wish, told: Wish | None) -> bool:
        """Whether the broker should be told this wish. told: the last one. More is asked for at once, less is given
        back in blocks."""
        if told is None:
            return True
        far = _SPARE_BLOCKS * self.block
        wants_more = wish.wanted > self.share and (wish.wanted, wish.must) != (told.wanted, told.must)
        return wants_more or self.share - wish.wanted >= far or abs(wish.least - told.least) >= far

    def smaller(self, share: int | None) -> int:
        """The share, or a smaller one to which the process has to come down."""
        return self.share if share is None else min(self.share, share)

    def _wider_steps(self, lengths: list[int]) -> int:
        """What steps of the usual size take beside those of the smallest piece."""
        if not lengths:
            return 0
        longest, rows = max(lengths), len(lengths)
        least = min(LEAST_PIECE, self.step_tokens)
        return self._work(self.step_tokens, longest, rows) - self._work(least, longest, rows)

    def _work(self, tokens: int, context: int, rows: int) -> int:
        return self.work.bytes(tokens, context, rows) + tokens * self.cost.per_window_token
