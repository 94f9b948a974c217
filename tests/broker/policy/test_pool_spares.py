"""Warm spares: processes that have done their imports and wait for a model."""

from broker.policy.actions import KillWorker, StartWorker, StopWorker
from broker.policy.events import TimePassed
from broker.policy.facts import SPARE_DELAY_SECONDS
from tests.broker.policy.script import R1, R2, R3, W1, W2, W3, W4, Script


def with_spare() -> Script:
    """A pool whose spare has done its imports."""
    s = Script(warm_spares=1)
    assert s.send(TimePassed()) == [StartWorker(W1, spare=True)]
    s.connect(W1)
    assert s.progress(W1, "imported") == []
    return s


def test_the_spare_is_taken_for_the_next_load_and_another_is_started_after_it() -> None:
    s = with_spare()
    assert s.ask(R1, "a") == [s.assign(W1, "a")]
    assert s.wait(5, W1) == []  # the load has the processor to itself
    assert s.ready(W1) == [s.forward(W1, "a", R1)]
    assert s.wait(SPARE_DELAY_SECONDS - 0.01) == []
    assert s.wait(0.01) == [StartWorker(W2, spare=True)]


def test_a_spare_that_has_not_connected_yet_is_taken_too() -> None:
    s = Script(warm_spares=1)
    s.send(TimePassed())
    assert s.ask(R1, "a") == []
    assert s.state("a") == "loading"
    assert s.connect(W1) == [s.assign(W1, "a")]


def test_a_second_load_beside_the_first_starts_a_process_of_its_own() -> None:
    s = with_spare()
    s.ask(R1, "a")
    assert s.ask(R2, "b") == [StartWorker(W2, spare=False)]
    s.connect(W2)
    s.ready(W1)
    assert s.wait(5, W1, W2) == []
    s.ready(W2)
    assert s.wait(0.5) == [StartWorker(W3, spare=True)]
    assert s.wait(5, W1, W2) == []


def test_a_spare_takes_no_place_and_no_memory() -> None:
    s = Script(warm_spares=1, max_models=1, memory=100)
    s.send(TimePassed())
    s.connect(W1)
    assert s.ask(R1, "a") == [s.assign(W1, "a")]
    s.ready(W1)
    assert s.wait(0.5) == [StartWorker(W2, spare=True)]
    assert s.finish(W1, R1) != []
    assert s.ask(R2, "b") == [StopWorker(W1, "evicted for b")]
    assert s.exits(W1) == []
    assert s.connect(W2) == [s.assign(W2, "b")]


def test_of_several_spares_the_one_that_is_furthest_is_taken() -> None:
    s = Script(warm_spares=2)
    assert s.send(TimePassed()) == [StartWorker(W1, spare=True), StartWorker(W2, spare=True)]
    s.connect(W1)
    s.connect(W2)
    s.progress(W2, "imported")
    assert s.ask(R1, "a") == [s.assign(W2, "a")]
    assert s.ask(R2, "b") == [s.assign(W1, "b")]
    s.ready(W1)
    s.ready(W2)
    assert s.wait(0.5) == [StartWorker(W3, spare=True), StartWorker(W4, spare=True)]


def test_no_spare_where_the_settings_want_none() -> None:
    s = Script(warm_spares=0)
    s.idle("a")
    assert s.wait(1000, W1) == []


def test_a_spare_that_dies_is_replaced_ever_later_and_not_at_all_after_five_deaths() -> None:
    s = Script(warm_spares=1)
    s.send(TimePassed())
    assert s.dies(W1, code=1) == [StartWorker(W2, spare=True)]
    for n, delay in [(2, 0.5), (3, 1.0), (4, 2.0)]:
        assert s.dies(f"w{n}-test", code=1) == []
        assert s.wait(delay - 0.01) == []
        assert s.wait(0.01) == [StartWorker(f"w{n + 1}-test", spare=True)]
    assert s.dies("w5-test", code=1) == []
    assert s.wait(1000) == []
    assert s.ask(R1, "a") == [StartWorker("w6-test", spare=False)]  # models do not depend on it


def test_a_spare_that_has_done_its_imports_is_a_new_beginning() -> None:
    s = Script(warm_spares=1)
    s.send(TimePassed())
    s.dies(W1, code=1)
    s.connect(W2)
    s.progress(W2, "imported")
    assert s.dies(W2) == [StartWorker(W3, spare=True)]


def test_a_spare_that_never_connects_is_replaced() -> None:
    s = Script(warm_spares=1)
    s.send(TimePassed())
    assert s.wait(119.9) == []
    assert s.wait(0.1) == [KillWorker(W1, "load stalled for 120 s"), StartWorker(W2, spare=True)]
    assert s.dies(W1) == []


def test_a_spare_without_heartbeat_is_replaced() -> None:
    s = with_spare()
    assert s.wait(10) == [KillWorker(W1, "no heartbeat for 10 s"), StartWorker(W2, spare=True)]
    assert s.dies(W1) == []


def test_a_spare_that_dies_with_its_new_model_is_a_death_of_the_model() -> None:
    s = with_spare()
    s.ask(R1, "a")
    assert s.dies(W1) == [StartWorker(W2, spare=False)]
    assert s.model("a").deaths == 1
    s.connect(W2)
    s.ready(W2)
    assert s.wait(0.5) == [StartWorker(W3, spare=True)]


def test_a_late_report_of_imports_hurts_nobody() -> None:
    s = Script(warm_spares=1)
    s.send(TimePassed())
    s.connect(W1)
    s.ask(R3, "a")
    assert s.progress(W1, "imported") == []
    assert s.ready(W1) == [s.forward(W1, "a", R3)]
