"""Which models leave to make room for another. A pure function of the occupants; it runs often, so it must not log.

Room is counted twice, in models and in bytes, over everything that holds memory: loaded, loading and stopping.
"""

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
    """One instance of a model, which holds memory. last_used: orders victims, the smallest leaves first."""

    name: str
    size_bytes: int
    hold: Hold
    last_used: float


class Verdict(Enum):
    FITS = "fits"
    EVICT = "evict"  # stop the victims, start when they have exited
    WAIT = "wait"  # the victims are busy (or already leaving): give them no new work
    NEVER = "never"  # not even if all that may leave had left


@dataclass(slots=True, frozen=True)
class Room:
    verdict: Verdict
    victims: tuple[str, ...] = ()


def make_room(need_bytes: int, max_models: int, max_bytes: int, occupants: list[Occupant]) -> Room:
    """How a model of `need_bytes` gets its place. Victims are as few as the order allows: idle before busy, and the
    least recently used first."""

    def fits(others: list[Occupant]) -> bool:
        return len(others) < max_models and need_bytes + sum(o.size_bytes for o in others) <= max_bytes

    if fits(occupants):
        return Room(Verdict.FITS)
    if not fits([o for o in occupants if o.hold is Hold.PINNED]):
        return Room(Verdict.NEVER)

    staying = [o for o in occupants if o.hold is not Hold.LEAVING]
    in_order = sorted(
        (o for o in staying if o.hold is not Hold.PINNED), key=lambda o: (o.hold is Hold.BUSY, o.last_used)
    )
    victims: list[Occupant] = []
    for candidate in in_order:
        if fits(staying):
            break
        victims.append(candidate)
        staying.remove(candidate)
    # A small early victim may have become needless once a large one had to go: let the most recently used stay.
    for victim in reversed(victims[:-1]):
        if fits([*staying, victim]):
            victims.remove(victim)
            staying.append(victim)

    names = tuple(v.name for v in victims)
    if names and all(v.hold is Hold.IDLE for v in victims):
        return Room(Verdict.EVICT, names)
    return Room(Verdict.WAIT, names)
