"""STATUS as a map: what is in it, in which units."""

from typing import Any

from broker.policy.downloads import Download
from broker.policy.events import ModelPinned, TimePassed
from broker.policy.snapshot import status
from broker.wire.failure import Code, Failure
from tests.broker.policy.script import R1, R2, SIZE, START, W1, W2, Script
from tests.broker.policy.world_books import MIB

WALL = 1_700_000_000.0  # Unix time at the script's time 0


def snapshot(s: Script) -> dict[str, Any]:
    return status(s.pool, s.now, START, WALL)


def entry(s: Script, model_id: str) -> dict[str, Any]:
    [found] = [m for m in snapshot(s)["models"] if m["model_id"] == model_id]
    return dict(found)


def test_a_pool_that_nobody_has_used() -> None:
    s = Script(memory=1000, max_models=2)
    s.now += 7
    assert snapshot(s) == {
        "models": [],
        "spares": [],
        "workers": 0,
        "queued": 0,
        "uptime_seconds": 7.0,
        "max_models": 2,
        "max_memory_bytes": 1000 * MIB,
        "budget_origin": "setting",
        "working_set_bytes": None,
        "reserved_bytes": 0,
        "missing_bytes": 0,
        "pressure": "normal",
    }


def test_a_model_at_work() -> None:
    s = Script()
    s.loading("a", R1)
    s.started(W1, 4711)
    s.now += 3
    s.ready(W1)
    s.now += 1
    s.beat(W1, 1)
    s.sample(W1, 64)
    assert entry(s, "a") == {
        "model_id": "a",
        "model_type": "text-gen",
        "state": "ready",
        "reason": None,
        "pinned": False,
        "since": WALL + START + 3,
        "size_bytes": SIZE,
        "context_length": 4096,
        "stage": None,
        "fraction": None,
        "loaded_at": WALL + START + 3,
        "last_used": WALL + START + 3,
        "idle_until": None,
        "pid": 4711,
        "rss_bytes": 64 * MIB,
        "footprint_bytes": 64 * MIB,
        "share_bytes": SIZE,
        "wanted_bytes": SIZE,
        "memory_limit_bytes": 1000 * MIB,
        "mlx_active_bytes": 1,
        "mlx_cache_bytes": 2,
        "mlx_peak_bytes": 3,
        "cpu_percent": 12.5,
        "in_flight": 1,
        "incoming": None,
        "outgoing": None,
        "queued": 0,
        "restarts": 0,
        "last_exit": None,
    }
    assert snapshot(s)["reserved_bytes"] == SIZE
    s.now += 5
    s.finish(W1, R1)
    assert entry(s, "a")["last_used"] == WALL + START + 9


def test_a_load_shows_its_stage_and_who_waits() -> None:
    s = Script()
    s.loading("a", R1)
    s.progress(W1, "weights", 0.5)
    shown = entry(s, "a")
    assert (shown["state"], shown["stage"], shown["fraction"]) == ("loading", "weights", 0.5)
    assert (shown["queued"], shown["in_flight"], shown["loaded_at"], shown["last_used"]) == (1, 0, None, None)
    assert snapshot(s)["queued"] == 1
    measured = ("rss_bytes", "footprint_bytes", "cpu_percent", "mlx_active_bytes", "mlx_cache_bytes", "mlx_peak_bytes")
    assert {shown[name] for name in (*measured, "context_length")} == {0}  # nothing is known yet


def test_a_model_that_waits_for_room_has_no_process_and_no_size() -> None:
    s = Script(max_models=1)
    s.busy("a", R1)
    s.load(R2, "b")
    shown = entry(s, "b")
    assert (shown["state"], shown["reason"], shown["pinned"]) == ("queued", "waiting for room", True)
    assert (shown["pid"], shown["size_bytes"], shown["rss_bytes"]) == (None, 0, 0)


def test_a_model_that_died_stays_with_its_last_words() -> None:
    s = Script()
    s.idle("a")
    s.dies(W1, signal="SIGABRT", tail="one\ntwo")
    shown = entry(s, "a")
    assert shown["state"] == "unloaded"
    assert shown["last_exit"] == {
        "code": None,
        "signal": "SIGABRT",
        "at": 77.0,
        "reason": "signal SIGABRT: two",
        "stderr_tail": "one\ntwo",
    }


def test_a_model_that_never_got_a_process_leaves_no_trace() -> None:
    s = Script(max_models=1)
    s.busy("a", R1)
    s.ask(R2, "b")
    s.cancel(R2)
    assert [m["model_id"] for m in snapshot(s)["models"]] == ["a"]


def test_a_pin_without_a_model_is_shown() -> None:
    s = Script()
    s.send(ModelPinned("gone", None, Failure(Code.MODEL_NOT_FOUND, "no such folder")))
    shown = entry(s, "gone")
    assert (shown["state"], shown["reason"], shown["model_type"]) == ("failed", "no such folder", None)


def test_spares_are_counted_apart() -> None:
    s = Script(warm_spares=2)
    s.send(TimePassed())
    s.started(W1, 4711)
    s.connect(W1)
    s.progress(W1, "imported")
    s.sample(W1, 64)
    assert snapshot(s)["spares"] == [
        {"pid": 4711, "state": "imported", "rss_bytes": 64 * MIB},
        {"pid": None, "state": "starting", "rss_bytes": 0},
    ]
    assert snapshot(s)["workers"] == 2
    assert W2 in s.workers
    s.ask(R1, "a")  # takes the first spare
    assert [spare["state"] for spare in snapshot(s)["spares"]] == ["starting"]


def test_a_download_is_shown_with_its_times() -> None:
    s = Script()
    download = Download("org/m", since=START + 2, fraction=0.25)
    [shown] = status(s.pool, s.now, START, WALL, [download])["models"]
    assert (shown["state"], shown["reason"]) == ("downloading", "waits for another download")
    assert (shown["since"], shown["fraction"], shown["queued"]) == (WALL + START + 2, 0.25, 0)
