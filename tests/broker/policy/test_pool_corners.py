"""Corners of how processes live and end, each found by a mutant that every other test let pass (docs/testing.md)."""

from broker.policy.actions import DropOutputs, Exited, KillWorker, Reply, SavePins, StartWorker, StopWorker
from broker.policy.events import (
    ModelPinned,
    OutputsArrived,
    ShutdownRequested,
    TimePassed,
    WorkerBecameReady,
    WorkerConnected,
)
from broker.policy.specs import Shown
from broker.wire.failure import Code, Failure
from broker.wire.states import State
from tests.broker.policy.script import R1, R2, R3, R8, R9, W1, W2, Failed, Script, replied
from tests.broker.policy.world_books import MIB

ADMIN = "killed by an administrator"
GONE = Failure(Code.MODEL_NOT_FOUND, "/models/a: No such file or directory")

# ---- kills, unloads, shutdown ---------------------------------------------------------------------------------------


def test_a_kill_of_a_process_that_is_being_killed_makes_its_end_expected() -> None:
    s = Script()
    s.idle("a")
    assert s.wait(10.0) == [KillWorker(W1, "no heartbeat for 10 s")]
    assert s.kill(R9, "a") == []
    s.unload(R8, "a")
    assert s.model("a").drain is None  # nothing is left to drain
    assert s.dies(W1) == [replied(R8, "a"), Reply(R9, {"model_id": "a", "pid": None})]
    assert s.model("a").deaths == 0


def test_an_unload_that_has_to_kill_is_no_death() -> None:
    s = Script(stop_grace=2.0)
    s.idle("a")
    assert s.unload(R9, "a") == [StopWorker(W1, "unload")]
    assert s.wait(2.0) == [KillWorker(W1, "did not exit when asked")]
    assert s.dies(W1) == [replied(R9, "a")]
    assert s.model("a").deaths == 0


def test_an_unload_that_took_too_long_is_not_answered_again() -> None:
    s = Script(drain_timeout=30.0)
    s.busy("a", R1)
    s.unload(R9, "a")
    assert s.wait(30.0, W1) == [Failed(R9, "drain_timeout")]
    s.finish(W1, R1)
    assert s.dies(W1) == []


def test_an_unload_is_answered_once() -> None:
    s = Script()
    s.idle("a")
    s.unload(R9, "a")
    assert s.exits(W1) == [replied(R9, "a")]
    s.idle("a")
    assert s.dies(W2) == []


def test_unload_by_force_keeps_who_waits_for_the_next_process() -> None:
    s = Script(queue_timeout=30.0, drain_timeout=30.0)
    s.busy("a", R1)
    s.text(W1, R1)
    s.unload(R9, "a", force=True)
    assert s.ask(R2, "a") == []  # its time would be over at the same moment
    assert s.wait(30.0, W1) == [KillWorker(W1, "unload by force"), Failed(R1, "worker_died", "unload by force")]
    assert s.dies(W1) == [replied(R9, "a"), StartWorker(W2, spare=False)]


def test_a_failed_load_ends_the_unload_that_waited_for_it_and_takes_the_pin() -> None:
    s = Script()
    s.send(ModelPinned("a", s.specs["a"]))
    s.connect(W1)
    s.ask(R1, "a")
    assert s.unload(R9, "a") == []
    assert s.load_fails(W1) == [Failed(R1, "load_failed"), SavePins([])]
    assert s.exits(W1) == [replied(R9, "a")]


def test_a_shutdown_during_an_unload_takes_the_pin_too() -> None:
    s = Script()
    s.pinned("a")
    s.ask(R1, "a")
    s.unload(R9, "a")
    s.send(ShutdownRequested())
    assert s.exits(W1) == [SavePins([]), Exited()]


def test_after_a_shutdown_a_pinned_model_is_shown_as_unloaded() -> None:
    s = Script()
    s.pinned("a")
    s.send(ShutdownRequested())
    s.exits(W1)
    assert s.announced[-1].shown == Shown(State.UNLOADED, "shutdown")


def test_every_load_that_has_seen_two_deaths_fails() -> None:
    s = Script()
    s.load(R1, "a")
    s.load(R2, "a")
    s.load(R3, "a")
    s.dies(W1)
    failed = [action for action in s.dies(W2) if not isinstance(action, SavePins)]
    assert failed == [Failed(r, "worker_died") for r in (R1, R2, R3)]


def test_a_pin_that_comes_again_keeps_its_place() -> None:
    s = Script(max_models=1)
    s.busy("c", R1)
    for model_id in ("a", "b", "a"):
        assert s.send(ModelPinned(model_id, s.specs[model_id])) == []
    assert s.finish(W1, R1)[-1] == StopWorker(W1, "evicted for a")


def test_pins_start_in_the_order_in_which_they_came() -> None:
    s = Script(max_models=1)
    s.busy("c", R1)
    s.ask(R2, "d")
    s.send(ModelPinned("a", s.specs["a"]))
    assert s.finish(W1, R1)[-1] == StopWorker(W1, "evicted for d")  # was there before the pin


def test_a_pin_fails_only_where_its_model_is_gone() -> None:
    s = Script(max_models=1)
    s.busy("c", R1)
    s.send(ModelPinned("a", s.specs["a"], GONE))
    assert s.state("a") == "queued"


def test_a_second_unload_can_add_force() -> None:
    s = Script(drain_timeout=30.0)
    s.busy("a", R1)
    s.text(W1, R1)
    s.unload(R8, "a")
    s.unload(R9, "a", force=True)
    assert s.wait(30.0, W1) == [KillWorker(W1, "unload by force"), Failed(R1, "worker_died", "unload by force")]


def test_after_a_shutdown_nothing_is_in_the_queue() -> None:
    s = Script(max_models=1)
    s.busy("a", R1)
    s.ask(R2, "b")
    s.send(ShutdownRequested())
    assert s.pool.queued == 0


# ---- processes ------------------------------------------------------------------------------------------------------


def test_a_killed_process_that_connects_late_gets_no_model() -> None:
    s = Script()
    s.ask(R1, "a")
    assert s.kill(R9, "a") == [KillWorker(W1, ADMIN)]
    assert s.connect(W1) == []


def test_a_spare_begins_its_load_without_the_stage_of_its_imports() -> None:
    s = Script(warm_spares=1, load_stall_timeout=120.0)
    s.send(TimePassed())
    s.connect(W1)
    s.progress(W1, "imported", 1.0)
    assert s.wait(100.0, W1) == []
    assert s.ask(R1, "a") == [s.assign(W1, "a")]
    assert s.instance("a").progress == (None, None)
    assert s.wait(119.9, W1) == []
    assert s.wait(0.1, W1) == [KillWorker(W1, "load stalled for 120 s"), StartWorker(W2, spare=True)]


def test_each_rank_is_killed_once_also_where_they_end_differently() -> None:
    s = Script()
    s.add_model("two", 400, ranks=2)
    s.ask(R1, "two")
    s.connect(W1)
    actions = s.send(ShutdownRequested())
    assert [a for a in actions if not isinstance(a, Exited)][-2:] == [
        StopWorker(W1, "shutdown"),
        KillWorker(W2, "shutdown"),
    ]
    assert s.kill(R9, "two") == [KillWorker(W1, ADMIN)]


def test_a_process_that_takes_long_to_connect_is_alive_when_it_does() -> None:
    s = Script(heartbeat_timeout=10.0, load_stall_timeout=20.0)
    s.ask(R1, "a")
    assert s.wait(19.0) == []
    assert s.connect(W1) == [s.assign(W1, "a")]
    assert s.wait(9.9) == []
    assert s.wait(0.1) == [KillWorker(W1, "no heartbeat for 10 s")]


def test_to_connect_is_progress_of_the_load() -> None:
    s = Script(load_stall_timeout=20.0)
    s.ask(R1, "a")
    assert s.wait(19.0) == []
    s.connect(W1)
    assert s.wait(19.9, W1) == []
    assert s.wait(0.1, W1) == [KillWorker(W1, "load stalled for 20 s")]


def test_a_process_connects_once() -> None:
    s = Script(stall_timeout=120.0)
    s.busy("a", R1)
    assert s.wait(119.0, W1) == []
    assert s.send(WorkerConnected(W1)) == []
    assert s.wait(1.0, W1) == [KillWorker(W1, "hung: no progress for 120 s")]


def test_output_that_ends_nothing_is_no_new_use() -> None:
    s = Script()
    s.busy("a", R1)
    began = s.now
    s.now += 5
    s.text(W1, R1)
    assert s.model("a").last_used == began
    s.finish(W1, R1)
    assert s.model("a").last_used == s.now


def test_the_context_length_is_that_of_rank_0() -> None:
    s = Script()
    s.add_model("two", 400, ranks=2)
    s.ask(R1, "two")
    for worker_id, context_length in ((W1, 4096), (W2, 1)):
        s.connect(worker_id)
        s.workers[worker_id].ready = True
        s.send(WorkerBecameReady(worker_id, 200, context_length))
    assert s.instance("two").context_length == 4096


def test_steps_that_do_not_grow_are_no_progress() -> None:
    s = Script(stall_timeout=120.0)
    s.busy("a", R1)
    for _ in range(11):
        s.now += 10
        assert s.beat(W1, 1) == []
    s.now += 9.9
    assert s.beat(W1, 1) == []
    s.now += 10.1  # the first step of all was progress
    assert s.beat(W1, 1) == [KillWorker(W1, "hung: no progress for 120 s")]


def test_the_progress_of_a_load_forgives_no_death_of_a_spare() -> None:
    s = Script(warm_spares=1)
    s.send(TimePassed())
    for number in range(1, 6):
        s.wait(30.0)
        s.dies(f"w{number}-test")
    assert s.wait(1000.0) == []
    worker_id = s.loading("a", R1)
    s.progress(worker_id)
    s.ready(worker_id)
    s.finish(worker_id, R1)
    assert s.wait(5.0, worker_id) == []


def test_a_rank_is_ready_once_and_while_it_loads() -> None:
    s = Script()
    s.add_model("two", 400, ranks=2)
    s.ask(R1, "two")
    for worker_id in (W1, W2):
        s.connect(worker_id)
        s.workers[worker_id].ready = True
    for worker_id, measured in ((W1, 250), (W1, 999), (W2, 250)):
        s.send(WorkerBecameReady(worker_id, measured * MIB, 4096))
    assert s.instance("two").reserved_bytes == 500 * MIB


def test_what_a_spare_or_a_killed_process_says_of_a_model_is_ignored() -> None:
    s = Script(warm_spares=1)
    s.send(TimePassed())
    s.connect(W1)
    assert s.send(WorkerBecameReady(W1, 1, 1)) == []
    assert s.send(OutputsArrived(W1, [(R9, True)], [b"frames"])) == [
        DropOutputs(W1, "outputs of a request that is not in flight there")
    ]
    s.ask(R1, "a")
    s.kill(R9, "a")
    assert s.send(WorkerBecameReady(W1, 1, 1)) == []
    assert s.instance("a").ready_at is None


def test_a_prompt_that_cannot_be_replayed_is_not_kept() -> None:
    s = Script()
    s.busy("a", R1)
    s.text(W1, R1)
    assert s.instance("a").in_flight[R1].payload == b""


def test_a_loading_model_counts_for_the_limit_of_the_queue() -> None:
    s = Script(max_queue=1)
    s.loading("a", R1)
    assert s.ask(R2, "a") == [Failed(R2, "rate_limit_exceeded")]


def test_a_refusal_names_the_pinned_models_in_order() -> None:
    s = Script()
    s.pinned("b")
    s.pinned("a")
    [refused] = s.ask(R1, "c")
    assert refused == Failed(R1, "insufficient_memory", "and these are pinned: a, b")


def test_a_shutdown_shows_what_still_stops() -> None:
    s = Script()
    s.idle("a")
    s.send(ShutdownRequested())
    assert s.announced[-1].shown == Shown(State.STOPPING, "shutdown")


def test_a_process_that_was_asked_to_exit_needs_no_heartbeat() -> None:
    s = Script(heartbeat_timeout=10.0, stop_grace=2.0)
    s.idle("a")
    assert s.wait(9.0) == []
    assert s.unload(R9, "a") == [StopWorker(W1, "unload")]
    assert s.wait(1.9) == []
    assert s.wait(0.1) == [KillWorker(W1, "did not exit when asked")]


def test_a_spare_may_wait_for_ever() -> None:
    s = Script(warm_spares=1, load_stall_timeout=120.0)
    s.send(TimePassed())
    s.connect(W1)
    s.progress(W1, "imported")
    assert s.wait(1000.0, W1) == []
