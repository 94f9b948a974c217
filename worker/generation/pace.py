"""How many prompt tokens a step prefills, from measured time. Pure: time is an argument.

Prefill stops the sequences that decode. So a piece of a prompt takes a bounded time, and decode then has about as long
to itself. A prompt that fits into one piece is worth no such pause: it begins at once. Knows no model and no rows.
"""

from math import isqrt
from typing import NamedTuple

# Seconds of a piece: while sequences decode, and while none does. A cancel and the end of the process wait as long.
BESIDE_SECONDS = 0.2
ALONE_SECONDS = 0.4

# Seconds between two tokens of a sequence, at most: a piece beside slow steps of decode is shorter, but not below.
_GAP_SECONDS = 0.28
_LEAST_SECONDS = 0.05

# Steps of decode that are shorter may take as long to launch as to compute.
_LAUNCH_SECONDS = 0.004

# Seconds of decode for each second of prefill.
_DECODE_SHARE = 1.1

# Steps of prefill between two of decode, at most.
_MOST_IN_A_ROW = 8

# Tokens of a piece while nothing has been measured.
_FIRST = 64

# A piece that was quicker says little about the cost of a token: the next one may have so many times its tokens.
_QUICK_SECONDS = 0.08
_GROWTH = 3

# More tokens than that, compared with the largest piece that was measured, are a guess.
_MOST_GROWTH = 4

# A piece that costs so many times what such a piece did makes all that is known too little.
_SLOWER = 1.5

# What is left of the time of a longer step of decode, after each one that is quicker.
_FADING = 0.75

# Tokens of context below which a token costs about the same.
_FLAT = 1024

# Bytes of attention scores, where a model's attention keeps them in memory.
_SCORE_BYTES = 256 * 2**20


class Turn(NamedTuple):
    """What prefill may do now. seconds: of a piece; left: of prompts that end with theirs, which may come before decode
    has had its time; has_piece: whether a prompt that does not end with it may have a piece."""

    seconds: float
    left: float
    has_piece: bool


class _Piece(NamedTuple):
    tokens: int
    context: int
    seconds: float

    @property
    def cost(self) -> float:
        return self.seconds / self.tokens


class Pace:
    """Mutable state: what pieces have cost, by doublings of the context; until when decode comes first; the steps of
    prefill since the last one of decode, and whether one has been a piece of a long prompt; the seconds of short
    prompts since the last such piece; since when decode has had its step, and how
    long one takes. is_held: whether no prompt may go on; whoever holds the pace sets it."""

    def __init__(self, most: int, score_bytes: int = 0) -> None:
        """most: tokens of a piece. score_bytes: of the attention of one token to one other in one layer, if they are
        kept in memory (worker/generation/scores.py)."""
        self._most = self._usual_most = most
        self._score_bytes = score_bytes
        self.is_held = False
        self._known: dict[int, _Piece] = {}
        self._decode_until = 0.0
        self._in_a_row = 0
        self._owes_decode = False
        self._short_seconds = 0.0
        self._step_began = 0.0
        self._step_seconds = 0.0

    def turn(self, now: float, *, beside: bool) -> Turn:
        """beside: whether sequences decode."""
        if not beside:
            return Turn(ALONE_SECONDS, ALONE_SECONDS, has_piece=True)
        seconds = max(_LEAST_SECONDS, min(BESIDE_SECONDS, _GAP_SECONDS - self._step_seconds))
        debt = max(0.0, self._decode_until - now)
        left = seconds - debt / _DECODE_SHARE if self._in_a_row < _MOST_IN_A_ROW else 0.0
        return Turn(seconds, left, has_piece=debt <= 0 and not self._owes_decode)

    def bound(self, most: int) -> None:
        """A piece has at most so many tokens from now on, and never more than at the beginning."""
        self._most = min(most, self._usual_most)

    def tokens(self, context: int, seconds: float) -> int:
        """Tokens, padding included, that take about as long; at least 1. context: tokens that precede them."""
        known = self._nearest(context)
        fits = _FIRST
        if known is not None:
            times = seconds / known.seconds
            if known.seconds < _QUICK_SECONDS:
                times = max(times, _GROWTH)
            dearer = max(1.0, (context + _FLAT) / (known.context + _FLAT))
            fits = min(int(known.tokens * times / dearer), max(_FIRST, _MOST_GROWTH * known.tokens))
        return max(1, min(fits, self._most, self._most_scored(context)))

    @property
    def prefers_long(self) -> bool:
        """Whether short prompts have had as much time as a piece of a long one, which now comes first."""
        return self._short_seconds >= BESIDE_SECONDS

    def prefilled(
        self, tokens: int, context: int, began: float, seconds: float, *, beside: bool, in_whole: bool
    ) -> None:
        """A piece of so many tokens has taken so long. in_whole: of prompts that ended with it."""
        if tokens and seconds > 0:
            self._learn(_Piece(tokens, context, seconds))
        self._short_seconds = self._short_seconds + seconds if in_whole else 0.0
        self._step_began = began + seconds
        if beside:
            self.interrupted(began, seconds)
            self._in_a_row += 1
            self._owes_decode |= not in_whole

    def interrupted(self, began: float, seconds: float) -> None:
        """Decode has waited so long for something else."""
        # The last step of decode may have gone beyond its time: that is not lost.
        self._decode_until = max(self._decode_until, began - self._step_seconds) + seconds * (1 + _DECODE_SHARE)

    def decoded(self, now: float) -> None:
        """All sequences that decode have had a step."""
        # A pause of another kind is soon forgotten; a step that was computed before a prompt seems to take no time.
        self._step_seconds = max(now - self._step_began, _FADING * self._step_seconds)
        self._step_began = now
        self._in_a_row = 0
        self._owes_decode = False

    @property
    def hides_launches(self) -> bool:
        """Whether a step of decode takes so long that the host has launched the next one before it ends."""
        return self._step_seconds >= _LAUNCH_SECONDS

    def waited(self, seconds: float) -> None:
        """A piece could begin only so late, when a step of decode had ended."""
        self._step_seconds = max(self._step_seconds, seconds)

    def _learn(self, piece: _Piece) -> None:
        place = _place(piece.context)
        known = self._known.get(place)
        if known is not None and piece.seconds >= _QUICK_SECONDS and piece.cost > _SLOWER * known.cost:
            self._known.clear()  # the machine has become slower, for any context
        says_more = known is None or piece.tokens >= known.tokens or piece.cost <= known.cost
        if says_more or piece.seconds >= _QUICK_SECONDS:
            self._known[place] = piece

    def _nearest(self, context: int) -> _Piece | None:
        """What was measured with a context as long, with a shorter one, or else with a longer one."""
        place = _place(context)
        below = max((known for known in self._known if known <= place), default=None)
        if below is None:
            below = min(self._known, default=None)
        return None if below is None else self._known[below]

    def _most_scored(self, context: int) -> int:
        """The greatest n so that the scores of n tokens to each other and to their context fit."""
        if not self._score_bytes:
            return self._most
        return (isqrt(context * context + 4 * (_SCORE_BYTES // self._score_bytes)) - context) // 2


def _place(context: int) -> int:
    return (context // 512).bit_length()
