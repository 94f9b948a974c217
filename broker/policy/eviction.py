"""Which models leave to make room for another. A pure function of the occupants; it runs often, so it must not log.

Room is counted twice, in models and in bytes, over everything that holds memory: loaded, loading and stopping.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Hold(Enum):
    """What keeps an occupant where it is."""

    PINNED = "pinned"  # stays until an admin says otherwise, loading or not
    LEAVING = "leaving"  # stopping: its room comes by itself, when the process has exited
    BUSY = "busy"  # loading, working, or about to: may be waited for, never evicted
    IDLE = "idle"  # may be evicted now


@dataclass(slots=True, frozen=True)
class Occupant:
    """One instance of a model, which holds memory. last_used: orders victims, the smallest leaves first. least_bytes,
    idle_bytes: what it can come down to at once, and once it has nothing to do; None: it gives nothing back. places: of
    max_models."""

    name: str
    size_bytes: int
    hold: Hold
    last_used: float
    least_bytes: int | None = None
    idle_bytes: int | None = None
    places: int = 1

    @property
    def at_least(self) -> int:
        return self.size_bytes if self.least_bytes is None or self.hold is Hold.LEAVING else self.least_bytes

    @property
    def at_rest(self) -> int:
        return self.size_bytes if self.idle_bytes is None else self.idle_bytes


class Verdict(Enum):
    FITS = "fits"
    EVICT = "evict"  # stop the victims, start when they have exited
    WAIT = "wait"  # the victims are busy (or already leaving): give them no new work
    NEVER = "never"  # not even if all that may leave had left


@dataclass(slots=True, frozen=True)
class Room:
    verdict: Verdict
    victims: tuple[str, ...] = ()


def make_room(
    need_bytes: int, max_models: int, max_bytes: int, occupants: list[Occupant], ever_bytes: int | None = None
) -> Room:
    """How a model of `need_bytes` gets its place. Victims are as few as the order allows: idle before busy, and the
    least recently used first. Those that stay are asked for what they can give back before any model has to leave.

    max_bytes: what there is now; ever_bytes: what there may ever be, if that is more.
    """

    def fits(others: list[Occupant], size: Callable[[Occupant], int], most: int = max_bytes) -> bool:
        return sum(o.places for o in others) < max_models and need_bytes + sum(size(o) for o in others) <= most

    if fits(occupants, lambda o: o.size_bytes):
        return Room(Verdict.FITS)
    most = max_bytes if ever_bytes is None else max(max_bytes, ever_bytes)
    if not fits([o for o in occupants if o.hold is Hold.PINNED], lambda o: o.at_rest, most):
        return Room(Verdict.NEVER)

    def at_least(occupant: Occupant) -> int:
        return occupant.at_least

    staying = [o for o in occupants if o.hold is not Hold.LEAVING]
    in_order = sorted(
        (o for o in staying if o.hold is not Hold.PINNED), key=lambda o: (o.hold is Hold.BUSY, o.last_used)
    )
    victims: list[Occupant] = []
    for candidate in in_order:
        if fits(staying, at_least):
            break
        victims.append(candidate)
        staying.remove(candidate)
    if not fits(staying, at_least):
        return Room(Verdict.WAIT)  # until pinned models give memory back; no model leaves in vain
    # A small early victim may have become needless once a large one had to go: let the most recently used stay.
    for victim in reversed(victims[:-1]):
        if fits([*staying, victim], at_least):
            victims.remove(victim)
            staying.append(victim)

    names = tuple(v.name for v in victims)
    if names and all(v.hold is Hold.IDLE for v in victims):
        return Room(Verdict.EVICT, names)
    return Room(Verdict.WAIT, names)
