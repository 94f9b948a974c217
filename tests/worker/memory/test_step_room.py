"""The room of an engine that keeps nothing between steps, while the broker changes what it may have."""

import pytest

from worker.memory.cost import WorkCost
from worker.memory.step_room import StepRoom

MIB = 2**20
MOST_TOKENS = 64


class NoLimits:
    def apply(self, share_bytes: int) -> None:
        pass


@pytest.fixture
def room() -> StepRoom:
    """A MiB for a token."""
    room = StepRoom(
        WorkCost(per_token=MIB),
        fixed=0,
        most_tokens=MOST_TOKENS,
        limits=NoLimits(),
        share_bytes=MOST_TOKENS * MIB,
        limit_bytes=1024 * MIB,
    )
    room.comes(4)
    return room


def asked(room: StepRoom) -> int:
    """What it wants now, in MiB, and is granted."""
    wish = room.wish()
    assert wish is not None
    room.granted(wish.wanted, 0)
    return wish.wanted // MIB


def test_who_is_asked_for_memory_makes_small_steps_only_until_others_have_it(room: StepRoom) -> None:
    usual = asked(room)
    assert usual >= MOST_TOKENS
    room.shrink(16 * MIB)
    wish = room.wish()
    assert wish is not None
    assert wish.wanted == 16 * MIB
    room.comes(4)  # they still wait
    assert room.wish() is None
    room.granted(wish.wanted, 0)
    assert room.wish() is None  # nothing has come: what others have got is not asked back
    room.comes(4)
    assert asked(room) == usual
    assert room.fits(MOST_TOKENS // 4, 4)


def test_each_time_it_is_asked_it_answers_once(room: StepRoom) -> None:
    asked(room)
    for _ in range(2):
        room.shrink(16 * MIB)
        wish = room.wish()
        assert wish is not None
        assert wish.wanted == 16 * MIB
        room.shrink(16 * MIB)
        assert room.wish() is None
        room.granted(wish.wanted, 0)
        room.shrink(16 * MIB)
        assert asked(room) == 16
        room.comes(4)
        assert asked(room) >= MOST_TOKENS
