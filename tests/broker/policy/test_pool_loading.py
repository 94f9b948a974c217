"""Rules 1 to 3: one load per model, who may be evicted, and room that is reserved before a load."""

from broker.policy.actions import ForwardOutputs, KillWorker, SavePins, StartWorker, StopWorker
from tests.broker.policy.script import R1, R2, R3, R9, W1, W2, W3, Failed, Script
from tests.broker.policy.world_books import MIB

# ---- 1: one load per model ----------------------------------------------------------------------------------------


def test_the_life_of_a_request() -> None:
    s = Script()
    assert s.ask(R1, "a") == [StartWorker(W1, spare=False)]
    assert s.started(W1, 4711) == []
    assert s.connect(W1) == [s.assign(W1, "a")]
    assert s.progress(W1, "weights", 0.5) == []
    assert s.ready(W1) == [s.forward(W1, "a", R1)]
    assert s.text(W1, R1) == [ForwardOutputs(W1, [b"frames"])]
    assert s.finish(W1, R1) == [ForwardOutputs(W1, [b"frames"])]
    assert s.ask(R2, "a") == [s.forward(W1, "a", R2)]


def test_its_states_as_people_see_them() -> None:
    s = Script(max_models=1)
    s.busy("b", R9)
    s.ask(R1, "a")
    s.finish(W1, R9)
    s.exits(W1)
    s.connect(W2)
    s.progress(W2, "weights", 0.5)
    s.ready(W2)
    s.unload(R2, "a")
    s.finish(W2, R1)
    s.exits(W2)
    seen = [(a.shown.state, a.shown.reason, a.shown.stage, a.shown.fraction) for a in s.announced if a.model_id == "a"]
    assert seen == [
        ("queued", "waiting for room", None, None),
        ("loading", None, None, None),
        ("loading", None, "weights", 0.5),
        ("ready", None, None, None),
        ("draining", "unload", None, None),
        ("stopping", "unload", None, None),
        ("unloaded", "unload", None, None),
    ]


def test_since_moves_with_the_state_and_not_with_the_stage() -> None:
    s = Script()
    s.loading("a", R1)
    s.now += 3
    s.progress(W1, "weights", 0.5)
    assert s.model("a").since == s.now - 3
    s.ready(W1)
    assert s.model("a").since == s.now


def test_everyone_who_asks_while_it_loads_joins_the_load() -> None:
    s = Script()
    s.loading("a", R1)
    assert s.ask(R2, "a") == []
    assert s.load(R3, "a") == [SavePins(["a"])]
    assert s.ready(W1) == [s.loaded(R3, "a"), s.forward(W1, "a", R1), s.forward(W1, "a", R2)]


def test_if_the_load_fails_all_of_them_get_the_same_error() -> None:
    s = Script()
    s.loading("a", R1)
    s.ask(R2, "a")
    s.load(R3, "a")
    says = "a cannot be loaded: model.safetensors is broken"
    assert s.load_fails(W1) == [
        Failed(R1, "load_failed", says, retryable=False),
        Failed(R2, "load_failed", says, retryable=False),
        Failed(R3, "load_failed", says, retryable=False),
        SavePins([]),
    ]
    assert s.dies(W1, code=1) == []
    assert s.reason("a") == "load failed: model.safetensors is broken"


def test_who_asks_after_the_load_has_failed_gets_a_new_one() -> None:
    s = Script()
    s.loading("a", R1)
    s.load_fails(W1)
    assert s.ask(R2, "a") == []
    assert s.dies(W1, code=1) == [StartWorker(W2, spare=False)]


def test_a_client_that_leaves_does_not_abort_the_load() -> None:
    s = Script()
    s.loading("a", R1)
    s.load(R2, "a")
    assert s.cancel(R1) == [Failed(R1, "cancelled")]
    assert s.cancel(R2) == [Failed(R2, "cancelled")]
    assert s.ready(W1) == []
    assert s.state("a") == "ready"
    assert s.model("a").pinned


def test_a_model_that_nobody_knows_starts_nothing() -> None:
    s = Script()
    assert s.ask(R1, "gone") == [Failed(R1, "model_not_found", "no model named 'gone'")]
    assert s.load(R2, "gone") == [Failed(R2, "model_not_found", "no model named 'gone'")]


# ---- 2: who may be evicted, and when the successor starts ---------------------------------------------------------


def test_the_least_recently_used_leaves() -> None:
    s = Script()
    s.idle("a")
    s.now += 1
    s.idle("b")
    s.now += 1
    s.ask(R1, "a")
    s.finish(W1, R1)
    assert s.ask(R2, "c") == [StopWorker(W2, "evicted for c")]


def test_a_model_that_has_never_been_used_counts_from_its_load() -> None:
    s = Script()
    s.pinned("a")
    s.unpin(R9, "a")
    s.now += 1
    s.idle("b")
    assert s.ask(R1, "c") == [StopWorker(W1, "evicted for c")]


def test_the_successor_starts_when_the_victim_has_exited() -> None:
    s = Script(max_models=1)
    s.idle("a")
    assert s.ask(R1, "b") == [StopWorker(W1, "evicted for b")]
    assert s.wait(1, W1) == []
    assert s.exits(W1) == [StartWorker(W2, spare=False)]
    assert s.reason("a") == "evicted for b"


def test_as_many_leave_as_are_needed_and_the_load_waits_for_the_last() -> None:
    s = Script(max_models=3)
    s.add_model("large", 850)
    s.idle("a")
    s.idle("b")
    assert s.ask(R1, "large") == [StopWorker(W1, "evicted for large")]
    assert s.ask(R2, "large") == []
    assert s.exits(W1) == [StartWorker(W3, spare=False)]

    s = Script(max_models=3)
    s.add_model("huge", 950)
    s.idle("a")
    s.idle("b")
    assert s.ask(R1, "huge") == [StopWorker(W1, "evicted for huge"), StopWorker(W2, "evicted for huge")]
    assert s.exits(W1) == []
    assert s.exits(W2) == [StartWorker(W3, spare=False)]


def test_a_busy_model_is_never_evicted() -> None:
    s = Script()
    s.busy("a", R1)
    s.now += 1
    s.idle("b")
    assert s.ask(R2, "c") == [StopWorker(W2, "evicted for c")]


def test_a_loading_model_is_never_evicted() -> None:
    s = Script(max_models=1)
    s.loading("a", R1)
    assert s.ask(R2, "b") == []
    assert s.cancel(R1) == [Failed(R1, "cancelled")]  # now nobody wants it, and still it is not cut short
    assert s.ready(W1) == [StopWorker(W1, "evicted for b")]


def test_a_pinned_model_is_never_evicted() -> None:
    s = Script()
    s.pinned("a")
    s.now += 1
    s.idle("b")
    assert s.ask(R1, "c") == [StopWorker(W2, "evicted for c")]


def test_a_draining_model_is_waited_for_and_not_evicted() -> None:
    s = Script(max_models=1)
    s.busy("a", R1)
    s.unload(R9, "a")
    assert s.ask(R2, "b") == []
    s.finish(W1, R1)
    assert StartWorker(W2, spare=False) in s.exits(W1)


def test_a_victim_that_does_not_exit_is_killed_and_still_waited_for() -> None:
    s = Script(max_models=1, stop_grace=2.0)
    s.idle("a")
    s.ask(R1, "b")
    assert s.wait(1.9, W1) == []
    assert s.wait(0.1, W1) == [KillWorker(W1, "did not exit when asked")]
    assert s.wait(60) == []
    assert s.dies(W1) == [StartWorker(W2, spare=False)]


# ---- 3: reserve before loading ------------------------------------------------------------------------------------


def test_a_model_that_can_never_fit_is_refused_at_once_and_nobody_is_evicted_for_it() -> None:
    s = Script(memory=1024)
    s.add_model("big", 2048)
    s.idle("a")
    says = "big needs 2.00 GiB and one place; the limits are 1.00 GiB and 2 models"
    assert s.ask(R1, "big") == [Failed(R1, "insufficient_memory", says, retryable=False)]
    assert s.load(R2, "big") == [SavePins(["big"]), Failed(R2, "insufficient_memory", says), SavePins([])]
    assert s.state("a") == "ready"
    assert s.state("big") == "unloaded"


def test_what_is_pinned_can_make_another_model_impossible() -> None:
    s = Script()
    s.pinned("a")
    s.pinned("b")
    assert s.ask(R1, "c") == [Failed(R1, "insufficient_memory", "and these are pinned: a, b")]


def test_a_model_that_loads_has_its_memory_reserved() -> None:
    s = Script(memory=1000, max_models=4)
    s.add_model("first", 600)
    s.add_model("second", 600)
    s.loading("first", R1)
    assert s.ask(R2, "second") == []
    assert s.ask(R3, "a") == []  # there would be room, but nobody overtakes the head of the queue
    assert s.state("second") == "queued"


def test_a_stopping_model_holds_its_memory() -> None:
    s = Script(memory=1000, max_models=4)
    s.add_model("first", 600)
    s.add_model("second", 600)
    s.pinned("first")
    s.unload(R9, "first")
    assert s.ask(R1, "second") == []
    assert StartWorker(W2, spare=False) in s.exits(W1)


def test_the_measured_size_counts_from_then_on_and_for_the_next_load() -> None:
    s = Script(memory=1000)
    s.loading("a", R1)
    assert s.instance("a").reserved_bytes == 100 * MIB
    s.ready(W1, measured=700)
    assert s.instance("a").reserved_bytes == 700 * MIB
    s.finish(W1, R1)
    s.unload(R9, "a")
    s.exits(W1)

    s.add_model("b", 400)
    s.busy("b", R2)
    assert s.ask(R3, "a") == []
    assert s.state("a") == "queued"
    assert s.finish(W2, R2)[1:] == [StopWorker(W2, "evicted for a")]
    s.exits(W2)
    assert s.instance("a").reserved_bytes == 700 * MIB


def test_the_estimate_is_a_factor_over_the_weight_files() -> None:
    s = Script(estimate_factor=2.0)
    s.add_model("x", 50)
    s.ask(R1, "x")
    assert s.specs["x"].weight_bytes == 25 * MIB
    assert s.instance("x").reserved_bytes == 50 * MIB
