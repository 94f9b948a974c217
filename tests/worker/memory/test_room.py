"""The room of an engine whose requests come, wait and leave while the broker changes what it may have."""

import pytest

from broker.wire.failure import Code
from worker.memory.cost import CacheCost, LayerCost, WorkCost
from worker.memory.plan import MemoryPlan
from worker.memory.room import MemoryRoom, Size

A, B = b"a", b"b"


class NoLimits:
    def apply(self, share_bytes: int) -> None:
        pass


@pytest.fixture
def plan() -> MemoryPlan:
    """A KiB for a token, and room for 1,000 tokens."""
    cost = CacheCost((LayerCost(per_token=1024),))
    plan = MemoryPlan(cost, WorkCost(), fixed=0, padded=False, most_rows=8, step_tokens=512, is_bounded=True)
    plan.share = plan.limit = plan.alone(1000)
    return plan


@pytest.fixture
def room(plan: MemoryPlan) -> MemoryRoom[str]:
    return MemoryRoom(plan, NoLimits())


def stated(prompt: int) -> Size:
    return Size(prompt, 10, is_stated=True, param="messages")


def test_who_had_begun_and_can_never_go_on_is_refused(plan: MemoryPlan, room: MemoryRoom[str]) -> None:
    """The largest share falls to exactly what its tokens so far take."""
    room.enter(A, Size(100, 5000, is_stated=False, param="messages", first=400), "a")
    begun = room.admit()
    assert begun is not None
    assert (begun.answer, begun.reserved) == (900, 400)
    least = plan.alone(500)
    room.granted(least, least)
    assert not room.grow(A, 400)
    room.return_to_front(A, Size(500, 500, is_stated=False, param="messages", first=400), "a")
    assert room.has_news
    room.wish()
    (refused,) = room.refused()
    assert (refused.request_id, refused.failure.code) == (A, Code.CONTEXT_LENGTH_EXCEEDED)
    assert (room.waiting, room.has_news) == (0, False)


def test_the_refusal_of_a_request_that_has_left_goes_to_no_other(plan: MemoryPlan, room: MemoryRoom[str]) -> None:
    room.enter(A, stated(900), "a")
    room.admit()
    room.enter(B, stated(800), "b")
    room.granted(plan.alone(910), plan.alone(500))
    room.leave(B)
    assert room.refused() == []
