"""Corners of the queue, each found by a mutant that every other test let pass (docs/testing.md)."""

from broker.policy.actions import Fail, KillWorker, StartWorker, StopWorker
from broker.policy.events import ModelPinned, RequestArrived
from broker.wire.failure import Code, Failure
from tests.broker.policy.script import R1, R2, R3, R4, R8, R9, W1, W2, W3, Failed, Script
from tests.broker.policy.world_books import SimRequest

ADMIN = "killed by an administrator"
GONE = Failure(Code.MODEL_NOT_FOUND, "/models/a: No such file or directory")

# ---- requests -------------------------------------------------------------------------------------------------------


def test_a_running_model_serves_although_its_folder_is_gone() -> None:
    s = Script()
    s.idle("a")
    s.requests[R1] = SimRequest("a")
    assert s.send(RequestArrived(R1, "a", R1, None, GONE)) == [s.forward(W1, "a", R1)]
    s.send(ModelPinned("a", None, GONE))
    assert s.ask(R2, "a") == [s.forward(W1, "a", R2)]


def test_a_client_can_leave_while_its_request_waits_for_the_replay() -> None:
    s = Script()
    s.busy("a", R1)
    s.kill(R9, "a")
    assert s.cancel(R1) == [Failed(R1, "cancelled")]


def test_a_replayed_request_begins_to_wait_when_its_process_ends() -> None:
    s = Script(queue_timeout=5.0, heartbeat_timeout=10.0)
    s.busy("a", R1)
    assert s.wait(10.0) == [KillWorker(W1, "no heartbeat for 10 s")]
    assert s.wait(4.9) == []
    assert s.wait(0.1) == [Failed(R1, "model_unavailable", "found no room for 5 s")]


def test_a_request_waits_anew_when_the_process_has_exited() -> None:
    s = Script(queue_timeout=1.0, heartbeat_timeout=5.0)
    s.idle("a")
    s.dies(W1)
    s.idle("a")
    assert s.wait(5.0) == [KillWorker(W2, "no heartbeat for 5 s")]
    assert s.ask(R1, "a") == []
    assert s.wait(0.9) == []
    assert s.dies(W2) == []  # the second death: half a second of cooldown
    assert s.wait(0.4) == []
    assert s.wait(0.1) == [StartWorker(W3, spare=False)]


def test_a_process_that_does_not_exit_keeps_nobody_waiting_for_ever() -> None:
    s = Script(queue_timeout=300.0)
    s.busy("a", R1)
    s.text(W1, R1)
    assert s.kill(R9, "a") == [KillWorker(W1, ADMIN), Failed(R1, "worker_died", ADMIN)]
    assert s.ask(R2, "a") == []
    assert s.wait(299.9) == []
    assert s.wait(0.1) == [Failed(R2, "model_unavailable", "found no room for 300 s")]


def test_of_those_who_wait_too_long_the_first_gives_up_first() -> None:
    s = Script(queue_timeout=60.0, max_models=1)
    s.busy("a", R1)
    assert s.ask(R2, "b") == []
    assert s.wait(1.0, W1) == []
    assert s.ask(R3, "b") == []
    assert s.wait(59.0, W1) == [Failed(R2, "model_unavailable", "found no room for 60 s")]


# ---- order ----------------------------------------------------------------------------------------------------------


def test_a_request_id_is_free_again_after_its_end() -> None:
    s = Script()
    s.loading("a", R1)
    assert s.cancel(R1) == [Failed(R1, "cancelled")]
    assert R1 not in s.pool._facts.requests


def test_a_pin_by_a_load_keeps_the_place_of_the_load() -> None:
    s = Script(max_models=1)
    s.busy("c", R1)
    s.ask(R2, "b")
    s.load(R3, "a")
    assert s.cancel(R3) == [Failed(R3, "cancelled")]
    assert s.finish(W1, R1)[-1] == StopWorker(W1, "evicted for b")


def test_a_model_has_the_place_of_the_first_who_waits_for_it() -> None:
    s = Script(max_models=1)
    s.busy("c", R1)
    s.ask(R2, "a")
    s.ask(R3, "b")
    s.load(R9, "a")
    assert s.finish(W1, R1)[-1] == StopWorker(W1, "evicted for a")


def test_a_load_without_its_pin_is_still_wanted() -> None:
    s = Script(max_models=1)
    s.busy("c", R1)
    s.load(R2, "a")
    s.unpin(R9, "a")
    assert s.finish(W1, R1)[-1] == StopWorker(W1, "evicted for a")


def test_of_two_busy_models_the_one_without_new_work_is_claimed() -> None:
    s = Script()
    s.busy("a", R1)
    s.now += 1
    s.busy("b", R2)
    s.now += 1
    assert s.ask(R3, "a") == [s.forward(W1, "a", R3)]
    assert s.ask(R8, "c") == []
    assert s.ask(R4, "b") == []  # b is to leave
    assert s.ask(R9, "a") == [s.forward(W1, "a", R9)]


def test_a_loading_model_is_as_old_as_its_start() -> None:
    s = Script()
    s.loading("a", R1)
    s.now += 1
    s.busy("b", R2)
    s.now += 1
    assert s.ask(R3, "c") == []  # claims a
    assert s.ask(R4, "b") == [s.forward(W2, "b", R4)]


def test_of_two_idle_models_the_one_that_ended_its_work_first_is_evicted() -> None:
    s = Script()
    s.busy("a", R1)
    s.now += 1
    s.busy("b", R2)
    s.now += 1
    s.finish(W2, R2)
    s.now += 1
    s.finish(W1, R1)
    assert s.ask(R3, "c") == [StopWorker(W2, "evicted for c")]


def test_a_load_after_a_death_is_shown_with_its_reason_and_another_is_not() -> None:
    s = Script()
    s.idle("a")
    s.unload(R9, "a")
    s.exits(W1)
    s.loading("a", R1)
    assert (s.state("a"), s.reason("a")) == ("loading", None)
    s.dies(W2)
    assert (s.state("a"), s.reason("a")) == ("loading", "signal SIGKILL")


# ---- requests that end their process --------------------------------------------------------------------------------


def test_a_cancelled_request_is_not_answered_again_when_it_is_blamed() -> None:
    s = Script(stall_timeout=20.0)
    s.busy("a", R1)
    assert s.wait(20.0, W1) == [KillWorker(W1, "hung: no progress for 20 s")]
    assert s.cancel(R1) == [Failed(R1, "cancelled")]
    assert s.dies(W1, intake=R1) == []
    assert s.model("a").deaths == 0


def test_refusals_that_are_over_are_forgotten_and_no_others() -> None:
    s = Script()
    worker_id = s.pinned("a")
    for request_id in (R1, R2):
        s.ask(request_id, "a")
        s.dies(worker_id, intake=request_id)
        worker_id = s.worker("a").worker_id
        s.connect(worker_id)
        s.ready(worker_id)
        answered = s.new_id("a")
        s.ask(answered, "a")
        s.finish(worker_id, answered)
        s.wait(400.0, worker_id)
    assert s.ask(R3, "a", origin=R2) == [Failed(R3, "worker_died")]
    assert len(s.model("a").refused) == 2
    s.wait(700.0, worker_id)
    s.ask(R4, "a")
    s.dies(worker_id, intake=R4)
    assert len(s.model("a").refused) == 1


def test_a_request_that_silences_its_process_is_blamed_too() -> None:
    s = Script(heartbeat_timeout=10.0)
    s.busy("a", R1)
    assert s.wait(10.0) == [KillWorker(W1, "no heartbeat for 10 s")]
    assert s.dies(W1, intake=R1) == [Failed(R1, "worker_died", "no heartbeat for 10 s")]
    assert s.model("a").deaths == 0


def test_a_request_is_refused_for_ten_minutes() -> None:
    s = Script()
    worker_id = s.pinned("a")
    s.ask(R1, "a")
    s.dies(worker_id, intake=R1)
    worker_id = s.worker("a").worker_id
    s.connect(worker_id)
    s.ready(worker_id)
    s.wait(599.9, worker_id)
    assert s.ask(R2, "a", origin=R1) == [Failed(R2, "worker_died")]
    s.wait(0.1, worker_id)
    assert s.ask(R3, "a", origin=R1) == [s.forward(worker_id, "a", R3)]


# ---- room ---------------------------------------------------------------------------------------------------------


def test_the_limit_of_a_model_that_is_not_loaded_counts_only_what_waits() -> None:
    s = Script(max_requests_per_model=1)
    assert s.ask(R1, "a") == [StartWorker(W1, spare=False)]


def test_a_refusal_names_only_pinned_models_that_take_room() -> None:
    s = Script(max_models=4, memory=300)
    s.pinned("a")
    s.idle("b")
    s.add_model("large", 250)
    s.add_model("huge", 250)
    s.send(ModelPinned("large", s.specs["large"]))  # finds no room itself
    [refused] = s.ask(R1, "huge")
    assert isinstance(refused, Fail)
    assert refused.failure.message.endswith("and these are pinned: a")


def test_a_refusal_without_pinned_models_names_none() -> None:
    s = Script()
    s.add_model("large", 2000)
    [refused] = s.ask(R1, "large")
    assert isinstance(refused, Fail)
    assert refused.failure.message.endswith("GiB and 2 models")


def test_the_room_of_a_draining_model_is_waited_for_and_no_other_is_evicted() -> None:
    s = Script()
    s.busy("a", R1)
    s.idle("b")
    s.unload(R9, "a")
    assert s.ask(R2, "c") == []
