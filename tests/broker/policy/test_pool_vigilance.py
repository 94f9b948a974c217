"""Rule 10: alive is not enough. Rule 11: memory per worker. Rule 12: keep_alive."""

import pytest

from broker.policy.actions import KillWorker, StartWorker, StopWorker
from broker.policy.events import PauseEnded
from broker.policy.snapshot import status
from tests.broker.policy.script import R1, R2, R3, W1, W2, Failed, Script, replied
from tests.broker.policy.world_books import MIB

SILENT = "no heartbeat for 10 s"
HUNG = "hung: no progress for 120 s"
STALLED = "load stalled for 120 s"

# ---- 10: heartbeats and progress ----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["loading", "busy", "idle"])
def test_a_worker_without_heartbeat_is_killed(phase: str) -> None:
    s = Script()
    s.loading("a", R1)
    if phase != "loading":
        s.ready(W1)
    if phase == "idle":
        s.finish(W1, R1)
    assert s.wait(9.9) == []
    assert s.wait(0.1) == [KillWorker(W1, SILENT)]
    assert s.reason("a") == SILENT


def test_heartbeats_keep_an_idle_worker_for_ever() -> None:
    s = Script()
    s.idle("a")
    assert s.wait(1000, W1) == []


def test_anything_a_worker_says_is_a_sign_of_life() -> None:
    s = Script()
    s.loading("a", R1)
    for event in (s.progress, s.ready):
        s.now += 9
        event(W1)
    s.now += 9
    s.text(W1, R1)
    assert s.wait(9.9) == []
    assert s.wait(0.1) == [KillWorker(W1, SILENT), Failed(R1, "worker_died", SILENT)]


def test_the_requests_of_a_silent_worker_are_replayed() -> None:
    s = Script()
    s.busy("a", R1)
    assert s.wait(10) == [KillWorker(W1, SILENT)]
    assert s.wait(60) == []  # however long the kernel needs
    assert s.dies(W1) == [StartWorker(W2, spare=False)]
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "a", R1)]
    assert s.model("a").deaths == 1


def test_work_without_progress_is_a_hang_however_lively_the_heart() -> None:
    s = Script()
    s.busy("a", R1)
    assert s.wait(119.9, W1) == []
    assert s.wait(0.1, W1) == [KillWorker(W1, HUNG)]
    assert s.dies(W1) == [StartWorker(W2, spare=False)]


def test_steps_in_the_heartbeat_are_progress() -> None:
    """A long prefill gives no output, and is no hang."""
    s = Script()
    s.busy("a", R1)
    for step in range(1, 6):
        assert s.wait(100, W1) == []
        assert s.beat(W1, step) == []


def test_output_is_progress() -> None:
    s = Script()
    s.busy("a", R1)
    s.wait(100, W1)
    s.text(W1, R1)
    assert s.wait(119.9, W1) == []
    assert s.wait(0.1, W1)[0] == KillWorker(W1, HUNG)


def test_the_clock_of_a_hang_starts_with_the_first_work() -> None:
    s = Script()
    s.idle("a")
    s.wait(1000, W1)
    s.ask(R1, "a")
    s.wait(60, W1)
    s.ask(R2, "a")  # more work for a worker that does none is no progress
    assert s.wait(59.9, W1) == []
    assert s.wait(0.1, W1) == [KillWorker(W1, HUNG)]


def test_work_that_nobody_waits_for_must_end_too() -> None:
    s = Script()
    s.busy("a", R1)
    s.cancel(R1)
    assert s.wait(120, W1) == [KillWorker(W1, HUNG), Failed(R1, "cancelled")]


def test_a_load_is_measured_by_progress_and_not_by_its_length() -> None:
    s = Script()
    s.loading("a", R1)
    for _ in range(5):
        assert s.wait(100, W1) == []
        s.progress(W1, "weights", 0.1)
        assert s.wait(100, W1) == []
        s.beat(W1, s.pool.workers[W1].steps + 1)
    assert s.wait(119.9, W1) == []
    assert s.wait(0.1, W1) == [KillWorker(W1, STALLED)]
    assert s.dies(W1) == [StartWorker(W2, spare=False)]


def test_a_process_that_never_connects_is_a_load_that_stalls() -> None:
    s = Script()
    s.ask(R1, "a")
    assert s.wait(119.9) == []
    assert s.wait(0.1) == [KillWorker(W1, STALLED)]


def test_a_worker_that_said_why_it_cannot_load_but_does_not_exit_is_killed() -> None:
    s = Script()
    s.loading("a", R1)
    s.load_fails(W1)
    assert s.wait(2.0) == [KillWorker(W1, "did not exit when asked")]
    s.dies(W1)
    assert s.reason("a") == "load failed: model.safetensors is broken"


def test_the_timeouts_are_settings() -> None:
    s = Script(heartbeat_timeout=1.0, stall_timeout=2.0, load_stall_timeout=3.0)
    s.ask(R1, "a")
    assert s.wait(3.0) == [KillWorker(W1, "load stalled for 3 s")]
    s.dies(W1)
    s.connect(W2)
    s.ready(W2)
    s.now += 0.9
    s.beat(W2)
    s.now += 0.9
    s.beat(W2)
    assert s.wait(0.2) == [KillWorker(W2, "hung: no progress for 2 s"), Failed(R1, "worker_died")]


# ---- pauses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "seconds", "reason"), [("idle", 10.0, SILENT), ("busy", 120.0, HUNG), ("loading", 120.0, STALLED)]
)
def test_after_a_pause_of_everything_nobody_is_judged_before_a_fresh_interval(
    phase: str, seconds: float, reason: str
) -> None:
    s = Script()
    getattr(s, phase)(*("a", R1)[: 1 if phase == "idle" else 2])
    beating = [] if phase == "idle" else [W1]
    assert s.wait(seconds - 0.5, *beating) == []
    assert s.send(PauseEnded()) == []
    assert s.wait(seconds - 0.1, *beating) == []
    assert s.wait(0.1, *beating)[0] == KillWorker(W1, reason)


def test_after_a_pause_a_worker_that_was_asked_to_exit_has_its_grace_anew() -> None:
    s = Script()
    s.idle("a")
    s.unload(R2, "a")
    s.wait(1.9)
    s.send(PauseEnded())
    assert s.wait(1.9) == []
    assert s.wait(0.1) == [KillWorker(W1, "did not exit when asked")]


# ---- 11: memory ---------------------------------------------------------------------------------------------------


def test_a_worker_over_its_limit_for_three_samples_in_a_row_is_killed_and_no_other() -> None:
    s = Script(memory=10_000)
    s.busy("a", R1)
    s.busy("b", R2)
    limit = 2 * 100 + 2048
    for footprint in (limit + 1, limit + 1, limit, limit + 1, limit + 1):
        assert s.sample(W1, footprint) == []
        assert s.sample(W2, 1) == []
    why = "memory_limit: took 2.20 GiB, limit 2.20 GiB"
    assert s.sample(W1, limit + 1) == [KillWorker(W1, why)]
    assert s.sample(W1, limit + 1) == []
    s.dies(W1)
    assert s.model("a").last_reason == why
    assert s.model("a").deaths == 1
    assert s.state("b") == "ready"


def test_the_limit_is_a_factor_over_the_share_or_over_what_it_took_to_load() -> None:
    s = Script(memory_limit_factor=1.2, memory_limit_floor_bytes=0)
    s.loading("a", R1)
    assert s.pool.kill_limit(s.worker("a")) == 120 * MIB
    s.ready(W1, measured=700)
    assert s.pool.kill_limit(s.worker("a")) == 840 * MIB


def test_the_settings_may_name_the_limit_of_a_model() -> None:
    s = Script()
    s.add_model("a", 100, memory_limit_bytes=150 * MIB)
    s.idle("a")
    assert [s.sample(W1, 151) for _ in range(3)][2] != []


def test_a_load_may_be_over_the_limit_too() -> None:
    s = Script()
    s.add_model("a", 100, memory_limit_bytes=150 * MIB)
    s.loading("a", R1)
    assert [s.sample(W1, 151) for _ in range(3)][2] != []
    assert s.dies(W1) == [StartWorker(W2, spare=False)]


def test_a_spare_has_no_limit() -> None:
    s = Script(warm_spares=1)
    s.wait(1)
    for _ in range(5):
        assert s.sample(W1, 1 << 20) == []


# ---- 12: keep_alive -----------------------------------------------------------------------------------------------


def test_an_idle_model_leaves_after_keep_alive_since_its_last_completion() -> None:
    s = Script(keep_alive=100.0)
    s.busy("a", R1)
    for step in range(1, 6):
        s.wait(100, W1)  # while it works it stays
        s.beat(W1, step)
    s.finish(W1, R1)
    assert s.wait(99.9, W1) == []
    assert s.wait(0.1, W1) == [StopWorker(W1, "keep_alive")]
    assert s.exits(W1) == []
    assert (s.state("a"), s.reason("a")) == ("unloaded", "keep_alive")


def test_a_request_starts_it_anew() -> None:
    s = Script(keep_alive=100.0)
    s.idle("a")
    s.wait(99, W1)
    s.ask(R1, "a")
    s.finish(W1, R1)
    assert s.wait(99.9, W1) == []


def test_looking_at_status_is_no_use() -> None:
    s = Script(keep_alive=100.0)
    s.idle("a")
    s.wait(99, W1)
    last_used = s.model("a").last_used
    status(s.pool, s.now, s.now, 0.0)
    assert s.model("a").last_used == last_used
    assert s.wait(1, W1) == [StopWorker(W1, "keep_alive")]


def test_a_model_may_have_a_keep_alive_of_its_own() -> None:
    s = Script(keep_alive=100.0, max_models=3)
    s.add_model("short", 100, keep_alive_seconds=5.0)
    s.add_model("ever", 100, keep_alive_seconds=-1.0)
    s.add_model("none", 100, keep_alive_seconds=0.0)
    s.idle("short")
    s.idle("ever")
    assert s.wait(5, W1, W2) == [StopWorker(W1, "keep_alive")]
    assert s.wait(1000, W2) == [KillWorker(W1, "did not exit when asked")]
    worker_id = s.busy("none", R1)
    assert s.finish(worker_id, R1)[1:] == [StopWorker(worker_id, "keep_alive")]


def test_a_pinned_model_stays_until_it_is_unpinned() -> None:
    s = Script(keep_alive=100.0)
    s.pinned("a")
    assert s.wait(1000, W1) == []
    assert s.unpin(R1, "a")[1:] == [replied(R1, "a"), StopWorker(W1, "keep_alive")]


def test_a_model_for_which_somebody_waits_stays() -> None:
    s = Script(keep_alive=0.0, max_models=1)
    s.busy("a", R1)
    s.ask(R2, "b")
    s.ask(R3, "a")
    s.cancel(R2)
    assert s.finish(W1, R1) != [StopWorker(W1, "keep_alive")]
    assert s.state("a") == "ready"


def test_a_new_unpinned_model_without_work_counts_from_its_load() -> None:
    s = Script(keep_alive=100.0)
    s.loading("a", R1)
    s.cancel(R1)
    s.wait(50, W1)
    s.ready(W1)
    assert s.wait(99.9, W1) == []
    assert s.wait(0.1, W1) == [StopWorker(W1, "keep_alive")]
