"""Shares of memory: granted, given back, waited for, and who is killed for taking more."""

import pytest

from broker.policy.actions import Action, AssignModel, GrantShare, KillWorker, ShrinkShare, StartWorker, StopWorker
from broker.policy.events import MemoryNeeded, PauseEnded
from tests.broker.policy.script import R1, R2, R3, SIZE, W1, W2, W3, Failed, Script
from tests.broker.policy.world_books import MIB


def need(s: Script, worker_id: str, wanted: int, least: int = 100) -> list[Action]:
    """This worker says what it needs, in MiB."""
    memory = s.memory(worker_id)
    memory.said, memory.share = (wanted * MIB, least * MIB), min(memory.share, wanted * MIB)
    return s.send(MemoryNeeded(worker_id, wanted * MIB, least * MIB))


def holds(s: Script, worker_id: str, taken: int, least: int | None = None) -> None:
    """This worker has so many MiB and uses `least` of them, or all."""
    need(s, worker_id, taken, taken if least is None else least)
    need(s, worker_id, taken, taken if least is None else least)


def grant(worker_id: str, share: int, limit: int = 1000) -> GrantShare:
    return GrantShare(worker_id, share * MIB, limit * MIB)


def shrink(worker_id: str, share: int) -> ShrinkShare:
    return ShrinkShare(worker_id, share * MIB)


def share(s: Script, model_id: str) -> int:
    """In MiB."""
    return s.worker(model_id).lease.share_bytes // MIB


# ---- asked for, granted, given back -------------------------------------------------------------------------------


def test_a_load_gets_its_estimate_and_a_block() -> None:
    s = Script(block_bytes=64 * MIB)
    s.ask(R1, "a")
    [assigned] = s.connect(W1)
    assert isinstance(assigned, AssignModel)
    assert (assigned.share_bytes, assigned.limit_bytes) == (192 * MIB, 960 * MIB)


def test_more_is_granted_as_long_as_there_is_room() -> None:
    s = Script()
    s.busy("a", R1)
    assert need(s, W1, 400) == [grant(W1, 400)]
    assert share(s, "a") == 400
    assert need(s, W1, 1000) == [grant(W1, 1000)]


def test_what_is_given_back_is_there_for_others_at_once() -> None:
    s = Script()
    s.busy("a", R1)
    s.busy("b", R2)
    holds(s, W1, 800, least=100)
    assert need(s, W2, 400, least=150) == [shrink(W1, 600), grant(W2, 200)]
    assert need(s, W1, 300) == [grant(W1, 300), grant(W2, 400)]


def test_shares_are_whole_blocks() -> None:
    s = Script(block_bytes=64 * MIB)
    s.busy("a", R1)
    assert need(s, W1, 200) == [grant(W1, 256, limit=960)]
    assert need(s, W1, 2000) == [grant(W1, 960, limit=960)]


def test_what_a_process_takes_beside_mlx_is_its_own_but_counts() -> None:
    s = Script()
    s.loading("a", R1)
    s.ready(W1, 100, beside=40)
    assert need(s, W1, 300, least=60) == [grant(W1, 300, limit=960)]
    assert share(s, "a") == 340


def test_a_worker_that_takes_more_than_its_share_counts_with_what_it_takes() -> None:
    s = Script(max_models=3)
    s.busy("a", R1)
    s.sample(W1, 950)
    assert s.ask(R2, "b") == []
    s.sample(W1, 500)
    assert s.ask(R3, "b") == []  # it has started
    assert s.state("b") == "loading"


def test_a_share_never_exceeds_the_limit_of_its_model() -> None:
    s = Script()
    s.add_model("a", 100, memory_limit_bytes=300 * MIB)
    s.busy("a", R1)
    assert need(s, W1, 900) == [grant(W1, 300, limit=300)]
    assert need(s, W1, 900) == [grant(W1, 300, limit=300)]


def test_the_limit_is_what_pinned_models_leave() -> None:
    s = Script(max_models=3)
    s.pinned("b")
    s.busy("a", R1)
    assert need(s, W2, 2000) == [grant(W2, 900, limit=900)]
    # It waits for more, so it is told as soon as there can be more.
    assert StopWorker(W1, "evicted for a larger share of a") in s.unpin(R3, "b")
    assert s.worker("a").lease.told == grant(W2, 900, limit=1000)
    assert s.exits(W1) == [grant(W2, 1000)]


# ---- waiting ------------------------------------------------------------------------------------------------------


def test_idle_models_leave_for_a_lease() -> None:
    s = Script()
    s.idle("b")
    s.busy("a", R1)
    assert need(s, W2, 950) == [StopWorker(W1, "evicted for a larger share of a"), grant(W2, 900)]
    assert s.exits(W1) == [grant(W2, 950)]


def test_nobody_leaves_and_nobody_waits_for_what_is_only_welcome() -> None:
    s = Script(max_models=3)
    s.idle("b")
    s.busy("a", R1)
    s.memory(W2).said, s.memory(W2).share = (950 * MIB, 100 * MIB), 100 * MIB
    assert s.send(MemoryNeeded(W2, 950 * MIB, 100 * MIB, 300 * MIB)) == [grant(W2, 900)]
    s.add_model("tiny", 0)
    assert s.ask(R2, "tiny") == [StartWorker(W3, spare=False)]
    s.cancel(R2)
    assert s.send(MemoryNeeded(W2, 950 * MIB, 100 * MIB, 940 * MIB)) == [
        StopWorker(W1, "evicted for a larger share of a"),
        grant(W2, 900),
    ]


def test_caches_are_given_back_before_a_model_has_to_leave() -> None:
    s = Script(max_models=3)
    s.idle("b")
    s.idle("c")
    holds(s, W1, 500, least=100)
    s.busy("a", R1)
    assert need(s, W3, 600) == [shrink(W1, 300), grant(W3, 400)]
    need(s, W1, 300)
    assert (share(s, "a"), share(s, "b")) == (600, 300)
    assert s.state("c") == "ready"


def test_busy_models_come_down_as_their_sequences_end() -> None:
    s = Script()
    s.busy("a", R1)
    s.busy("b", R2)
    holds(s, W1, 900)
    assert need(s, W2, 300) == [shrink(W1, 700), grant(W2, 100)]
    need(s, W1, 800, least=800)
    assert (share(s, "a"), share(s, "b")) == (800, 200)
    need(s, W1, 700, least=500)
    assert (share(s, "a"), share(s, "b")) == (700, 300)
    assert grant(W1, 700) == s.worker("a").lease.told  # nobody waits any more


def test_who_has_asked_first_gets_it_first() -> None:
    s = Script(max_models=3)
    s.busy("a", R1)
    s.busy("b", R2)
    s.busy("c", R3)
    holds(s, W1, 800)
    need(s, W2, 400)
    need(s, W3, 200)
    need(s, W1, 600, least=600)
    assert (share(s, "b"), share(s, "c")) == (300, 100)
    need(s, W1, 450, least=400)
    assert (share(s, "b"), share(s, "c")) == (400, 150)


def test_a_lease_waits_for_the_load_before_it() -> None:
    s = Script(max_models=3)
    s.add_model("large", 500)
    s.pinned("a")
    s.busy("b", R1)
    holds(s, W2, 500)
    s.ask(R2, "large")  # waits for b
    need(s, W1, 400)
    assert share(s, "a") == 100
    need(s, W2, 400, least=400)  # would do for the load, and is not given to a
    assert (s.state("large"), share(s, "a")) == ("loading", 100)


def test_a_load_waits_for_the_lease_before_it() -> None:
    s = Script(max_models=3)
    s.busy("a", R1)
    s.busy("b", R2)
    holds(s, W1, 800, least=100)
    assert need(s, W2, 400) == [shrink(W1, 600), grant(W2, 200)]
    s.add_model("tiny", 0)
    assert s.ask(R3, "tiny") == []
    need(s, W1, 600, least=100)
    assert (share(s, "b"), s.state("tiny")) == (400, "loading")


def test_a_lease_of_a_model_that_must_leave_goes_before_the_load_that_waits_for_it() -> None:
    s = Script()
    s.add_model("large", 950)
    s.busy("a", R1)
    s.ask(R2, "large")
    assert s.state("large") == "queued"
    assert need(s, W1, 400, least=100) == [grant(W1, 400)]
    assert need(s, W1, 100) == [grant(W1, 100)]
    assert s.finish(W1, R1)[1:] == [StopWorker(W1, "evicted for large")]
    assert StartWorker(W2, spare=False) in s.exits(W1)


def test_a_lease_that_cannot_come_now_keeps_nobody_waiting() -> None:
    s = Script(max_models=3)
    s.busy("a", R1)
    s.busy("b", R2)
    holds(s, W1, 500)
    holds(s, W2, 400)
    need(s, W1, 900, least=500)
    assert s.worker("a").lease.order > 0
    s.add_model("tiny", 0)
    assert s.ask(R3, "tiny") == [StartWorker(W3, spare=False)]


def test_a_worker_that_does_not_answer_is_not_waited_for() -> None:
    s = Script(max_models=3, heartbeat_timeout=600.0)
    s.busy("a", R1)
    s.busy("b", R2)
    holds(s, W1, 900, least=100)
    assert need(s, W2, 300) == [shrink(W1, 700), grant(W2, 100)]
    s.add_model("tiny", 0)
    assert s.ask(R3, "tiny") == []
    assert s.wait(4.9) == []
    assert s.wait(0.1) == [StartWorker(W3, spare=False), grant(W1, 900)]
    assert s.wait(29.9) == []
    assert s.wait(0.1) == [shrink(W1, 700)]  # after a while it is asked again


def test_a_pause_of_everything_does_not_count_as_silence() -> None:
    s = Script(max_models=3, heartbeat_timeout=600.0)
    s.busy("a", R1)
    s.busy("b", R2)
    holds(s, W1, 900, least=100)
    need(s, W2, 300)
    s.add_model("tiny", 0)
    s.ask(R3, "tiny")
    s.now += 4.0
    s.send(PauseEnded())
    assert s.wait(4.9) == []
    assert need(s, W1, 700) == [StartWorker(W3, spare=False), grant(W1, 700), grant(W2, 300)]


def test_a_load_asks_for_what_is_not_in_use() -> None:
    s = Script()
    s.pinned("a")
    holds(s, W1, 950, least=100)
    assert s.ask(R1, "b") == [shrink(W1, 900)]
    assert need(s, W1, 900) == [StartWorker(W2, spare=False), grant(W1, 900)]


def test_a_pinned_model_with_a_large_share_makes_no_other_impossible() -> None:
    s = Script()
    s.pinned("a")
    holds(s, W1, 950)
    s.add_model("b", 800)
    assert s.ask(R1, "b") == [shrink(W1, 200)]
    s.add_model("c", 901)
    assert s.ask(R2, "c") == [Failed(R2, "insufficient_memory")]


def test_a_worker_that_leaves_gets_no_more() -> None:
    s = Script()
    s.idle("a")
    s.unload(R1, "a")
    assert s.send(MemoryNeeded(W1, 500 * MIB, 100 * MIB)) == []


@pytest.mark.parametrize("wanted", [-(1 << 70), -1, 1 << 70])
def test_impossible_numbers_do_no_harm(wanted: int) -> None:
    s = Script()
    s.busy("a", R1)
    s.memory(W1).said = (0, 0)
    [answer] = s.send(MemoryNeeded(W1, wanted, wanted))
    assert isinstance(answer, GrantShare)
    assert 0 <= answer.share_bytes <= 1000 * MIB


def test_a_worker_that_is_not_ready_gets_its_share_from_the_load_alone() -> None:
    s = Script()
    s.loading("a", R1)
    assert s.send(MemoryNeeded(W1, 500 * MIB, 0)) == []
    assert s.send(MemoryNeeded("nobody", 500 * MIB, 0)) == []


# ---- too much -----------------------------------------------------------------------------------------------------


def test_the_limit_of_a_process_follows_its_share() -> None:
    s = Script(memory=10_000)
    s.busy("a", R1)
    assert s.pool.kill_limit(s.worker("a")) == 2 * SIZE + 2048 * MIB
    need(s, W1, 3000)
    assert s.pool.kill_limit(s.worker("a")) == (2 * 3000 + 2048) * MIB
    need(s, W1, 9000)
    assert s.pool.kill_limit(s.worker("a")) == 10_000 * MIB  # the whole budget


def test_the_margin_is_small_while_all_together_take_too_much() -> None:
    s = Script(memory=10_000, heartbeat_timeout=600.0)
    s.busy("a", R1)
    s.busy("b", R2)
    need(s, W1, 4000)
    need(s, W2, 4000)
    for _ in range(5):
        assert s.sample(W1, 4400) == []
        assert s.sample(W2, 5500) == []
    s.sample(W2, 6000)
    s.sample(W2, 6000)
    assert s.sample(W1, 4400) == []
    why = "memory_limit: took 5.86 GiB, limit 5.38 GiB"
    assert KillWorker(W2, why) in s.sample(W2, 6000)
    assert (s.state("a"), s.state("b")) == ("ready", "stopping")


def test_who_is_furthest_over_its_share_dies_alone() -> None:
    """Another one is over the small margin as well, but not over that which it has when there is memory."""
    s = Script(memory=10_000, heartbeat_timeout=600.0)
    s.busy("a", R1)
    s.busy("b", R2)
    need(s, W1, 4000)
    need(s, W2, 4000)
    for _ in range(2):
        assert s.sample(W1, 5600) == []
        assert s.sample(W2, 6000) == []
    assert s.sample(W1, 5600) == []
    (killed,) = [action for action in s.sample(W2, 6000) if isinstance(action, KillWorker)]
    assert killed.worker_id == W2
    for _ in range(5):  # it has not exited yet
        assert s.sample(W1, 5600) == []
    s.dies(W2)
    for _ in range(5):
        assert not any(isinstance(action, KillWorker) for action in s.sample(W1, 5600))
    assert s.state("a") == "ready"


def test_two_that_take_too_much_whatever_the_others_do_both_die() -> None:
    s = Script(memory=10_000, memory_limit_factor=1.5, memory_limit_floor_bytes=0, heartbeat_timeout=600.0)
    s.busy("a", R1)
    s.busy("b", R2)
    need(s, W1, 4000)
    need(s, W2, 4000)
    for _ in range(2):
        s.sample(W1, 6100)
        s.sample(W2, 7000)
    assert any(isinstance(action, KillWorker) for action in s.sample(W1, 6100))
    assert any(isinstance(action, KillWorker) for action in s.sample(W2, 7000))
