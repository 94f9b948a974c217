"""Rule 6: unload drains. Rule 7: kill kills, in any phase."""

from collections.abc import Callable

import pytest

from broker.policy.actions import ForwardOutputs, KillWorker, Reply, SavePins, StartWorker, StopWorker
from tests.broker.policy.script import R1, R2, R3, R4, R8, R9, W1, W2, W3, Failed, Script, replied

ADMIN = "killed by an administrator"


def test_unload_of_an_idle_model_ends_its_process_and_is_answered_when_it_has_exited() -> None:
    s = Script()
    s.idle("a")
    assert s.unload(R1, "a") == [StopWorker(W1, "unload")]
    assert s.state("a") == "stopping"
    assert s.exits(W1) == [replied(R1, "a")]
    assert s.state("a") == "unloaded"


def test_unload_removes_the_pin() -> None:
    s = Script()
    s.pinned("a")
    assert s.unload(R1, "a") == [SavePins([]), StopWorker(W1, "unload")]
    assert s.exits(W1) == [replied(R1, "a")]


def test_unload_waits_for_what_runs_and_gives_it_no_new_work() -> None:
    s = Script()
    s.busy("a", R1)
    assert s.unload(R9, "a") == []
    assert s.state("a") == "draining"
    assert s.ask(R2, "a") == []
    assert s.finish(W1, R1) == [ForwardOutputs(W1, [b"frames"]), StopWorker(W1, "unload")]
    assert s.exits(W1) == [replied(R9, "a"), StartWorker(W2, spare=False)]
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "a", R2)]


def test_a_drain_that_takes_too_long_ends_with_an_error_and_the_model_stays() -> None:
    s = Script(drain_timeout=30.0)
    s.pinned("a")
    s.ask(R1, "a")
    s.unload(R9, "a")
    s.ask(R2, "a")
    assert s.wait(29.9, W1) == []
    says = "a still has 2 requests; it stays loaded (force=true would kill it)"
    assert s.wait(0.1, W1) == [Failed(R9, "drain_timeout", says), s.forward(W1, "a", R2)]
    assert s.state("a") == "ready"
    assert s.model("a").pinned


def test_unload_by_force_kills_after_the_drain_timeout_and_replays_nothing() -> None:
    s = Script(drain_timeout=30.0)
    s.busy("a", R1)
    assert s.unload(R9, "a", force=True) == []
    assert s.wait(29.9, W1) == []
    assert s.wait(0.1, W1) == [KillWorker(W1, "unload by force"), Failed(R1, "worker_died", "unload by force")]
    assert s.dies(W1) == [replied(R9, "a")]
    assert s.model("a").deaths == 0


def test_the_caller_may_name_the_timeout() -> None:
    s = Script(drain_timeout=30.0)
    s.busy("a", R1)
    s.unload(R9, "a", timeout=3.0)
    assert s.wait(2.9, W1) == []
    assert s.wait(0.1, W1) == [Failed(R9, "drain_timeout")]


@pytest.mark.parametrize("force", [False, True])
def test_a_timeout_of_zero_decides_at_once(force: bool) -> None:
    s = Script()
    s.busy("a", R1)
    expected: list[object] = [Failed(R9, "drain_timeout", "a still has 1 requests")]
    if force:
        expected = [KillWorker(W1, "unload by force"), Failed(R1, "worker_died")]
    assert s.unload(R9, "a", timeout=0.0, force=force) == expected


def test_a_timeout_of_zero_is_enough_for_an_idle_model() -> None:
    s = Script()
    s.idle("a")
    assert s.unload(R9, "a", timeout=0.0) == [StopWorker(W1, "unload")]


def test_a_second_unload_can_only_hasten_the_first() -> None:
    s = Script(drain_timeout=30.0)
    s.busy("a", R1)
    s.unload(R8, "a", timeout=5.0, force=True)
    assert s.unload(R9, "a") == []
    assert s.wait(5, W1) == [KillWorker(W1, "unload by force"), Failed(R1, "worker_died")]
    assert s.dies(W1) == [replied(R8, "a"), replied(R9, "a")]

    s = Script(drain_timeout=30.0)
    s.busy("a", R1)
    s.unload(R8, "a")
    assert s.unload(R9, "a", timeout=0.0) == [Failed(R8, "drain_timeout"), Failed(R9, "drain_timeout")]


def test_unload_while_loading_ends_the_load() -> None:
    s = Script()
    s.load(R1, "a")
    s.connect(W1)
    says = "a was unloaded before it was ready"
    assert s.unload(R9, "a") == [
        Failed(R1, "model_unavailable", says),
        KillWorker(W1, "unload"),
        SavePins([]),
    ]
    assert s.dies(W1) == [replied(R9, "a")]
    assert s.model("a").deaths == 0
    assert s.wait(60) == []


def test_unload_while_loading_serves_who_was_there_before_and_nobody_else() -> None:
    s = Script()
    s.loading("a", R1)
    assert s.unload(R9, "a") == []
    assert s.ask(R2, "a") == []
    assert s.ready(W1) == [s.forward(W1, "a", R1)]
    assert s.finish(W1, R1)[1:] == [StopWorker(W1, "unload")]
    assert s.exits(W1) == [replied(R9, "a"), StartWorker(W2, spare=False)]
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "a", R2)]


def test_unload_while_loading_ends_when_the_last_who_waits_leaves() -> None:
    s = Script()
    s.loading("a", R1)
    s.unload(R9, "a")
    assert s.cancel(R1) == [Failed(R1, "cancelled"), KillWorker(W1, "unload")]
    assert s.dies(W1) == [replied(R9, "a")]


def test_unload_while_loading_and_the_load_fails() -> None:
    s = Script()
    s.loading("a", R1)
    s.unload(R9, "a")
    assert s.load_fails(W1) == [Failed(R1, "load_failed")]
    assert s.dies(W1, code=1) == [replied(R9, "a")]


def test_a_load_that_is_asked_for_during_the_drain_comes_after_it() -> None:
    s = Script()
    s.pinned("a")
    s.ask(R1, "a")
    s.unload(R9, "a")
    assert s.load(R2, "a") == []
    assert s.finish(W1, R1)[1:] == [StopWorker(W1, "unload")]
    assert s.exits(W1) == [replied(R9, "a"), StartWorker(W2, spare=False)]
    s.connect(W2)
    assert s.ready(W2) == [s.loaded(R2, "a")]
    assert s.model("a").pinned


def test_unload_of_what_stops_already_waits_for_the_exit() -> None:
    s = Script(max_models=1)
    s.idle("a")
    s.ask(R1, "b")
    assert s.unload(R9, "a") == []
    assert s.exits(W1) == [replied(R9, "a"), StartWorker(W2, spare=False)]


def test_unload_of_a_pinned_model_that_is_being_killed_takes_its_pin() -> None:
    s = Script()
    s.pinned("a")
    s.kill(R1, "a")
    assert s.unload(R9, "a") == [SavePins([])]
    assert s.dies(W1) == [replied(R9, "a"), Reply(R1, {"model_id": "a", "pid": None})]


def test_unload_of_a_pinned_model_without_a_process_just_removes_the_pin() -> None:
    s = Script()
    s.pinned("a")
    s.dies(W1)
    s.connect(W2)
    s.dies(W2)
    assert s.state("a") == "cooldown"
    assert s.unload(R1, "a") == [SavePins([]), replied(R1, "a")]
    assert s.wait(60) == []


def test_unload_of_a_preload_that_waits_for_room() -> None:
    s = Script(max_models=1)
    s.busy("a", R1)
    s.load(R2, "b")
    assert s.unload(R9, "b") == [Failed(R2, "model_unavailable"), SavePins([]), replied(R9, "b")]
    assert s.finish(W1, R1) == [ForwardOutputs(W1, [b"frames"])]


def test_unload_of_what_is_not_loaded() -> None:
    s = Script(max_models=1)
    assert s.unload(R1, "a") == [Failed(R1, "not_loaded", "Model not loaded: a")]
    s.busy("a", R2)
    s.ask(R3, "b")
    assert s.unload(R4, "b") == [Failed(R4, "not_loaded", "Model not loaded: b")]
    assert s.state("b") == "queued"


def test_a_worker_that_dies_in_a_drain_ends_it() -> None:
    s = Script()
    s.pinned("a")
    s.ask(R1, "a")
    s.text(W1, R1)
    s.unload(R9, "a")
    assert s.dies(W1) == [Failed(R1, "worker_died"), SavePins([]), replied(R9, "a")]
    assert s.wait(60) == []


def test_a_client_that_no_longer_waits_for_an_unload_does_not_stop_it() -> None:
    s = Script()
    s.busy("a", R1)
    s.unload(R9, "a")
    assert s.cancel(R9) == [Failed(R9, "cancelled")]
    assert s.finish(W1, R1)[1:] == [StopWorker(W1, "unload")]
    assert s.exits(W1) == []


# ---- 7: kill ------------------------------------------------------------------------------------------------------


PHASES: dict[str, Callable[[Script], object]] = {
    "starting": lambda s: s.ask(R1, "a"),
    "loading": lambda s: s.loading("a", R1),
    "idle": lambda s: s.idle("a"),
    "prefill": lambda s: s.busy("a", R1),
    "decode": lambda s: (s.busy("a", R1), s.text(W1, R1)),
    "draining": lambda s: (s.busy("a", R1), s.unload(R2, "a")),
    "stopping": lambda s: (s.idle("a"), s.unload(R2, "a")),
    "failing": lambda s: (s.loading("a", R1), s.load_fails(W1)),
}


@pytest.mark.parametrize("phase", PHASES)
def test_kill_kills_in_any_phase_and_is_answered_when_the_process_has_exited(phase: str) -> None:
    s = Script()
    PHASES[phase](s)
    s.started(W1, 4711)
    assert s.kill(R9, "a")[0] == KillWorker(W1, ADMIN)
    assert s.state("a") == "stopping"
    assert Reply(R9, {"model_id": "a", "pid": 4711}) in s.dies(W1)
    assert s.model("a").deaths == 0


def test_a_killed_worker_is_killed_once() -> None:
    s = Script()
    s.idle("a")
    s.started(W1, 4711)
    assert s.kill(R1, "a") == [KillWorker(W1, ADMIN)]
    assert s.kill(R2, "a") == []
    assert s.dies(W1) == [Reply(r, {"model_id": "a", "pid": 4711}) for r in (R1, R2)]


def test_requests_without_output_are_replayed_after_a_kill_and_the_others_end_at_once() -> None:
    s = Script()
    s.busy("a", R1)
    s.ask(R2, "a")
    s.text(W1, R1)
    assert s.kill(R9, "a") == [KillWorker(W1, ADMIN), Failed(R1, "worker_died", ADMIN, retryable=True)]
    assert s.dies(W1) == [Reply(R9, {"model_id": "a", "pid": None}), StartWorker(W2, spare=False)]
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "a", R2)]


def test_who_waits_for_a_load_waits_for_the_next_after_a_kill() -> None:
    s = Script()
    s.loading("a", R1)
    s.load(R2, "a")
    s.kill(R9, "a")
    assert s.dies(W1)[1:] == [StartWorker(W2, spare=False)]
    s.connect(W2)
    assert s.ready(W2) == [s.loaded(R2, "a"), s.forward(W2, "a", R1)]


def test_a_pinned_model_comes_back_after_every_kill_and_never_cools_down() -> None:
    s = Script()
    s.pinned("a")
    for n in range(1, 8):
        worker_id = s.worker("a").worker_id
        s.kill(b"gatewayAkill%04d" % n, "a")
        assert s.dies(worker_id)[1:] == [StartWorker(f"w{n + 1}-test", spare=False)]
        s.connect(f"w{n + 1}-test")
    assert s.model("a").deaths == 0
    assert s.model("a").restarts == 0


def test_any_other_model_comes_back_with_the_next_request() -> None:
    s = Script()
    s.idle("a")
    s.kill(R9, "a")
    assert s.dies(W1) == [Reply(R9, {"model_id": "a", "pid": None})]
    assert s.wait(60) == []
    assert s.ask(R1, "a") == [StartWorker(W2, spare=False)]


def test_kill_touches_no_other_model() -> None:
    s = Script()
    s.busy("a", R1)
    s.busy("b", R2)
    s.kill(R9, "a")
    s.dies(W1)
    assert s.text(W2, R2) == [ForwardOutputs(W2, [b"frames"])]
    assert s.finish(W2, R2) == [ForwardOutputs(W2, [b"frames"])]
    assert W3 in s.workers


def test_kill_of_what_has_no_process() -> None:
    s = Script()
    assert s.kill(R1, "a") == [Failed(R1, "not_loaded", "Model not loaded: a")]
    s.idle("a")
    s.unload(R2, "a")
    s.exits(W1)
    assert s.kill(R3, "a") == [Failed(R3, "not_loaded", "Model not loaded: a")]
