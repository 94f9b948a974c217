"""Clients and gateways that leave, the end of the broker, and messages that make no sense (any more)."""

import pytest

from broker.policy.actions import (
    DropOutputs,
    Exited,
    ForwardCancel,
    ForwardOutputs,
    KillWorker,
    SavePins,
    StartWorker,
    StopWorker,
)
from broker.policy.events import (
    Event,
    HeartbeatArrived,
    OutputsArrived,
    RequestArrived,
    ShutdownRequested,
    TimePassed,
    WorkerBecameReady,
    WorkerConnected,
    WorkerFailedToLoad,
    WorkerProgressed,
    WorkerSampled,
)
from broker.wire.failure import Code, Failure
from tests.broker.policy.script import ELSEWHERE, R1, R2, R3, R4, R5, R9, W1, W2, W3, Failed, Script, replied
from tests.broker.policy.world_books import SimRequest

END = "the broker is shutting down"

# ---- who leaves ---------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_is_cancelled_in_the_worker_and_ended_there() -> None:
    s = Script()
    s.busy("a", R1)
    assert s.cancel(R1) == [ForwardCancel(W1, R1)]
    assert s.cancel(R1) == []
    assert s.state("a") == "ready"
    assert s.finish(W1, R1) == [ForwardOutputs(W1, [b"frames"])]
    assert s.cancel(R1) == []  # the cancel and the end have crossed


def test_the_requests_of_a_gateway_that_leaves_are_cancelled_and_no_others() -> None:
    s = Script(max_models=1)
    s.busy("a", R1)
    s.ask(ELSEWHERE, "a")
    s.ask(R2, "b")
    s.load(R3, "c")
    s.unload(R4, "a")
    assert s.gateway_leaves(b"gatewayA") == [
        ForwardCancel(W1, R1),
        Failed(R2, "cancelled"),
        Failed(R4, "cancelled"),
        Failed(R3, "cancelled"),
    ]
    assert s.finish(W1, R1, ELSEWHERE)[1:] == [StopWorker(W1, "unload")]
    assert s.exits(W1) == [StartWorker(W2, spare=False)]  # the load belongs to nobody
    assert s.state("c") == "loading"


def test_a_gateway_without_requests_may_leave_too() -> None:
    s = Script()
    s.busy("a", R1)
    assert s.gateway_leaves(b"gatewayB") == []


# ---- the end of the broker ----------------------------------------------------------------------------------------


def test_shutdown_ends_every_request_and_every_worker() -> None:
    s = Script(max_models=3, warm_spares=1)
    s.busy("a", R1)
    s.wait(0.5)
    s.connect(W2)
    s.load(R2, "b")  # takes the spare, which is connected
    s.ask(R3, "c")
    s.ask(R4, "d")
    s.unload(R5, "a")
    s.kill(R9, "c")
    assert s.send(ShutdownRequested()) == [
        *(Failed(r, "model_unavailable", END, retryable=True) for r in (R5, R2, R9, R1, R3, R4)),
        StopWorker(W1, "shutdown"),
        StopWorker(W2, "shutdown"),
    ]
    why = "outputs of a request that is not in flight there"
    assert s.send(OutputsArrived(W1, [(R1, True)], [b"frames"])) == [DropOutputs(W1, why)]
    assert s.exits(W1) == []
    assert s.dies(W3) == []
    assert s.exits(W2) == [Exited()]
    assert s.pool.next_deadline() is None


def test_shutdown_keeps_the_pins_for_the_next_start() -> None:
    s = Script()
    s.pinned("a")
    assert s.send(ShutdownRequested()) == [StopWorker(W1, "shutdown")]
    assert s.exits(W1) == [Exited()]
    assert s.pins == ["a"]


def test_shutdown_kills_who_is_not_connected_and_who_does_not_exit_in_time() -> None:
    s = Script(stop_grace=2.0)
    s.busy("a", R1)
    s.ask(R2, "b")
    assert s.send(ShutdownRequested())[2:] == [StopWorker(W1, "shutdown"), KillWorker(W2, "shutdown")]
    s.dies(W2)
    assert s.wait(1.9, W1) == []
    assert s.wait(0.1, W1) == [KillWorker(W1, "did not exit when asked")]
    assert s.dies(W1) == [Exited()]


def test_shutdown_without_workers_is_done_at_once() -> None:
    s = Script()
    assert s.send(ShutdownRequested()) == [Exited()]


def test_shutdown_ends_the_spare_too_and_starts_no_other() -> None:
    s = Script(warm_spares=1)
    s.send(TimePassed())
    s.connect(W1)
    assert s.send(ShutdownRequested()) == [StopWorker(W1, "shutdown")]
    assert s.exits(W1) == [Exited()]


def test_whoever_asks_after_that_is_refused() -> None:
    s = Script()
    s.idle("a")
    s.send(ShutdownRequested())
    assert s.ask(R1, "a") == [Failed(R1, "model_unavailable", END, retryable=True)]
    assert s.load(R2, "a") == [Failed(R2, "model_unavailable", END, retryable=True)]
    assert s.unload(R3, "a") == []
    assert s.exits(W1) == [replied(R3, "a"), Exited()]


def test_a_worker_that_dies_in_the_shutdown_is_not_restarted() -> None:
    s = Script()
    s.pinned("a")
    s.kill(R1, "a")
    assert s.send(ShutdownRequested()) == [Failed(R1, "model_unavailable", END)]
    assert s.dies(W1) == [Exited()]


# ---- nonsense -----------------------------------------------------------------------------------------------------


def test_a_request_id_that_is_used_twice_is_one_request() -> None:
    s = Script()
    s.busy("a", R1)
    assert s.ask(R1, "a") == []
    assert s.ask(R1, "b") == []
    assert s.finish(W1, R1) == [ForwardOutputs(W1, [b"frames"])]


def test_outputs_of_a_worker_that_has_ended_are_dropped() -> None:
    s = Script()
    s.busy("a", R1)
    s.dies(W1)
    assert s.send(OutputsArrived(W1, [(R1, True)], [b"frames"])) == [DropOutputs(W1, "the worker has ended")]


@pytest.mark.parametrize(
    "entries",
    [[(R2, False)], [(R1, False), (R2, True)], [(R1, True), (R1, True)], [(R3, True)]],
    ids=["unknown", "one unknown", "two ends", "of another worker"],
)
def test_outputs_that_cannot_be_are_dropped_as_a_whole(entries: list[tuple[bytes, bool]]) -> None:
    s = Script()
    s.busy("a", R1)
    s.busy("b", R3)
    why = "outputs of a request that is not in flight there"
    assert s.send(OutputsArrived(W1, entries, [b"frames"])) == [DropOutputs(W1, why)]
    assert s.finish(W1, R1) == [ForwardOutputs(W1, [b"frames"])]
    assert s.finish(W2, R3) == [ForwardOutputs(W2, [b"frames"])]


@pytest.mark.parametrize(
    "event",
    [
        WorkerConnected(W1),
        WorkerProgressed(W1, "weights", 0.5),
        WorkerBecameReady(W1, 1, 1),
        WorkerFailedToLoad(W1, "too late"),
        HeartbeatArrived(W1, 1, 1, 1, 1),
        WorkerSampled(W1, 1 << 50, 1 << 50, 1.0),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_a_dead_worker_said_changes_nothing(event: Event) -> None:
    s = Script()
    s.busy("a", R1)
    s.dies(W1)
    s.connect(W2)
    assert s.send(event) == []
    assert s.ready(W2) == [s.forward(W2, "a", R1)]


def test_what_a_worker_says_out_of_turn_changes_nothing() -> None:
    s = Script()
    s.busy("a", R1)
    assert s.send(WorkerConnected(W1)) == []
    assert s.send(WorkerFailedToLoad(W1, "after all")) == []
    assert s.send(WorkerBecameReady(W1, 1, 1)) == []
    assert s.instance("a").context_length == 4096
    assert s.finish(W1, R1) == [ForwardOutputs(W1, [b"frames"])]


def test_a_folder_that_disappears_hurts_the_next_load_and_not_this_one() -> None:
    s = Script()
    s.idle("a")
    problem = Failure(Code.MODEL_NOT_FOUND, "/models/a: No such file or directory")
    del s.specs["a"]
    assert s.ask(R1, "a") == [s.forward(W1, "a", R1)]
    assert s.load(R2, "a")[0] == SavePins(["a"])
    s.finish(W1, R1)
    s.unload(R3, "a")
    s.exits(W1)
    s.requests[R4] = SimRequest("a")
    assert s.send(RequestArrived(R4, "a", R4, None, problem)) == [Failed(R4, "model_not_found", problem.message)]
