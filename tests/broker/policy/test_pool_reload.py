"""A model gets another process beside the one that serves it: who serves when, and what becomes of both."""

from dataclasses import replace

import pytest

from broker.policy.actions import Fail, ForgetPrompts, KillWorker, Reply, StartWorker, StopWorker
from broker.policy.budget import Hardware
from broker.policy.events import ForgetRequested, GatewayLeft, LimitsChanged, ReloadRequested, ShutdownRequested
from broker.policy.facts import RECYCLE_PAUSE_SECONDS
from broker.policy.pressure import Pressure
from broker.policy.snapshot import status
from broker.wire.failure import Code, Failure
from tests.broker.policy.script import R1, R2, R3, R4, R5, SIZE, START, W1, W2, W3, Failed, Script, replied
from tests.broker.policy.test_pool_pressure import short
from tests.broker.policy.test_pool_suspects import goes_on, sent
from tests.broker.policy.world_books import MIB


def reloading(**more: int) -> Script:
    """Model a is served by W1, where R1 has output; W2 loads to take its place, asked for by R2."""
    s = Script(**more)
    s.busy("a", R1)
    s.text(W1, R1)
    assert s.reload(R2, "a", options={"new": True}) == [StartWorker(W2, spare=False)]
    assert s.connect(W2) == [s.assign(W2, "a")]
    return s


def test_requests_stay_where_they_are_until_the_new_process_is_ready_and_new_ones_go_there() -> None:
    s = reloading()
    assert s.ask(R3, "a") == [s.forward(W1, "a", R3)], "nothing waits for a reload"
    assert s.ready(W2) == [replace(s.loaded(R2, "a", pinned=False))]
    assert s.ask(R4, "a") == [s.forward(W2, "a", R4)]
    s.finish(W1, R1)
    assert s.finish(W1, R3)[-1] == StopWorker(W1, "reload"), "it has ended what it had begun"
    assert s.state("a") == "ready"
    s.exits(W1)
    assert s.model("a").instances == [s.instance("a")]
    assert s.instance("a").spec.options == {"new": True}
    assert s.model("a").deaths == 0


def test_both_processes_count_and_are_shown() -> None:
    s = reloading()
    s.started(W2, 4712)
    entry = status(s.pool, s.now, START, 0.0)["models"][0]
    assert (entry["state"], entry["reason"], entry["size_bytes"]) == ("ready", "reload", 2 * SIZE)
    assert (entry["incoming"]["pid"], entry["incoming"]["state"], entry["outgoing"]) == (4712, "loading", None)
    s.ready(W2)
    entry = status(s.pool, s.now, START, 0.0)["models"][0]
    assert (entry["pid"], entry["in_flight"], entry["incoming"]) == (4712, 1, None)
    assert (entry["outgoing"]["state"], entry["outgoing"]["in_flight"]) == ("draining", 1)
    assert [a.shown.reason for a in s.announced][-2:] == ["reload", "reload: the process before it drains"]


def test_a_model_that_cannot_be_loaded_anew_stays_as_it_is() -> None:
    s = reloading()
    assert s.load_fails(W2) == [Failed(R2, Code.LOAD_FAILED, "a cannot be loaded: model.safetensors is broken")]
    s.exits(W2)
    assert s.ask(R3, "a") == [s.forward(W1, "a", R3)]
    assert s.instance("a").spec.options == {}
    assert (s.model("a").deaths, s.state("a"), s.reason("a")) == (0, "ready", None)


def test_both_processes_forget_their_prompts() -> None:
    s = reloading()
    s.ready(W2)
    request_id = s.new_id("a", admin=True)
    (action,) = s.send(ForgetRequested(request_id, "a"))
    assert isinstance(action, ForgetPrompts)
    assert sorted(action.worker_ids) == [W1, W2]


def test_a_new_process_that_dies_while_it_loads_harms_nobody() -> None:
    s = reloading()
    assert s.dies(W2) == [Failed(R2, Code.LOAD_FAILED, "signal SIGKILL")]
    assert (s.model("a").deaths, s.state("a")) == (0, "ready")
    assert s.reload(R3, "a") == [StartWorker(W3, spare=False)], "and may be tried again at once"


def test_files_that_are_broken_are_refused_with_the_reason() -> None:
    s = Script()
    s.idle("a")
    s.requests[R2] = s.requests[s.new_id("a", admin=True)]
    why = Failure(Code.LOAD_FAILED, "config.json is broken")
    assert s.send(ReloadRequested(R2, "a", False, None, why)) == [Fail(R2, why)]
    assert s.state("a") == "ready"


def test_what_is_not_loaded_cannot_be_reloaded() -> None:
    s = Script()
    assert s.reload(R1, "a") == [Failed(R1, Code.NOT_LOADED)]
    s.busy("b", R2)
    s.unload(R3, "b")
    assert s.reload(R4, "b") == [Failed(R4, Code.NOT_LOADED)], "nor what is being unloaded"


def test_a_model_that_loads_is_loaded_and_then_again() -> None:
    s = Script()
    s.loading("a", R1)
    assert s.reload(R2, "a") == []
    assert s.ready(W1) == [StartWorker(W2, spare=False), s.forward(W1, "a", R1)]


def test_those_who_ask_for_the_same_share_it_and_others_are_told_to_wait() -> None:
    s = reloading()
    assert s.reload(R3, "a") == []
    assert s.reload(R4, "a", options={"newer": True}) == [Failed(R4, Code.MODEL_IN_USE)]
    assert [a.request_id for a in s.ready(W2) if isinstance(a, Reply)] == [R2, R3]
    assert s.reload(R5, "a") == [], "the next one when the old process has gone"
    s.finish(W1, R1)
    assert s.exits(W1) == [StartWorker(W3, spare=False)]


def test_no_room_for_both_is_told_in_numbers() -> None:
    s = Script(memory=150)
    s.idle("a")
    why = "a needs 0.10 GiB beside the process that serves; 0.05 GiB of 0.15 are free; allow_gap ends"
    assert s.reload(R2, "a") == [Failed(R2, Code.INSUFFICIENT_MEMORY, why)]
    assert s.state("a") == "ready"


def test_a_reload_takes_no_place_of_another_model_and_makes_none_leave() -> None:
    s = Script(memory=250, max_models=2)
    s.idle("b")
    s.idle("a")
    assert s.reload(R2, "a") == [Failed(R2, Code.INSUFFICIENT_MEMORY)]
    s = Script(memory=300, max_models=1)
    s.idle("a")
    assert s.reload(R2, "a") == [StartWorker(W2, spare=False)]


def test_it_waits_for_those_who_have_waited_longer_for_the_same_room() -> None:
    s = Script(memory=350)
    s.add_model("d", 200)
    s.busy("b", R3)
    s.busy("a", R1)
    assert s.ask(R4, "d") == []
    assert s.reload(R2, "a") == []
    s.finish(W1, R3)
    assert s.exits(W1) == [StartWorker(W3, spare=False), Failed(R2, Code.INSUFFICIENT_MEMORY)]


def test_with_a_gap_the_old_process_drains_first_and_requests_wait_for_the_new_one() -> None:
    s = Script(memory=150)
    s.busy("a", R1)
    s.text(W1, R1)
    assert s.reload(R2, "a", allow_gap=True, options={"new": True}) == []
    assert (s.state("a"), s.reason("a")) == ("draining", "reload")
    assert s.ask(R3, "a") == []
    assert s.finish(W1, R1)[-1] == StopWorker(W1, "reload")
    assert s.exits(W1) == [StartWorker(W2, spare=False)]
    s.connect(W2)
    assert s.ready(W2) == [s.loaded(R2, "a", pinned=False), s.forward(W2, "a", R3)]
    assert s.instance("a").spec.options == {"new": True}


def test_a_gap_for_what_can_never_fit_is_refused() -> None:
    s = Script(memory=150)
    s.add_model("f", 100, fingerprint="files of f")
    s.idle("f")
    much = {"weight_bytes": 1000 * MIB, "fingerprint": "new"}
    assert s.reload(R2, "f", allow_gap=True, **much) == [Failed(R2, Code.INSUFFICIENT_MEMORY)]
    assert s.state("f") == "ready"


def test_if_the_old_process_dies_its_requests_go_on_in_the_new_one() -> None:
    s = reloading()
    s.ask(R3, "a")
    s.dies(W1)
    assert s.state("a") == "loading"
    assert (s.worker("a").worker_id, s.model("a").deaths) == (W2, 0)
    assert s.ready(W2) == [s.loaded(R2, "a", pinned=False), s.forward(W2, "a", R3)]


def test_if_the_draining_process_dies_its_requests_go_on_in_the_new_one_at_once() -> None:
    s = reloading()
    s.ask(R3, "a")
    s.ready(W2)
    assert s.forward(W2, "a", R3) in s.dies(W1)
    assert (s.state("a"), s.model("a").deaths) == ("ready", 0)


def test_if_the_new_process_dies_after_it_has_taken_over_a_third_one_comes_while_the_old_one_drains() -> None:
    s = reloading()
    s.ready(W2)
    s.ask(R3, "a")
    assert s.dies(W2) == [StartWorker(W3, spare=False)]
    s.connect(W3)
    assert s.ready(W3) == [s.forward(W3, "a", R3)]
    assert s.finish(W1, R1)[-1] == StopWorker(W1, "reload")


def test_a_kill_kills_both_and_is_answered_when_both_have_gone() -> None:
    s = reloading()
    killed = s.kill(R3, "a")
    assert {a.worker_id for a in killed if isinstance(a, KillWorker)} == {W1, W2}
    assert Failed(R2, Code.LOAD_FAILED, "killed by an administrator") in killed
    assert not [a for a in s.dies(W1) if isinstance(a, Reply)]
    assert [a.request_id for a in s.dies(W2) if isinstance(a, Reply)] == [R3]


def test_an_unload_ends_the_reload_and_waits_for_all_that_runs() -> None:
    s = reloading()
    actions = s.unload(R3, "a")
    assert Failed(R2, Code.MODEL_UNAVAILABLE, "unloaded before it was ready") in actions
    assert KillWorker(W2, "unloaded before it was ready") in actions
    s.dies(W2)
    assert s.finish(W1, R1)[-1] == StopWorker(W1, "unload")
    assert s.exits(W1) == [replied(R3, "a")]


def test_an_unload_waits_for_the_process_that_drains_or_kills_it_by_force() -> None:
    s = reloading()
    s.ready(W2)
    assert s.unload(R3, "a", 2.0, force=True) == []
    killed = [a.worker_id for a in s.wait(2.0, W1, W2) if isinstance(a, KillWorker)]
    assert sorted(killed) == [W1, W2]
    s.dies(W1)
    assert s.dies(W2)[-1] == replied(R3, "a")


def test_a_caller_that_leaves_does_not_end_the_reload() -> None:
    s = reloading()
    assert s.cancel(R2) == [Failed(R2, Code.CANCELLED)]
    assert not [a for a in s.ready(W2) if isinstance(a, Reply)]
    assert s.worker("a").worker_id == W2
    s = reloading()
    assert Failed(R2, Code.CANCELLED) in s.send(GatewayLeft(b"gatewayA"))


def test_the_shutdown_ends_both() -> None:
    s = reloading()
    actions = s.send(ShutdownRequested())
    assert Failed(R2, Code.MODEL_UNAVAILABLE) in actions
    assert {a.worker_id for a in actions if isinstance(a, StopWorker)} == {W1, W2}


def test_a_model_stays_as_long_as_was_stated_to_the_process_before() -> None:
    s = Script(keep_alive=5.0)
    s.ask(R1, "a", keep_alive=100.0)
    s.connect(W1)
    s.ready(W1)
    s.finish(W1, R1)
    s.reload(R2, "a")
    s.connect(W2)
    s.ready(W2)
    s.exits(W1)
    assert s.wait(50.0, W2) == []


def test_a_process_is_recycled_after_so_many_requests() -> None:
    s = Script()
    s.specs["a"] = replace(s.specs["a"], recycle_after_requests=2)
    s.busy("a", R1)
    s.ask(R2, "a")
    assert StartWorker(W2, spare=False) not in s.finish(W1, R1)
    assert StartWorker(W2, spare=False) in s.finish(W1, R2)
    s.connect(W2)
    assert s.ready(W2) == [StopWorker(W1, "reload")]
    assert s.ask(R3, "a") == [s.forward(W2, "a", R3)]


def test_a_process_that_has_grown_is_recycled_and_one_that_has_always_been_so_large_is_not() -> None:
    s = Script()
    s.specs["a"] = replace(s.specs["a"], recycle_over_bytes=150 * MIB)
    s.idle("a")
    assert s.sample(W1, 140) == []
    assert s.sample(W1, 160) == [StartWorker(W2, spare=False)]
    s = Script()
    s.specs["a"] = replace(s.specs["a"], recycle_over_bytes=50 * MIB)
    s.idle("a")
    assert s.sample(W1, 160) == []


def test_without_room_for_both_a_process_is_recycled_when_it_is_idle() -> None:
    s = Script(memory=150)
    s.specs["a"] = replace(s.specs["a"], recycle_after_requests=1)
    s.busy("a", R1)
    s.ask(R2, "a")
    assert StopWorker(W1, "reload") not in s.finish(W1, R1)
    assert s.finish(W1, R2)[-1] == StopWorker(W1, "reload")
    assert s.exits(W1) == []
    assert s.ask(R3, "a") == [StartWorker(W2, spare=False)]


def test_a_pinned_model_comes_back_at_once_where_there_is_no_room_for_both() -> None:
    s = Script(memory=150)
    s.specs["a"] = replace(s.specs["a"], recycle_after_requests=1)
    s.pinned("a")
    s.ask(R2, "a")
    assert s.finish(W1, R2)[-1] == StopWorker(W1, "reload")
    assert s.exits(W1) == [StartWorker(W2, spare=False)]


def test_recycling_that_fails_is_tried_again_later() -> None:
    s = Script()
    s.specs["a"] = replace(s.specs["a"], recycle_after_requests=1)
    s.idle("a")
    s.connect(W2)
    s.load_fails(W2)
    s.exits(W2)
    assert s.wait(RECYCLE_PAUSE_SECONDS - 1, W1) == []
    assert s.wait(1.0, W1) == [StartWorker(W3, spare=False)]


def test_nothing_is_recycled_while_the_system_is_short_of_memory() -> None:
    s = Script(memory=1000)
    s.specs["a"] = replace(s.specs["a"], recycle_after_requests=1)
    s.busy("a", R1)
    short(s, Pressure.CRITICAL)
    assert StartWorker(W2, spare=False) not in s.finish(W1, R1)
    assert StartWorker(W2, spare=False) in short(s, Pressure.NORMAL)


def test_a_process_that_dies_before_it_is_recycled_is_as_good_as_new() -> None:
    s = Script()
    s.specs["a"] = replace(s.specs["a"], recycle_after_requests=1)
    s.idle("a")
    s.dies(W1)
    assert s.state("a") == "loading", "the one that was to take its place"
    s.connect(W2)
    s.ready(W2)
    assert s.instance("a").served == 0


def test_a_pinned_model_stays_pinned() -> None:
    s = Script()
    s.pinned("a")
    s.reload(R2, "a")
    s.connect(W2)
    assert s.ready(W2) == [StopWorker(W1, "reload"), s.loaded(R2, "a")]
    s.exits(W1)
    assert s.model("a").pinned
    assert s.wait(10_000, W2) == []


def test_a_model_that_could_not_be_loaded_is_not_loaded() -> None:
    s = Script()
    s.loading("a", R1)
    s.load_fails(W1)
    assert s.reload(R2, "a") == [Failed(R2, Code.NOT_LOADED)]
    s.exits(W1)
    assert s.reload(R3, "a") == [Failed(R3, Code.NOT_LOADED)]


def test_a_request_that_may_have_killed_the_old_process_goes_on_alone_in_the_new_one() -> None:
    s = Script()
    s.idle("a")
    for request_id in (R1, R3):
        s.ask(request_id, "a", resumes=2)
    s.text(W1, R1)
    s.reload(R2, "a")
    s.connect(W2)
    s.ready(W2)
    assert sent(s.dies(W1)) == [], "R1 goes first, and waits for its gateway"
    assert goes_on(s, R1) == [R1]
    assert sent(s.text(W2, R1)) == [R3], "the suspect is alone"
    assert Failed(R3, Code.WORKER_DIED) in s.dies(W2)
    assert s.model("a").deaths == 0, "it is known which request did that"
    goes_on(s, R1)
    s.connect(W3)
    assert sent(s.ready(W3)) == [R1]


def test_limits_that_have_changed_count_at_once() -> None:
    s = Script(memory=150)
    s.idle("a")
    assert s.reload(R2, "a") == [Failed(R2, Code.INSUFFICIENT_MEMORY)]
    s.limits = replace(s.limits, machine=Hardware(0, 500 * MIB))
    s.send(LimitsChanged(s.limits))
    assert s.reload(R3, "a") == [StartWorker(W2, spare=False)]


@pytest.mark.parametrize("dies", [W1, W2])
def test_a_rank_that_dies_takes_its_own_instance_and_not_the_other_one(dies: str) -> None:
    s = Script()
    s.add_model("r", 100, ranks=2)
    s.load(R1, "r")
    for worker_id in (W1, W2):
        s.connect(worker_id)
    for worker_id in (W1, W2):
        s.ready(worker_id)
    s.reload(R2, "r")
    killed = {a.worker_id for a in s.dies(dies) if isinstance(a, KillWorker)}
    assert killed == {W1, W2} - {dies}
    assert s.worker("r").worker_id == W3
