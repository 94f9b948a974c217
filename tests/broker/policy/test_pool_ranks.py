"""A model of two ranks: one instance of two processes, which load, serve and die together."""

from typing import Any

from broker.policy.actions import KillWorker, StartWorker, StopWorker
from broker.policy.events import OutputsArrived, TimePassed, WorkerFailedToLoad
from broker.policy.snapshot import status
from tests.broker.policy.script import R1, R2, R3, W1, W2, W3, W4, Failed, Script, replied
from tests.broker.policy.world_books import MIB


def pair(**limits: Any) -> Script:
    """A model `two` of two ranks that needs 400 MiB."""
    s = Script(**limits)
    s.add_model("two", 400, ranks=2)
    return s


def serving(s: Script, request_id: bytes) -> None:
    """Both ranks are ready, and rank 0 has this request."""
    s.ask(request_id, "two")
    for worker_id in (W1, W2):
        s.connect(worker_id)
    for worker_id in (W1, W2):
        s.ready(worker_id)


def test_all_ranks_start_and_the_model_is_ready_when_the_last_one_is() -> None:
    s = pair()
    assert s.ask(R1, "two") == [StartWorker(W1, spare=False), StartWorker(W2, spare=False)]
    assert s.connect(W2) == [s.assign(W2, "two")]
    assert s.connect(W1) == [s.assign(W1, "two")]
    assert [(s.assign(w, "two").rank, s.assign(w, "two").ranks) for w in (W1, W2)] == [(0, 2), (1, 2)]
    s.progress(W2, "weights", 0.5)
    assert s.ready(W1, 250) == []
    assert (s.state("two"), s.announced[-1].shown.fraction) == ("loading", 0.5)
    assert s.ready(W2, 210) == [s.forward(W1, "two", R1)]
    assert s.instance("two").reserved_bytes == 460 * MIB
    assert s.finish(W1, R1) != []


def test_spares_become_ranks() -> None:
    s = pair(warm_spares=1)
    s.send(TimePassed())
    s.connect(W1)
    assert s.ask(R1, "two") == [StartWorker(W2, spare=False), s.assign(W1, "two")]


def test_a_rank_that_dies_takes_the_other_and_clients_hear_at_once() -> None:
    s = pair()
    serving(s, R1)
    s.text(W1, R1)
    s.ask(R2, "two")
    why = "signal SIGSEGV"
    assert s.dies(W2, signal="SIGSEGV") == [KillWorker(W1, why), Failed(R1, "worker_died", why)]
    assert s.state("two") == "stopping"
    # R2 had no output yet: it is tried once more, when nothing is left of the instance.
    assert s.dies(W1) == [StartWorker(W3, spare=False), StartWorker(W4, spare=False)]
    assert s.model("two").deaths == 1
    exit_ = s.model("two").last_exit
    assert exit_ is not None
    assert exit_.signal == "SIGSEGV"  # of the rank that began it


def test_a_rank_that_stalls_takes_the_other() -> None:
    s = pair(stall_timeout=20.0, heartbeat_timeout=1000.0)
    serving(s, R1)
    s.now += 15
    s.text(W1, R1)  # rank 0 goes on, rank 1 does not
    s.now += 5
    why = "hung: no progress for 20 s"
    assert s.send(TimePassed()) == [KillWorker(W1, why), KillWorker(W2, why), Failed(R1, "worker_died", why)]


def test_a_rank_without_a_heartbeat_takes_the_other() -> None:
    s = pair()
    serving(s, R1)
    s.text(W1, R1)
    killed = [action for action in s.wait(10.0, W1) if isinstance(action, KillWorker)]
    assert [action.worker_id for action in killed] == [W1, W2]


def test_a_load_that_stands_still_in_one_rank_ends_both() -> None:
    s = pair(load_stall_timeout=20.0, heartbeat_timeout=1000.0)
    s.ask(R1, "two")
    s.connect(W1)
    s.connect(W2)
    s.ready(W1)  # waits for the other as long as that makes progress
    s.now += 15
    s.progress(W2)
    s.now += 15
    assert s.send(TimePassed()) == []
    s.now += 5
    assert s.send(TimePassed()) == [KillWorker(w, "load stalled for 20 s") for w in (W1, W2)]


def test_each_rank_has_its_limit_and_one_over_it_takes_the_other() -> None:
    s = pair(memory_limit_factor=1.0, memory_limit_floor_bytes=0)
    serving(s, R1)
    for _ in range(2):
        assert s.sample(W2, 201) == []
    assert [a.worker_id for a in s.sample(W2, 201) if isinstance(a, KillWorker)] == [W1, W2]


def test_a_rank_that_cannot_load_ends_the_load() -> None:
    s = pair()
    s.ask(R1, "two")
    s.connect(W2)
    reason = "load failed: no room"
    assert s.send(WorkerFailedToLoad(W2, "no room")) == [
        Failed(R1, "load_failed"),
        KillWorker(W1, reason),  # has not connected: it cannot be asked
        StopWorker(W2, reason),
    ]
    s.exits(W2)
    assert s.state("two") == "stopping"
    s.dies(W1)
    assert s.model("two").deaths == 1


def test_kill_and_eviction_end_all_ranks_and_the_next_model_waits_for_both() -> None:
    s = pair(max_models=1)
    serving(s, R1)
    s.finish(W1, R1)
    assert s.ask(R2, "a") == [StopWorker(W1, "evicted for a"), StopWorker(W2, "evicted for a")]
    assert s.exits(W1) == []
    assert s.kill(R3, "two") == [KillWorker(W2, "killed by an administrator")]
    assert s.exits(W2)[0].request_id == R3  # type: ignore[union-attr]
    assert s.model("two").deaths == 0


def test_outputs_of_another_rank_than_0_are_dropped() -> None:
    s = pair()
    serving(s, R1)
    [dropped] = s.send(OutputsArrived(W2, [(R1, True)], [b"frames"]))
    assert type(dropped).__name__ == "DropOutputs"


def test_status_adds_the_ranks_up() -> None:
    s = pair()
    serving(s, R1)
    s.started(W1, 4711)
    s.sample(W1, 30)
    s.sample(W2, 40)
    shown = status(s.pool, s.now, s.now, 0.0)
    [entry] = shown["models"]
    assert (entry["pid"], entry["footprint_bytes"], shown["workers"]) == (4711, 70 * MIB, 2)
    assert (entry["size_bytes"], shown["reserved_bytes"]) == (400 * MIB, 400 * MIB)


def test_unload_drains_rank_0_and_ends_both() -> None:
    s = pair()
    serving(s, R1)
    assert s.unload(R2, "two") == []
    assert [type(a) for a in s.finish(W1, R1)[1:]] == [StopWorker, StopWorker]
    s.exits(W2)
    assert replied(R2, "two") in s.exits(W1)
