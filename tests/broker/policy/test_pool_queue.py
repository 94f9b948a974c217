"""Rule 4: whoever needs room waits in a bounded queue, in order of arrival, and nobody starves."""

from broker.policy.actions import ForwardOutputs, StartWorker, StopWorker
from tests.broker.policy.script import R1, R2, R3, R4, R5, R6, W1, W2, W3, W4, Failed, Script


def test_first_come_first_served() -> None:
    s = Script(max_models=1)
    s.busy("a", R1)
    assert s.ask(R2, "b") == []
    assert s.ask(R3, "c") == []
    assert s.finish(W1, R1) == [ForwardOutputs(W1, [b"frames"]), StopWorker(W1, "evicted for b")]
    assert s.exits(W1) == [StartWorker(W2, spare=False)]
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "b", R2)]
    assert s.finish(W2, R2)[1:] == [StopWorker(W2, "evicted for c")]
    s.exits(W2)
    s.connect(W3)
    assert s.ready(W3) == [s.forward(W3, "c", R3)]


def test_requests_for_one_model_are_served_together() -> None:
    """A B A B becomes AA BB: one load of each instead of two."""
    s = Script(max_models=1)
    s.loading("a", R1)
    s.ask(R2, "b")
    s.ask(R3, "a")
    s.ask(R4, "b")
    assert s.ready(W1) == [s.forward(W1, "a", R1), s.forward(W1, "a", R3)]
    assert s.finish(W1, R1) == [ForwardOutputs(W1, [b"frames"])]
    assert s.finish(W1, R3)[1:] == [StopWorker(W1, "evicted for b")]
    s.exits(W1)
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "b", R2), s.forward(W2, "b", R4)]


def test_would_be_victims_get_no_new_work_so_that_nobody_starves() -> None:
    s = Script(max_models=1)
    s.busy("a", R1)
    assert s.ask(R2, "b") == []
    assert s.ask(R3, "a") == []  # a is ready, and still this one waits its turn
    assert s.finish(W1, R1)[1:] == [StopWorker(W1, "evicted for b")]
    s.exits(W1)
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "b", R2)]
    assert s.finish(W2, R2)[1:] == [StopWorker(W2, "evicted for a")]
    s.exits(W2)
    s.connect(W3)
    assert s.ready(W3) == [s.forward(W3, "a", R3)]


def test_idle_victims_wait_with_the_busy_ones_and_nobody_is_stopped_in_vain() -> None:
    s = Script(memory=1000, max_models=3)
    s.add_model("huge", 950)
    s.idle("a")
    s.busy("b", R1)
    assert s.ask(R2, "huge") == []
    assert s.ask(R3, "a") == []
    assert s.cancel(R2) == [Failed(R2, "cancelled"), s.forward(W1, "a", R3)]


def test_a_model_that_is_nobodys_victim_goes_on_serving() -> None:
    s = Script(max_models=2)
    s.pinned("a")
    s.busy("b", R1)
    assert s.ask(R2, "c") == []
    assert s.ask(R3, "a") == [s.forward(W1, "a", R3)]


def test_of_two_busy_models_the_one_with_the_older_work_is_claimed() -> None:
    s = Script(max_models=2)
    s.busy("a", R1)
    s.now += 1
    s.busy("b", R2)
    assert s.ask(R3, "c") == []
    assert s.ask(R4, "b") == [s.forward(W2, "b", R4)]
    assert s.ask(R5, "a") == []
    assert s.finish(W1, R1)[1:] == [StopWorker(W1, "evicted for c")]


def test_the_claim_ends_when_whoever_made_it_leaves() -> None:
    s = Script(max_models=1)
    s.busy("a", R1)
    s.ask(R2, "b")
    s.ask(R3, "a")
    assert s.cancel(R2) == [Failed(R2, "cancelled"), s.forward(W1, "a", R3)]


def test_who_was_there_before_the_claim_is_served_before_the_eviction() -> None:
    """c waits for a and b to end; a request for b that is older than c's is dispatched, a younger one is not."""
    s = Script(max_models=1)
    s.loading("a", R1)
    s.ask(R2, "a")
    s.ask(R3, "b")
    s.ask(R4, "a")
    assert s.ready(W1) == [s.forward(W1, "a", r) for r in (R1, R2, R4)]
    assert s.ask(R5, "a") == []
    s.finish(W1, R1, R2, R4)
    s.exits(W1)
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "b", R3)]


def test_what_fits_beside_a_start_of_the_head_starts_with_it() -> None:
    s = Script(max_models=3)
    assert s.ask(R1, "a") == [StartWorker(W1, spare=False)]
    assert s.ask(R2, "b") == [StartWorker(W2, spare=False)]
    assert s.ask(R3, "c") == [StartWorker(W3, spare=False)]


def test_a_model_that_can_never_fit_does_not_hold_up_the_queue() -> None:
    s = Script(max_models=2)
    s.add_model("big", 2000)
    s.busy("a", R1)
    s.busy("b", R2)
    s.ask(R3, "c")
    assert s.ask(R4, "big") == [Failed(R4, "insufficient_memory")]
    assert s.finish(W2, R2)[1:] == [StopWorker(W2, "evicted for c")]


def test_a_claim_moves_on_when_another_model_is_free_first() -> None:
    s = Script(max_models=2)
    s.busy("a", R1)
    s.now += 1
    s.busy("b", R2)
    s.ask(R3, "c")
    assert s.ask(R4, "a") == []  # a's work is older: it is a that shall leave
    assert s.finish(W2, R2)[1:] == [StopWorker(W2, "evicted for c"), s.forward(W1, "a", R4)]


# ---- bounds -------------------------------------------------------------------------------------------------------


def test_past_the_bound_of_the_queue_it_says_so_at_once() -> None:
    s = Script(max_models=1, max_queue=2)
    s.busy("a", R1)
    s.ask(R2, "b")
    s.ask(R3, "c")
    says = "2 requests are already waiting for a model, the limit of the queue"
    assert s.ask(R4, "d") == [Failed(R4, "rate_limit_exceeded", says, retry_after=1.0, retryable=True)]
    assert s.ask(R5, "a") == [Failed(R5, "rate_limit_exceeded", says)]  # a is claimed, so it would have to wait
    s.cancel(R3)
    assert s.ask(R6, "d") == []


def test_a_full_queue_does_not_concern_a_model_that_serves() -> None:
    s = Script(max_models=2, max_queue=1)
    s.pinned("a")
    s.busy("b", R1)
    s.ask(R2, "c")
    assert s.ask(R3, "a") == [s.forward(W1, "a", R3)]


def test_a_draining_model_does_not_serve_at_once() -> None:
    s = Script(max_models=1, max_queue=0)
    s.pinned("a")
    assert s.ask(R1, "a") == [s.forward(W1, "a", R1)]
    s.unload(R2, "a")
    assert s.ask(R3, "a") == [Failed(R3, "rate_limit_exceeded")]


def test_past_the_bound_of_one_model_too() -> None:
    s = Script(max_models=2, max_requests_per_model=2)
    s.busy("a", R1)
    s.ask(R2, "a")
    says = "a already has 2 requests, the limit per model"
    assert s.ask(R3, "a") == [Failed(R3, "rate_limit_exceeded", says, retry_after=1.0, retryable=True)]
    assert s.ask(R4, "b") == [StartWorker(W2, spare=False)]
    s.finish(W1, R1)
    assert s.ask(R5, "a") == [s.forward(W1, "a", R5)]


def test_waiting_and_running_requests_count_together() -> None:
    s = Script(max_models=1, max_requests_per_model=2)
    s.busy("a", R1)
    s.ask(R2, "b")
    s.ask(R3, "a")
    assert s.ask(R4, "a") == [Failed(R4, "rate_limit_exceeded", "a already has 2 requests")]


# ---- time ---------------------------------------------------------------------------------------------------------


def test_who_finds_no_room_in_time_is_told() -> None:
    s = Script(max_models=1, queue_timeout=20.0)
    s.busy("a", R1)
    s.ask(R2, "b")
    s.now += 5
    s.ask(R3, "a")
    assert s.wait(14.9, W1) == []
    says = "b found no room for 20 s"
    assert s.wait(0.1, W1) == [
        Failed(R2, "model_unavailable", says, retry_after=1.0, retryable=True),
        s.forward(W1, "a", R3),
    ]


def test_the_clock_stands_still_while_the_model_loads() -> None:
    s = Script(max_models=1, queue_timeout=20.0)
    s.loading("a", R1)
    for _ in range(10):
        assert s.progress(W1, "weights", 0.1) == []
        assert s.wait(9, W1) == []
    assert s.ready(W1) == [s.forward(W1, "a", R1)]


def test_the_clock_starts_anew_when_the_process_it_waited_for_is_gone() -> None:
    s = Script(max_models=1, queue_timeout=20.0)
    s.loading("a", R1)
    s.wait(30, W1)
    assert s.dies(W1) == [StartWorker(W2, spare=False)]
    s.connect(W2)
    assert s.wait(30, W2) == []
    assert s.ready(W2) == [s.forward(W2, "a", R1)]


def test_an_unload_that_waited_for_a_request_goes_on_when_that_gives_up() -> None:
    s = Script(memory=1000, max_models=3, queue_timeout=8.0)
    s.add_model("huge", 950)
    s.idle("a")
    s.busy("b", R1)
    s.ask(R2, "huge")
    s.ask(R3, "a")  # waits, because huge needs the room of a and b
    s.now += 8
    assert s.unload(R4, "a") == [
        Failed(R3, "model_unavailable", "a found no room"),
        Failed(R2, "model_unavailable", "huge found no room"),
        StopWorker(W1, "unload"),
    ]


def test_the_order_of_waiting_survives_a_death() -> None:
    s = Script(max_models=1)
    s.busy("a", R1)
    s.ask(R2, "a")
    s.ask(R3, "b")
    s.ask(R4, "a")
    assert s.dies(W1) == [StartWorker(W2, spare=False)]
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "a", r) for r in (R1, R2, R4)]
    assert s.finish(W2, R1, R2, R4)[1:] == [StopWorker(W2, "evicted for b")]
    assert W4 not in s.workers
