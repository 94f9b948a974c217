"""Who may prefill, one process at a time."""

from hypothesis import given
from hypothesis import strategies as st

from broker.policy.actions import LendPrefill
from broker.policy.events import Event, PauseEnded, PrefillWanted, TimePassed, WorkerExited
from broker.policy.prefill_turns import LEASE_SECONDS, PrefillTurns
from broker.policy.specs import Exit

SECONDS = LEASE_SECONDS


def exited(worker: str) -> WorkerExited:
    return WorkerExited(worker, Exit(None, "SIGKILL", 0.0, ""))


def lent(turns: PrefillTurns, event: Event, now: float) -> list[str]:
    actions = turns.handle(event, now)
    assert all(action == LendPrefill(action.worker_id, SECONDS) for action in actions)
    return [action.worker_id for action in actions]


def test_the_first_that_asks_has_it_until_it_is_done() -> None:
    turns = PrefillTurns()
    assert lent(turns, PrefillWanted("a", True), 0.0) == ["a"]
    assert turns.next_deadline() is None
    assert lent(turns, PrefillWanted("b", True), 0.1) == []
    assert lent(turns, PrefillWanted("c", True), 0.2) == []
    assert lent(turns, PrefillWanted("a", False), 0.3) == ["b"]
    assert lent(turns, PrefillWanted("b", False), 0.4) == ["c"]
    assert lent(turns, PrefillWanted("c", False), 0.5) == []
    assert turns.next_deadline() is None


def test_it_ends_after_its_time_and_its_holder_asks_again_behind_the_others() -> None:
    turns = PrefillTurns()
    lent(turns, PrefillWanted("a", True), 0.0)
    lent(turns, PrefillWanted("b", True), 0.1)
    assert turns.next_deadline() == SECONDS
    assert lent(turns, TimePassed(), SECONDS - 0.01) == []
    assert lent(turns, TimePassed(), SECONDS) == ["b"]
    assert lent(turns, PrefillWanted("a", True), SECONDS + 0.1) == []
    assert lent(turns, PrefillWanted("b", True), 2 * SECONDS) == ["a"]


def test_one_who_is_alone_goes_on_at_once() -> None:
    turns = PrefillTurns()
    lent(turns, PrefillWanted("a", True), 0.0)
    assert lent(turns, PrefillWanted("a", True), SECONDS) == ["a"]


def test_the_dead_hold_nothing_and_wait_for_nothing() -> None:
    turns = PrefillTurns()
    lent(turns, PrefillWanted("a", True), 0.0)
    lent(turns, PrefillWanted("b", True), 0.0)
    lent(turns, PrefillWanted("c", True), 0.0)
    assert lent(turns, exited("b"), 0.1) == []
    assert lent(turns, exited("a"), 0.2) == ["c"]


def test_a_pause_of_everything_takes_nothing_from_the_holder() -> None:
    turns = PrefillTurns()
    lent(turns, PrefillWanted("a", True), 0.0)
    lent(turns, PrefillWanted("b", True), 0.0)
    assert lent(turns, PauseEnded(), 100.0) == []
    assert turns.next_deadline() == 100.0 + SECONDS


EVENTS = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.sampled_from(["asks", "is done", "dies", "time"]), st.floats(0.0, 1.5 * SECONDS)
    ),
    max_size=60,
)


@given(EVENTS)
def test_whoever_asks_gets_it_in_time_and_nobody_beside_another(events: list[tuple[str, str, float]]) -> None:
    turns, now = PrefillTurns(), 0.0
    since: dict[str, float] = {}  # who waits
    holder: tuple[str, float] | None = None
    for worker, what, pause in events:
        due = now + pause
        events_by_name: dict[str, Event] = {
            "asks": PrefillWanted(worker, True),
            "is done": PrefillWanted(worker, False),
            "dies": exited(worker),
            "time": TimePassed(),
        }
        event = events_by_name[what]
        while True:
            deadline = turns.next_deadline()
            is_early = deadline is not None and deadline < due
            now = max(now, deadline) if is_early and deadline is not None else due
            if not is_early and what != "time":
                holder = None if holder is not None and holder[0] == worker else holder
                since.pop(worker, None)
                if what == "asks":
                    since[worker] = now
            for next_one in lent(turns, TimePassed() if is_early else event, now):
                assert holder is None or now >= holder[1]
                assert now - since.pop(next_one) <= 2 * SECONDS + 1e-6
                holder = (next_one, now + SECONDS)
            assert not since or holder is not None
            if not is_early:
                break
