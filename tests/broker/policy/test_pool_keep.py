"""How long an idle model stays: what KEEP and requests state, against the settings, pins and the need of room."""

from typing import Any

import pytest

from broker.policy.actions import KillWorker, Reply, StartWorker, StopWorker
from broker.policy.events import KeepRequested, ShutdownRequested, SystemSampled
from broker.policy.pressure import Pressure
from broker.policy.snapshot import status
from tests.broker.policy.script import ELSEWHERE, R1, R2, R3, R9, W1, W2, Failed, Script

LEAVES = StopWorker(W1, "keep_alive")


def kept(seconds: float | None, **limits: Any) -> Script:
    """Model a, loaded by a KEEP."""
    s = Script(**limits)
    assert s.keep(R1, "a", seconds) == [StartWorker(W1, False)]
    s.connect(W1)
    assert s.loaded(R1, "a", pinned=False) in s.ready(W1)
    return s


def test_it_loads_without_a_pin_and_stays_so_long() -> None:
    s = kept(20.0)
    assert not s.model("a").pinned
    assert s.pins == []
    assert s.wait(19.9, W1) == []
    assert s.wait(0.1, W1) == [LEAVES]


def test_the_time_runs_from_the_last_use() -> None:
    s = kept(20.0)
    s.wait(15, W1)
    s.ask(R2, "a")
    s.wait(15, W1)
    s.finish(W1, R2)
    assert s.wait(19.9, W1) == []
    assert s.wait(0.1, W1) == [LEAVES]


def test_it_is_a_use_of_a_model_that_is_loaded() -> None:
    s = kept(20.0)
    s.wait(15, W1)
    assert s.keep(R2, "a", 20.0) == [s.loaded(R2, "a", pinned=False)]
    assert s.model("a").last_used == s.now
    assert s.wait(19.9, W1) == []
    assert s.wait(0.1, W1) == [LEAVES]


@pytest.mark.parametrize(("own", "stays"), [(None, 30.0), (7.0, 7.0), (0.0, 0.0)])
def test_without_a_time_the_settings_count(own: float | None, stays: float) -> None:
    s = Script(keep_alive=30.0)
    s.add_model("a", 100, keep_alive_seconds=own)
    s.keep(R1, "a", 500.0)
    s.connect(W1)
    s.ready(W1)
    answer = s.keep(R2, "a", None)
    assert answer == [s.loaded(R2, "a", pinned=False), *([LEAVES] if stays == 0 else [])]
    if stays:
        assert s.wait(stays - 0.1, W1) == []
        assert s.wait(0.1, W1) == [LEAVES]


@pytest.mark.parametrize("seconds", [-1.0, -0.5, 1e9, 1e300])
def test_so_it_stays_as_long_as_there_is_room(seconds: float) -> None:
    s = kept(seconds, keep_alive=5.0, max_models=1)
    assert s.pool.idle_until(s.model("a")) is None
    assert s.wait(10_000, W1) == []
    assert s.ask(R2, "b") == [StopWorker(W1, "evicted for b")]


def test_a_day_is_no_eternity() -> None:
    s = kept(86_400.0, keep_alive=5.0)
    assert s.pool.idle_until(s.model("a")) == s.now + 86_400


def test_under_pressure_it_leaves_early() -> None:
    s = kept(-1.0)
    s.send(SystemSampled(Pressure.WARNING))
    assert s.wait(59.9, W1) == []
    assert s.wait(0.1, W1) == [StopWorker(W1, "the system is short of memory")]


# ---- zero ---------------------------------------------------------------------------------------------------------


def test_zero_loads_nothing() -> None:
    s = Script()
    assert s.keep(R1, "a", 0.0) == [s.loaded(R1, "a", pinned=False, size=0)]
    assert s.workers == {}
    assert s.keep(R2, "x", 0.0) == [Failed(R2, "model_not_found")]


def test_zero_lets_an_idle_model_leave_at_once() -> None:
    s = kept(500.0)
    assert s.keep(R2, "a", 0.0) == [s.loaded(R2, "a", pinned=False), LEAVES]


def test_zero_ends_nobodys_answer() -> None:
    s = kept(500.0)
    s.ask(R2, "a")
    s.text(W1, R2)
    assert s.keep(R3, "a", 0.0) == [s.loaded(R3, "a", pinned=False)]
    s.wait(100, W1)
    assert s.ask(ELSEWHERE, "a") == [s.forward(W1, "a", ELSEWHERE)]
    assert LEAVES not in s.finish(W1, R2)
    assert LEAVES in s.finish(W1, ELSEWHERE)


def test_zero_waits_for_those_who_wait_for_the_load() -> None:
    s = Script()
    s.loading("a", R1)
    s.ask(R2, "a", keep_alive=500.0)
    assert isinstance(s.keep(R3, "a", 0.0)[0], Reply)
    assert s.ready(W1)[-2:] == [s.forward(W1, "a", R1), s.forward(W1, "a", R2)]
    s.finish(W1, R1)
    # R2 reaches the process after that, but has come before.
    assert LEAVES in s.finish(W1, R2)


def test_zero_of_a_model_that_nobody_waits_for_any_more() -> None:
    s = Script(keep_alive=500.0)
    s.loading("a", R1)
    s.cancel(R1)
    s.keep(R2, "a", 0.0)
    assert LEAVES in s.ready(W1)


def test_zero_removes_no_pin() -> None:
    s = Script(keep_alive=500.0)
    s.pinned("a")
    assert s.keep(R1, "a", 0.0) == [s.loaded(R1, "a")]
    assert s.wait(1000, W1) == []
    assert s.model("a").pinned
    assert LEAVES in s.unpin(R9, "a")


# ---- requests -----------------------------------------------------------------------------------------------------


def test_a_request_says_how_long_its_model_stays() -> None:
    s = Script(keep_alive=500.0)
    s.ask(R1, "a", keep_alive=20.0)
    s.connect(W1)
    s.ready(W1)
    s.finish(W1, R1)
    s.ask(R2, "a")  # says nothing, and changes nothing
    s.finish(W1, R2)
    assert s.wait(19.9, W1) == []
    assert s.wait(0.1, W1) == [LEAVES]


def test_a_request_with_zero_is_the_last_one() -> None:
    s = Script(keep_alive=500.0)
    s.ask(R1, "a", keep_alive=0.0)
    s.connect(W1)
    s.ready(W1)
    assert LEAVES in s.finish(W1, R1)


def test_the_last_statement_counts() -> None:
    s = kept(500.0)
    s.ask(R2, "a", keep_alive=0.0)
    s.ask(R3, "a", keep_alive=20.0)
    s.finish(W1, R3)
    s.finish(W1, R2)
    assert s.wait(19.9, W1) == []
    assert s.wait(0.1, W1) == [LEAVES]


def test_a_statement_ends_with_its_process() -> None:
    s = kept(-1.0, keep_alive=20.0)
    s.dies(W1)
    s.ask(R2, "a")
    s.connect(W2)
    s.ready(W2)
    s.finish(W2, R2)
    s.wait(19.9, W2)
    assert s.wait(0.1, W2) == [StopWorker(W2, "keep_alive")]


def test_a_request_that_is_replayed_states_it_again() -> None:
    s = Script(keep_alive=500.0)
    s.ask(R1, "a", keep_alive=20.0)
    s.connect(W1)
    s.ready(W1)
    s.dies(W1)
    s.connect(W2)
    s.ready(W2)
    s.finish(W2, R1)
    s.wait(19.9, W2)
    assert s.wait(0.1, W2) == [StopWorker(W2, "keep_alive")]


def test_a_request_that_waits_for_another_process_says_nothing_to_this_one() -> None:
    s = Script(keep_alive=500.0, max_models=1)
    s.idle("a")
    s.keep(R1, "a", 600.0)
    s.unload(R9, "a")
    s.keep(R2, "a", 20.0)
    s.exits(W1)
    s.connect(W2)
    assert s.loaded(R2, "a", pinned=False) in s.ready(W2)
    s.wait(19.9, W2)
    assert s.wait(0.1, W2) == [StopWorker(W2, "keep_alive")]


# ---- it waits as requests do --------------------------------------------------------------------------------------


def test_while_a_model_drains_it_waits_for_the_next_process() -> None:
    s = Script()
    s.busy("a", R1)
    s.unload(R9, "a")
    assert s.keep(R2, "a", 20.0) == []
    s.finish(W1, R1)
    s.exits(W1)
    s.connect(W2)
    assert s.loaded(R2, "a", pinned=False) in s.ready(W2)


def test_one_that_came_before_the_unload_is_answered_first() -> None:
    s = Script()
    s.loading("a", R1)
    s.keep(R2, "a", 20.0)
    s.unload(R9, "a")
    assert s.loaded(R2, "a", pinned=False) in s.ready(W1)


def test_it_has_its_place_in_the_queue_and_is_bounded_like_work() -> None:
    s = Script(max_models=1, max_queue=2, queue_timeout=50.0)
    s.busy("a", R1)
    assert s.keep(R2, "b", 20.0) == []
    assert s.ask(R3, "b") == []
    assert s.keep(R9, "c", 20.0) == [Failed(R9, "rate_limit_exceeded", "limit of the queue")]
    assert s.keep(ELSEWHERE, "c", 0.0) == [s.loaded(ELSEWHERE, "c", pinned=False, size=0)]
    waited = s.wait(50, W1)
    assert waited == [Failed(R2, "model_unavailable", "no room"), Failed(R3, "model_unavailable", "no room")]


def test_it_is_counted_among_the_requests_of_its_model() -> None:
    s = Script(max_requests_per_model=2)
    s.loading("a", R1)
    s.keep(R2, "a", 20.0)
    assert s.keep(R3, "a", 20.0) == [Failed(R3, "rate_limit_exceeded", "limit per model")]


def test_a_client_that_leaves_ends_it() -> None:
    s = Script()
    s.keep(R1, "a", 20.0)
    assert s.cancel(R1) == [Failed(R1, "cancelled")]
    s.keep(R2, "a", 20.0)
    assert s.gateway_leaves(b"gatewayA") == [Failed(R2, "cancelled")]


def test_a_load_that_fails_ends_it() -> None:
    s = Script()
    s.keep(R1, "a", 20.0)
    s.connect(W1)
    assert Failed(R1, "load_failed", "model.safetensors is broken") in s.load_fails(W1)
    s.exits(W1)
    assert s.state("a") == "unloaded"


def test_a_second_death_of_the_load_ends_it() -> None:
    s = Script()
    s.keep(R1, "a", 20.0)
    assert s.dies(W1) == [StartWorker(W2, False)]
    assert Failed(R1, "worker_died") in s.dies(W2)


def test_it_revives_no_failed_model_and_waits_for_no_pause() -> None:
    s = Script()
    for n in range(1, 6):
        s.keep(b"gatewayAkeeping%d" % n, "a", 20.0)
        if f"w{n}-test" not in s.workers:
            break
        s.dies(f"w{n}-test")
    assert s.keep(R1, "a", 20.0) == [Failed(R1, "model_unavailable", "cooling down", retryable=True)]
    s.model("a").failure = "5 deaths in a row"
    assert s.keep(R2, "a", 20.0) == [Failed(R2, "model_unavailable", "has failed")]


def test_what_cannot_be_kept() -> None:
    s = Script()
    assert s.keep(R1, "x", 20.0) == [Failed(R1, "model_not_found")]
    assert s.keep(R2, "a", 20.0) == [StartWorker(W1, False)]
    assert s.send(KeepRequested(R2, "a", 20.0, s.specs["a"])) == []  # an id that is used twice
    assert s.send(ShutdownRequested()) == [Failed(R2, "model_unavailable"), KillWorker(W1, "shutdown")]
    assert s.keep(R3, "a", 20.0) == [Failed(R3, "model_unavailable", "shutting down")]


# ---- what people see ----------------------------------------------------------------------------------------------


def test_the_status_says_when_a_model_leaves() -> None:
    s = kept(20.0)

    def idle_until() -> float | None:
        [entry] = status(s.pool, s.now, 0.0, 1_000_000.0)["models"]
        moment: float | None = entry["idle_until"]
        return moment

    assert idle_until() == 1_000_000 + s.now + 20
    s.wait(5, W1)
    assert idle_until() == 1_000_000 + s.now + 15
    s.ask(R2, "a")
    assert idle_until() is None
    s.finish(W1, R2)
    assert idle_until() == 1_000_000 + s.now + 20
    s.load(R3, "a")
    assert idle_until() is None
