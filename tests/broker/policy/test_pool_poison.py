"""Rule 8: a request that ends its process while it is taken in is blamed alone, with those like it."""

import pytest

from broker.policy.actions import Fail, KillWorker, StartWorker
from broker.policy.restart import MAX_DEATHS, REFUSED_SECONDS
from tests.broker.policy.script import R1, R2, R3, R4, W1, W2, W3, Failed, Script

SAYS = "this request ended the process of a while it was taken in"


def poisoned(s: Script, request_id: bytes, worker_id: str) -> None:
    """This worker of the model a dies while it takes this request in."""
    s.ask(request_id, "a")
    s.dies(worker_id, "SIGSEGV", intake=request_id)


def next_worker(s: Script) -> str:
    """The worker that the model a has next, ready."""
    worker_id = s.worker("a").worker_id
    s.connect(worker_id)
    s.ready(worker_id)
    return worker_id


def test_only_the_request_that_was_taken_in_is_refused_and_the_others_are_replayed() -> None:
    s = Script()
    s.busy("a", R1)
    s.ask(R2, "a")
    s.ask(R3, "a")
    s.text(W1, R3)
    assert s.dies(W1, "SIGSEGV", intake=R2) == [
        Failed(R2, "worker_died", f"{SAYS} (signal SIGSEGV)", retryable=False),
        Failed(R3, "worker_died", "the process of a died", retryable=True),
        StartWorker(W2, spare=False),
    ]
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "a", R1)]
    assert s.model("a").deaths == 0


def refused(request_id: bytes) -> Failed:
    return Failed(request_id, "worker_died", f"{SAYS} (signal SIGSEGV)", retryable=False)


@pytest.mark.parametrize("innocent", [0, 1, 2])
def test_what_is_like_it_is_refused_with_it_and_an_innocent_meets_one_death(innocent: int) -> None:
    """Two choices of one request, in any order beside a request of somebody else."""
    s = Script()
    alike = [R1, R2]
    asked = [*alike[:innocent], R3, *alike[innocent:]]
    s.pinned("a")
    for request_id in asked:
        s.ask(request_id, "a", origin=b"" if request_id == R3 else b"poison")
    assert s.dies(W1, "SIGSEGV", intake=R1) == [refused(R1), refused(R2), StartWorker(W2, spare=False)]
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "a", R3)]
    assert s.model("a").deaths == 0


def test_what_is_like_it_and_waits_or_was_lost_before_is_refused_with_it() -> None:
    """A stall ends its process first: then all wait for the next one when it becomes known whose fault it was."""
    s = Script(stall_timeout=20.0)
    s.pinned("a")
    for request_id, origin in ((R1, b"poison"), (R3, b""), (R2, b"poison")):
        s.ask(request_id, "a", origin=origin)
    s.wait(20.0, W1)
    s.ask(R4, "a", origin=b"poison")
    ended = [action.request_id for action in s.dies(W1, intake=R1) if isinstance(action, Fail)]
    assert sorted(ended) == [R1, R2, R4]
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "a", R3)]


def test_what_is_like_it_and_has_gone_ends_cancelled() -> None:
    s = Script()
    s.pinned("a")
    for request_id in (R1, R2):
        s.ask(request_id, "a", origin=b"poison")
    s.cancel(R2)
    assert s.dies(W1, "SIGSEGV", intake=R1)[:2] == [refused(R1), Failed(R2, "cancelled")]


def test_the_same_request_is_refused_for_ten_minutes_and_another_is_not() -> None:
    s = Script()
    s.pinned("a")
    poisoned(s, R1, W1)
    next_worker(s)
    # A client sends its request once more: another id, the same content.
    assert s.ask(R2, "a", origin=R1) == [Failed(R2, "worker_died", SAYS, retryable=False)]
    assert s.ask(R3, "a") == [s.forward(W2, "a", R3)]
    s.finish(W2, R3)
    s.wait(REFUSED_SECONDS, W2)
    assert s.ask(R4, "a", origin=R1) == [s.forward(W2, "a", R4)]


def test_deaths_by_one_request_do_not_count() -> None:
    s = Script()
    worker_id = s.pinned("a")
    for _ in range(MAX_DEATHS + 1):
        request_id = s.new_id("a")
        s.ask(request_id, "a")
        s.dies(worker_id, "SIGSEGV", intake=request_id)
        worker_id = next_worker(s)
        answered = s.new_id("a")
        s.ask(answered, "a")
        s.finish(worker_id, answered)  # an output between: the model does take requests in
    assert s.state("a") == "ready"
    assert s.model("a").deaths == 0


def test_two_different_requests_in_a_row_mean_that_the_model_is_broken() -> None:
    s = Script()
    s.pinned("a")
    poisoned(s, R1, W1)
    next_worker(s)
    s.ask(R2, "a")
    assert s.dies(W2, "SIGSEGV", intake=R2) == [StartWorker(W3, spare=False)]
    assert s.model("a").deaths == 1
    s.connect(W3)
    assert s.ready(W3) == [s.forward(W3, "a", R2)]  # rule 8: it is replayed once


def test_a_stall_while_it_is_taken_in_is_the_requests_fault() -> None:
    s = Script(stall_timeout=20.0)
    s.busy("a", R1)
    assert s.wait(20.0, W1) == [KillWorker(W1, "hung: no progress for 20 s")]
    assert s.dies(W1, intake=R1) == [Failed(R1, "worker_died", f"{SAYS} (hung: no progress for 20 s)", retryable=False)]
    assert s.model("a").deaths == 0


def test_a_kill_by_an_administrator_blames_nobody() -> None:
    s = Script()
    s.busy("a", R1)
    s.kill(R2, "a")
    assert Failed(R1, "worker_died") not in s.dies(W1, intake=R1)
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "a", R1)]


def test_a_kill_by_the_memory_limit_blames_nobody_and_counts() -> None:
    s = Script()
    s.busy("a", R1)
    for _ in range(3):
        s.sample(W1, 100_000)
    s.dies(W1, intake=R1)
    assert s.model("a").deaths == 1
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "a", R1)]


def test_a_client_that_has_gone_ends_cancelled_and_its_request_is_still_known() -> None:
    s = Script()
    s.busy("a", R1)
    s.cancel(R1)
    assert s.dies(W1, intake=R1) == [Failed(R1, "cancelled")]
    assert s.ask(R2, "a", origin=R1) == [Failed(R2, "worker_died", SAYS)]


def test_a_mark_of_a_request_that_is_not_there_blames_nobody() -> None:
    s = Script()
    s.busy("a", R1)
    s.finish(W1, R1)
    s.dies(W1, intake=R1)
    assert s.model("a").deaths == 1
