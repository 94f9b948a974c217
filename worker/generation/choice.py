"""Which prompts the next step prefills, and how much of them. Pure.

Prompts that fit into one piece begin together, also before longer ones that came earlier. Of the longer ones the oldest
is prefilled, piece by piece, alone: beside it the caches of the others would be padded to its length. Short ones have
half of the time at most while a longer one is there.
"""

from collections.abc import Sequence
from typing import NamedTuple

from worker.generation.pace import Pace

# Waiting prompts that are looked at, at most.
LOOK = 64


class Part(NamedTuple):
    """Prompts that are computed together. left: tokens of the one that has most; context: what precedes them, at
    most."""

    rows: int
    left: int
    context: int


class Choice(NamedTuple):
    """begun: the part that goes on, by its index; None: these waiting ones begin. tokens: of each row, at most.
    in_whole: whether all of them end with that."""

    begun: int | None
    newcomers: list[int]
    tokens: int
    in_whole: bool


def choose(
    pace: Pace, begun: Sequence[Part], waiting: Sequence[Part], *, room: int, now: float, beside: bool
) -> Choice | None:
    """None where decode comes first. begun: oldest first; waiting: one row each, at most LOOK;
    room: how many of them may begin;
    beside: whether sequences decode."""
    if pace.is_held:
        return None
    turn = pace.turn(now, beside=beside)
    shown = [*begun, *(waiting if room > 0 else ())]
    fits = [_fits(pace, part, turn.seconds) for part in shown]
    long = next((index for index, one in enumerate(fits) if not one), None)
    if long is None or not pace.prefers_long:
        for index, part in enumerate(begun):
            if fits[index]:
                # Nor may later ones pass it, which might need less time than is left, for ever.
                is_now = _fits(pace, part, turn.left)
                return Choice(index, [], part.left, in_whole=True) if is_now else None
        together = _together(pace, waiting, fits[len(begun) :], room, turn.left)
        if together:
            return Choice(None, together, max(waiting[index].left for index in together), in_whole=True)
    if long is None or not turn.has_piece:
        return None
    tokens = max(1, pace.tokens(shown[long].context, turn.seconds) // shown[long].rows)
    if long < len(begun):
        return Choice(long, [], tokens, in_whole=False)
    return Choice(None, [long - len(begun)], tokens, in_whole=False)


def has_short(pace: Pace, waiting: Sequence[Part], *, now: float, beside: bool) -> bool:
    """Whether a waiting prompt fits into one piece."""
    if pace.is_held:
        return False
    seconds = pace.turn(now, beside=beside).seconds
    return any(_fits(pace, part, seconds) for part in waiting)


def _fits(pace: Pace, part: Part, seconds: float) -> bool:
    return seconds > 0 and part.rows * part.left <= pace.tokens(part.context, seconds)


def _together(pace: Pace, waiting: Sequence[Part], fits: list[bool], room: int, seconds: float) -> list[int]:
    """Waiting prompts, in their order, that fit into one piece together, padding included."""
    chosen: list[int] = []
    left = context = 0
    for index, part in enumerate(waiting[: len(fits)]):
        if not fits[index]:
            continue
        left, context = max(left, part.left), max(context, part.context)
        if len(chosen) == room or not _fits(pace, Part(len(chosen) + 1, left, context), seconds):
            break
        chosen.append(index)
    return chosen
