"""The machine's memory: what Metal says, a system that runs short, and what models took before."""

from typing import Any

import pytest

from broker.policy.actions import AnnounceMemory, SaveMeasured, StartWorker, StopWorker
from broker.policy.budget import GIB, Hardware, Origin
from broker.policy.events import SystemSampled, WorkerBecameReady, WorkerProgressed
from broker.policy.pool import Pool
from broker.policy.pressure import Pressure
from tests.broker.policy.script import R1, R2, R3, SIZE, W1, W2, W3, Failed, Script
from tests.broker.policy.test_pool_shares import grant, need
from tests.broker.policy.world_books import MIB

MAC = Hardware(16 * GIB, has_metal=True)


def short(s: Script, pressure: Pressure, wired: int | None = None) -> list[Any]:
    s.pressure, s.pressure_since = pressure, s.now
    return s.send(SystemSampled(pressure, wired))


# ---- Metal --------------------------------------------------------------------------------------------------------


def test_a_spare_says_what_metal_may_use() -> None:
    s = Script(machine=MAC, warm_spares=1)
    assert s.wait(1) == [StartWorker(W1, spare=True)]
    s.connect(W1)
    assert s.pool.memory.origin is Origin.USUAL
    s.send(WorkerProgressed(W1, "imported", None, 9 * GIB))
    assert (s.pool.memory.budget_bytes, s.pool.memory.origin) == (9 * GIB, Origin.METAL)
    assert (s.pool.memory.working_set_bytes, s.remembered[-1]) == (9 * GIB, s.pool.memory)


def test_a_spare_is_started_to_ask_even_if_none_is_wanted() -> None:
    s = Script(machine=MAC, warm_spares=0)
    assert s.wait(1) == [StartWorker(W1, spare=True)]
    s.connect(W1)
    s.send(WorkerProgressed(W1, "imported", None, 9 * GIB))
    assert s.ask(R1, "a") == [s.assign(W1, "a")]
    s.ready(W1)
    assert s.wait(10, W1) == []


def test_what_may_be_wired_depends_on_it_whatever_the_settings_say() -> None:
    s = Script(machine=Hardware(16 * GIB, 14 * GIB, has_metal=True, wires=True), warm_spares=0)
    assert s.wait(1) == [StartWorker(W1, spare=True)]
    s.connect(W1)
    s.send(WorkerProgressed(W1, "imported", None, 8 * GIB))
    assert (s.pool.memory.budget_bytes, s.pool.memory.origin) == (7 * GIB, Origin.METAL)


@pytest.mark.parametrize("machine", [Hardware(16 * GIB), Hardware(16 * GIB, GIB, has_metal=True)])
def test_otherwise_nobody_needs_to_ask(machine: Hardware) -> None:
    assert Script(machine=machine).wait(10) == []


def test_what_might_fit_once_metal_has_been_asked_is_not_refused() -> None:
    s = Script(machine=Hardware(128 * GIB, has_metal=True))
    s.add_model("huge", 100 * 1024)
    s.wait(1)
    assert s.ask(R1, "huge") == []
    assert s.reason("huge") == "waiting for room"
    s.connect(W1)
    assert s.send(WorkerProgressed(W1, "imported", None, 107 * GIB)) == [s.assign(W1, "huge")]

    s = Script(machine=Hardware(128 * GIB, has_metal=True))
    s.add_model("huge", 100 * 1024)
    s.wait(1)
    s.ask(R1, "huge")
    s.connect(W1)
    assert s.send(WorkerProgressed(W1, "imported", None, 96 * GIB)) == [Failed(R1, "insufficient_memory", "96.00 GiB")]


def test_a_model_says_it_too() -> None:
    s = Script(machine=MAC)
    s.loading("a", R1)
    s.workers[W1].ready = True
    s.took(W1, SIZE)
    s.send(WorkerBecameReady(W1, SIZE, 4096, 0, 10 * GIB))
    assert s.pool.memory.budget_bytes == 10 * GIB


# ---- a system that runs short -------------------------------------------------------------------------------------


def test_idle_models_leave_early() -> None:
    s = Script(keep_alive=1800.0, max_models=3)
    s.idle("a")
    s.pinned("b")
    s.busy("c", R1)
    s.wait(50, W1, W2, W3)
    assert short(s, Pressure.WARNING) == []
    s.beat(W3, 1)
    assert s.wait(9.9, W1, W2, W3) == []
    assert s.wait(0.1, W1, W2, W3) == [StopWorker(W1, "the system is short of memory")]


def test_and_earlier_if_it_is_critical_even_those_that_would_stay_for_ever() -> None:
    s = Script(keep_alive=-1.0)
    s.idle("a")
    s.wait(4, W1)
    assert short(s, Pressure.CRITICAL) == []
    assert s.wait(1, W1) == [StopWorker(W1, "the system is short of memory")]


def test_loads_wait_while_it_is_critical_but_not_for_ever() -> None:
    s = Script(max_models=3)
    s.pinned("a")
    short(s, Pressure.CRITICAL)
    assert s.ask(R1, "b") == []
    assert s.reason("b") == "the system is short of memory"
    assert s.wait(29.9, W1) == []
    assert s.wait(0.1, W1) == [StartWorker(W2, spare=False)]
    assert s.ask(R2, "c") == []  # one by one
    assert s.wait(30, W1) == [StartWorker(W3, spare=False)]


def test_with_nothing_loaded_they_wait_a_short_while() -> None:
    s = Script()
    short(s, Pressure.CRITICAL)
    s.ask(R1, "a")
    assert s.wait(9.9) == []
    assert s.wait(0.1) == [StartWorker(W1, spare=False)]


def test_they_start_as_soon_as_it_is_over() -> None:
    s = Script()
    s.pinned("a")
    short(s, Pressure.CRITICAL)
    s.ask(R1, "b")
    assert short(s, Pressure.NORMAL) == [StartWorker(W2, spare=False)]


def test_a_warning_holds_no_load() -> None:
    s = Script()
    short(s, Pressure.WARNING)
    assert s.ask(R1, "a") == [StartWorker(W1, spare=False)]


def test_what_can_never_fit_is_refused_all_the_same() -> None:
    s = Script()
    short(s, Pressure.CRITICAL)
    s.add_model("big", 2000)
    assert s.ask(R1, "big") == [Failed(R1, "insufficient_memory")]


def test_what_is_wired_by_nobody_is_taken_off_the_budget_after_five_seconds() -> None:
    s = Script(machine=Hardware(32 * GIB, 20 * GIB, has_metal=True), max_models=1)
    s.add_model("large", 10 * 1024)
    s.add_model("other", 12 * 1024)
    s.idle("large")
    short(s, Pressure.NORMAL, wired=17 * GIB)  # its ten, and seven of the system
    assert s.pool.memory.missing_bytes == 0
    s.ask(R1, "other")
    assert s.exits(W1) == []
    assert s.pool.memory.missing_bytes == 9 * GIB
    assert s.reason("other") == "waiting for the memory of the process before it"
    assert s.wait(4.9) == []
    assert s.wait(0.2) == []  # twelve do not fit into eleven
    assert s.reason("other") == "waiting for room"
    assert short(s, Pressure.NORMAL, wired=7 * GIB) == [StartWorker(W2, spare=False)]


def test_a_load_that_fits_beside_it_starts_after_five_seconds() -> None:
    s = Script(machine=Hardware(32 * GIB, 20 * GIB, has_metal=True), max_models=1)
    s.add_model("large", 10 * 1024)
    s.idle("large")
    short(s, Pressure.NORMAL, wired=17 * GIB)
    s.ask(R1, "b")
    assert s.exits(W1) == []
    assert s.wait(4.9) == []
    assert s.wait(0.2) == [StartWorker(W2, spare=False)]


def test_no_larger_share_takes_what_a_load_waits_for() -> None:
    s = Script(machine=Hardware(32 * GIB, 20 * GIB, has_metal=True))
    for model_id, size in (("large", 10), ("small", 5), ("other", 10)):
        s.add_model(model_id, size * 1024)
    s.idle("large")
    s.busy("small", R1)
    short(s, Pressure.NORMAL, wired=22 * GIB)  # all of theirs, and seven of the system
    assert s.ask(R2, "other") == [StopWorker(W1, "evicted for other")]
    assert s.exits(W1) == []
    assert s.reason("other") == "waiting for the memory of the process before it"
    assert need(s, W2, 12 * 1024, 5 * 1024) == [grant(W2, 5 * 1024, 20 * 1024)]
    started = short(s, Pressure.NORMAL, wired=12 * GIB)
    assert started == [StartWorker(W3, spare=False), grant(W2, 10 * 1024, 20 * 1024)]


def test_no_model_leaves_for_memory_that_is_returning() -> None:
    s = Script(machine=Hardware(32 * GIB, 20 * GIB, has_metal=True), max_models=3)
    for model_id, size in (("first", 5), ("second", 5), ("large", 5)):
        s.add_model(model_id, size * 1024)
    s.idle("first")
    s.idle("second")
    s.busy("large", R1)
    short(s, Pressure.NORMAL, wired=22 * GIB)  # all of theirs, and seven of the system
    evicted = "evicted for a larger share of large"
    assert need(s, W3, 13 * 1024, 5 * 1024) == [StopWorker(W1, evicted), grant(W3, 10 * 1024, 20 * 1024)]
    assert s.exits(W1) == [grant(W3, 11 * 1024, 20 * 1024)]  # four GiB are still wired
    assert s.pool.memory.missing_bytes == 4 * GIB
    assert s.wait(4, W2, W3) == []
    assert short(s, Pressure.NORMAL, wired=17 * GIB) == [grant(W3, 13 * 1024, 20 * 1024)]


def test_what_does_not_return_within_five_seconds_comes_from_idle_models() -> None:
    s = Script(machine=Hardware(32 * GIB, 20 * GIB, has_metal=True), max_models=3)
    for model_id, size in (("first", 5), ("second", 5), ("large", 5)):
        s.add_model(model_id, size * 1024)
    s.idle("first")
    s.idle("second")
    s.busy("large", R1)
    short(s, Pressure.NORMAL, wired=22 * GIB)
    need(s, W3, 13 * 1024, 5 * 1024)
    s.exits(W1)
    assert StopWorker(W2, "evicted for a larger share of large") in s.wait(5, W2, W3)


# ---- what models took before --------------------------------------------------------------------------------------


def test_a_model_is_judged_by_what_it_took_in_an_earlier_life() -> None:
    s = Script()
    s.add_model("a", 100, fingerprint="files of a")
    s.pool = s.driven = Pool(s.limits, "test", {"files of a": 700 * MIB, "others": 1})
    s.measured["a"] = 700 * MIB
    s.ask(R1, "a")
    assert s.instance("a").reserved_bytes == 700 * MIB


def test_what_it_takes_is_remembered_by_its_files() -> None:
    s = Script()
    s.add_model("a", 100, fingerprint="files of a")
    s.loading("a", R1)
    saved = [action for action in s.ready(W1, 300) if isinstance(action, SaveMeasured)]
    assert saved == [SaveMeasured({"files of a": 300 * MIB})]
    s.finish(W1, R1)
    s.unload(R2, "a")
    s.exits(W1)
    s.loading("a", R3)
    assert s.instance("a").reserved_bytes == 300 * MIB
    assert not any(isinstance(action, SaveMeasured) for action in s.ready(W2, 300))  # nothing new


def test_other_files_are_another_model() -> None:
    s = Script()
    s.add_model("a", 100, fingerprint="files of a")
    s.loading("a", R1)
    s.ready(W1, 300)
    s.finish(W1, R1)
    s.unload(R2, "a")
    s.exits(W1)
    s.add_model("a", 100, fingerprint="newer files of a")
    del s.measured["a"]
    s.ask(R3, "a")
    assert s.instance("a").reserved_bytes == SIZE


def test_the_budget_is_announced_when_it_changes() -> None:
    s = Script(machine=MAC)
    s.wait(1)
    assert s.remembered == [s.pool.memory]
    short(s, Pressure.WARNING)
    assert [m.pressure for m in s.remembered] == [Pressure.NORMAL, Pressure.WARNING]
    assert all(isinstance(m, AnnounceMemory) for m in s.remembered)
