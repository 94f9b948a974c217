"""Rule 5: a preload pins from the moment of asking. Unpinning, and pins that were there before."""

from broker.policy.actions import Reply, SavePins, StartWorker, StopWorker
from broker.policy.events import ModelPinned, ShutdownRequested
from broker.wire.failure import Code, Failure
from tests.broker.policy.script import R1, R2, R3, R4, W1, W2, W3, W4, Failed, Script, replied


def test_a_preload_pins_from_the_moment_of_asking() -> None:
    s = Script(max_models=1)
    assert s.load(R1, "a") == [SavePins(["a"]), StartWorker(W1, spare=False)]
    assert s.ask(R2, "b") == [Failed(R2, "insufficient_memory", "these are pinned: a")]
    s.connect(W1)
    assert s.ready(W1) == [s.loaded(R1, "a")]


def test_a_preload_that_waits_for_room_is_pinned_already() -> None:
    s = Script(max_models=1)
    s.busy("a", R1)
    assert s.load(R2, "b") == [SavePins(["b"])]
    assert s.state("b") == "queued"
    assert s.ask(R3, "c") == []
    assert s.finish(W1, R1)[1:] == [StopWorker(W1, "evicted for b")]
    assert s.exits(W1) == [StartWorker(W2, spare=False), Failed(R3, "insufficient_memory")]


def test_a_preload_of_a_loaded_model_just_pins_it() -> None:
    s = Script()
    s.idle("a")
    assert s.load(R1, "a") == [SavePins(["a"]), s.loaded(R1, "a")]
    assert s.load(R2, "a") == [s.loaded(R2, "a")]


def test_a_preload_of_a_busy_model_does_not_wait_for_its_work() -> None:
    s = Script()
    s.busy("a", R1)
    assert s.load(R2, "a") == [SavePins(["a"]), s.loaded(R2, "a")]


def test_two_preloads_are_one_load() -> None:
    s = Script()
    s.load(R1, "a")
    assert s.load(R2, "a") == []
    s.connect(W1)
    assert s.ready(W1) == [s.loaded(R1, "a"), s.loaded(R2, "a")]


def test_a_failed_preload_takes_its_pin_with_it() -> None:
    s = Script()
    s.load(R1, "a")
    s.connect(W1)
    assert s.load_fails(W1) == [Failed(R1, "load_failed"), SavePins([])]
    assert s.dies(W1, code=1) == []
    assert s.wait(60) == []


def test_a_failed_preload_leaves_the_pin_that_was_there_before() -> None:
    s = Script()
    s.send(ModelPinned("a", s.specs["a"]))
    s.load(R1, "a")
    s.connect(W1)
    assert s.load_fails(W1) == [Failed(R1, "load_failed")]
    assert s.dies(W1, code=1) == [StartWorker(W2, spare=False)]


def test_a_preload_that_succeeded_keeps_its_pin_when_a_later_load_fails() -> None:
    s = Script()
    s.pinned("a")
    s.dies(W1)
    s.connect(W2)
    assert s.load_fails(W2) == []
    assert s.dies(W2, code=1) == []
    assert s.wait(0.5) == [StartWorker(W3, spare=False)]


def test_so_does_a_preload_that_found_the_model_loaded() -> None:
    s = Script()
    s.idle("a")
    s.load(R1, "a")
    s.dies(W1)
    s.connect(W2)
    assert s.load_fails(W2) == []
    assert s.dies(W2, code=1) == []
    assert s.model("a").pinned


def test_unpin_leaves_the_process_and_lets_it_be_evicted() -> None:
    s = Script(max_models=1)
    s.pinned("a")
    assert s.unpin(R1, "a") == [SavePins([]), replied(R1, "a")]
    assert s.state("a") == "ready"
    assert s.ask(R2, "b") == [StopWorker(W1, "evicted for b")]


def test_unpin_of_what_is_not_pinned() -> None:
    s = Script()
    s.idle("a")
    assert s.unpin(R1, "a") == [Failed(R1, "not_loaded", "Model not pinned: a")]
    assert s.unpin(R2, "gone") == [Failed(R2, "not_loaded", "Model not pinned: gone")]


def test_unpin_while_a_preload_waits_lets_it_finish() -> None:
    s = Script()
    s.load(R1, "a")
    assert s.unpin(R2, "a") == [SavePins([]), replied(R2, "a")]
    s.connect(W1)
    answer = s.ready(W1)
    assert [a.body["pinned"] for a in answer if isinstance(a, Reply)] == [False]


# ---- pins of the settings and of the last run ---------------------------------------------------------------------


def test_pins_of_the_settings_are_loaded_at_once_in_their_order() -> None:
    s = Script(max_models=2)
    assert s.send(ModelPinned("b", s.specs["b"])) == [StartWorker(W1, spare=False)]
    assert s.send(ModelPinned("a", s.specs["a"])) == [StartWorker(W2, spare=False)]
    assert s.send(ModelPinned("a", s.specs["a"])) == []


def test_a_pin_that_does_not_fit_is_shown_as_failed_until_somebody_loads_it() -> None:
    s = Script(max_models=1)
    s.send(ModelPinned("a", s.specs["a"]))
    assert s.send(ModelPinned("b", s.specs["b"])) == []
    assert s.state("b") == "failed"
    assert "these are pinned: a" in str(s.reason("b"))
    assert s.ask(R1, "b") == [Failed(R1, "model_unavailable", "b has failed: b needs")]
    s.connect(W1)
    s.ready(W1)
    s.unload(R2, "a")
    assert s.exits(W1) == [replied(R2, "a")]
    assert s.load(R3, "b") == [StartWorker(W2, spare=False)]


def test_a_pin_of_a_model_that_is_gone_is_shown_as_failed_until_it_is_back() -> None:
    s = Script()
    problem = Failure(Code.MODEL_NOT_FOUND, "no model named 'gone' in /models")
    assert s.send(ModelPinned("gone", None, problem)) == []
    assert (s.state("gone"), s.reason("gone")) == ("failed", "no model named 'gone' in /models")
    assert s.load(R1, "gone") == [Failed(R1, "model_not_found")]
    s.add_model("gone", 100)
    assert s.ask(R2, "gone") == [Failed(R2, "model_unavailable")]
    assert s.load(R3, "gone") == [StartWorker(W1, spare=False)]


def test_a_pinned_model_that_lost_its_place_takes_it_back() -> None:
    s = Script(max_models=1)
    s.pinned("a")
    s.dies(W1)
    s.connect(W2)
    s.dies(W2)  # the second death: half a second of cooling down
    assert s.ask(R4, "b") == [StartWorker(W3, spare=False)]
    assert s.wait(0.5) == []
    s.connect(W3)
    assert s.ready(W3) == [StopWorker(W3, "evicted for a")]  # the pin is older than the request
    assert s.exits(W3) == [StartWorker(W4, spare=False), Failed(R4, "insufficient_memory", "these are pinned: a")]


def test_a_pin_is_answered_at_once_and_loads_the_model() -> None:
    s = Script()
    assert s.pin(R1, "a") == [SavePins(["a"]), replied(R1, "a"), StartWorker(W1, spare=False)]
    assert s.pin(R2, "a") == [replied(R2, "a")]  # pinned already: nothing is saved or started again
    s.connect(W1)
    s.ready(W1)
    assert s.wait(4000, W1) == []  # it never leaves


def test_a_pin_of_a_model_that_this_machine_lacks_is_refused() -> None:
    s = Script()
    assert s.pin(R1, "gone") == [Failed(R1, "model_not_found", "gone")]


def test_a_pin_of_a_model_that_runs_needs_no_files() -> None:
    s = Script()
    s.idle("a")
    del s.specs["a"]
    assert s.pin(R1, "a") == [SavePins(["a"]), replied(R1, "a")]


def test_a_pin_at_the_end_is_refused() -> None:
    s = Script()
    s.send(ShutdownRequested())
    assert s.pin(R1, "a")[0] == Failed(R1, "model_unavailable", "shutting down")
    assert not s.pins


def test_a_pin_is_the_next_chance_of_a_failed_model() -> None:
    s = Script()
    s.load(R1, "a")
    for worker_id in (W1, W2):
        s.dies(worker_id)
        s.wait(60)
    s.send(ModelPinned("b", None, Failure(Code.MODEL_NOT_FOUND, "no such folder")))
    assert s.state("b") == "failed"
    assert s.pin(R2, "b")[0] == replied(R2, "b")
    assert s.state("b") == "loading"


def test_a_pin_outlasts_the_load_that_fails() -> None:
    s = Script()
    s.load(R1, "a")
    assert s.pin(R2, "a") == [replied(R2, "a")]
    s.connect(W1)
    assert s.load_fails(W1) == [Failed(R1, "load_failed")]  # and no pin is taken back
    assert s.model("a").pinned


def test_a_pin_outlasts_the_unload_that_has_begun() -> None:
    s = Script()
    s.pinned("a")
    s.ask(R1, "a")
    s.unload(R2, "a")
    assert s.pin(R3, "a") == [replied(R3, "a")]
    assert s.finish(W1, R1)[1:] == [StopWorker(W1, "unload")]
    assert s.exits(W1) == [replied(R2, "a"), StartWorker(W2, spare=False)]
    assert s.model("a").pinned


def test_the_last_of_unload_pin_and_unload_counts() -> None:
    s = Script()
    s.pinned("a")
    s.ask(R1, "a")
    s.unload(R2, "a")
    s.pin(R3, "a")
    s.unload(R4, "a")
    assert SavePins([]) in s.finish(W1, R1)
    s.exits(W1)
    assert not s.model("a").pinned
