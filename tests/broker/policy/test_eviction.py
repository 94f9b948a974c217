"""Who leaves to make room: a few cases to read, and what must hold for every case."""

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.policy.eviction import Hold, Occupant, Room, Verdict, make_room

PINNED, LEAVING, BUSY, IDLE = Hold.PINNED, Hold.LEAVING, Hold.BUSY, Hold.IDLE


def occupants(*rows: tuple[str, int, Hold]) -> list[Occupant]:
    """(name, size, hold), the least recently used first."""
    return [Occupant(name, size, hold, float(age)) for age, (name, size, hold) in enumerate(rows)]


def test_where_there_is_room_nobody_leaves() -> None:
    assert make_room(5, 2, 10, occupants(("a", 5, IDLE))) == Room(Verdict.FITS)


def test_the_least_recently_used_leaves() -> None:
    rows = occupants(("a", 5, IDLE), ("b", 5, IDLE))
    assert make_room(5, 2, 100, rows) == Room(Verdict.EVICT, ("a",))


def test_a_small_model_stays_where_a_large_one_has_to_go_anyway() -> None:
    rows = occupants(("small", 1, IDLE), ("large", 9, IDLE))
    assert make_room(9, 9, 10, rows) == Room(Verdict.EVICT, ("large",))


def test_of_two_small_models_the_most_recently_used_stays() -> None:
    rows = occupants(("old", 10, IDLE), ("new", 10, IDLE), ("large", 50, IDLE))
    assert make_room(55, 9, 70, rows) == Room(Verdict.EVICT, ("old", "large"))


def shrinking(name: str, size: int, least: int, rest: int, hold: Hold) -> Occupant:
    return Occupant(name, size, hold, 0.0, least, rest)


def test_what_can_be_given_back_is_asked_for_before_anybody_leaves() -> None:
    cached, idle = shrinking("cached", 8, 3, 3, BUSY), Occupant("idle", 2, IDLE, 1.0)
    assert make_room(5, 9, 10, [cached, idle]) == Room(Verdict.WAIT)
    assert make_room(6, 9, 10, [cached, idle]) == Room(Verdict.EVICT, ("idle",))


def test_a_pinned_model_is_judged_by_what_it_takes_at_rest() -> None:
    at_work = shrinking("pinned", 9, 8, 3, PINNED)
    assert make_room(8, 9, 10, [at_work]) == Room(Verdict.NEVER)
    assert make_room(7, 9, 10, [at_work]) == Room(Verdict.WAIT)


def test_nobody_leaves_in_vain_while_a_pinned_model_has_to_come_to_rest() -> None:
    assert make_room(7, 9, 10, [shrinking("pinned", 9, 8, 3, PINNED), Occupant("idle", 1, IDLE, 0.0)]) == Room(
        Verdict.WAIT
    )


def test_what_there_may_be_later_is_waited_for() -> None:
    assert make_room(7, 9, 5, [], 10) == Room(Verdict.WAIT)
    assert make_room(11, 9, 5, [], 10) == Room(Verdict.NEVER)
    assert make_room(5, 9, 5, [], 1) == Room(Verdict.FITS)


def test_what_leaves_gives_back_all_of_it_and_nothing_before() -> None:
    leaving = shrinking("leaving", 9, 1, 1, LEAVING)
    assert make_room(5, 9, 10, [leaving]) == Room(Verdict.WAIT)


def test_idle_ones_leave_before_busy_ones_are_waited_for() -> None:
    rows = occupants(("old", 5, BUSY), ("new", 5, IDLE))
    assert make_room(5, 2, 100, rows) == Room(Verdict.EVICT, ("new",))
    assert make_room(10, 9, 10, rows) == Room(Verdict.WAIT, ("new", "old"))


def test_what_leaves_already_is_waited_for_and_nobody_else_is_thrown_out() -> None:
    rows = occupants(("idle", 5, IDLE), ("gone", 5, LEAVING))
    assert make_room(5, 9, 10, rows) == Room(Verdict.WAIT)
    assert make_room(6, 9, 10, rows) == Room(Verdict.EVICT, ("idle",))


def test_pinned_ones_make_it_impossible() -> None:
    rows = occupants(("pinned", 5, PINNED), ("idle", 5, IDLE))
    assert make_room(5, 2, 10, rows) == Room(Verdict.EVICT, ("idle",))
    assert make_room(6, 2, 10, rows) == Room(Verdict.NEVER)
    assert make_room(1, 1, 100, rows) == Room(Verdict.NEVER)


def test_what_is_larger_than_everything_never_fits() -> None:
    assert make_room(11, 9, 10, []) == Room(Verdict.NEVER)


# ---- for every case -----------------------------------------------------------------------------------------------

Case = tuple[int, int, int, list[Occupant]]  # the arguments of make_room
cases = st.tuples(
    st.integers(0, 60),
    st.integers(1, 6),
    st.integers(0, 100),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from(Hold), st.integers(0, 4)), max_size=8).map(
        lambda rows: [Occupant(f"w{n}", size, hold, float(age)) for n, (size, hold, age) in enumerate(rows)]
    ),
)


def fits(case: Case, others: list[Occupant]) -> bool:
    need, max_models, max_bytes, _ = case
    return len(others) + 1 <= max_models and need + sum(o.size_bytes for o in others) <= max_bytes


@settings(deadline=None)
@given(cases)
def test_fits_if_and_only_if_it_fits_beside_everybody(case: Case) -> None:
    assert (make_room(*case).verdict is Verdict.FITS) == fits(case, case[3])


@settings(deadline=None)
@given(cases)
def test_never_if_and_only_if_the_pinned_alone_leave_no_room(case: Case) -> None:
    everybody = case[3]
    pinned = [o for o in everybody if o.hold is PINNED]
    assert (make_room(*case).verdict is Verdict.NEVER) == (not fits(case, pinned))


@settings(deadline=None)
@given(cases)
def test_only_idle_ones_are_evicted_and_pinned_ones_are_never_named(
    case: Case,
) -> None:
    everybody = {o.name: o for o in case[3]}
    room = make_room(*case)
    holds = {everybody[name].hold for name in room.victims}
    assert holds <= {IDLE, BUSY}
    if room.verdict is Verdict.EVICT:
        assert holds == {IDLE}
    assert len(set(room.victims)) == len(room.victims)


@settings(deadline=None)
@given(cases)
def test_when_the_victims_and_the_leaving_are_gone_it_fits(case: Case) -> None:
    everybody = case[3]
    room = make_room(*case)
    if room.verdict in (Verdict.EVICT, Verdict.WAIT):
        staying = [o for o in everybody if o.hold is not LEAVING and o.name not in room.victims]
        assert fits(case, staying)


@settings(deadline=None)
@given(cases)
def test_no_victim_leaves_in_vain(case: Case) -> None:
    everybody = case[3]
    room = make_room(*case)
    staying = [o for o in everybody if o.hold is not LEAVING and o.name not in room.victims]
    for victim in everybody:
        if victim.name in room.victims:
            assert not fits(case, [*staying, victim])


@settings(deadline=None)
@given(cases)
def test_a_busy_one_is_waited_for_only_if_the_idle_ones_are_not_enough(
    case: Case,
) -> None:
    everybody = case[3]
    room = make_room(*case)
    busy_victims = [o for o in everybody if o.name in room.victims and o.hold is BUSY]
    if busy_victims:
        assert not fits(case, [o for o in everybody if o.hold not in (LEAVING, IDLE)])


@settings(deadline=None)
@given(cases)
def test_the_answer_depends_on_the_facts_and_not_on_their_order(case: Case) -> None:
    aged = [Occupant(o.name, o.size_bytes, o.hold, float(n)) for n, o in enumerate(case[3])]
    assert make_room(*case[:3], aged) == make_room(*case[:3], aged[::-1])
