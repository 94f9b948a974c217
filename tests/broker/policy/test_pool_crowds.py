"""Rule 8, after a death by the memory limit: requests go on, and come, by the bytes that they took."""

from typing import Any

import pytest

from broker.policy.actions import KillWorker
from broker.policy.events import RequestArrived
from broker.policy.suspects import CAREFUL_SECONDS
from tests.broker.policy.script import R1, R2, R3, R4, R5, R6, R7, R8, W1, W2, W3, W4, Failed, Script
from tests.broker.policy.test_pool_suspects import asked, goes_on, ready, sent
from tests.broker.policy.world_books import MIB, SimRequest


def bounded(*, ranks: int = 1, **limits: Any) -> Script:
    """The model a takes 100 MiB, and its process may take 1000."""
    s = Script(memory=10_000, **limits)
    s.add_model("a", 100, memory_limit_bytes=1000 * MIB, ranks=ranks)
    return s


def takes_too_much(s: Script, worker_id: str, footprint: int) -> None:
    """The process is killed for these MiB."""
    actions = [action for _ in range(3) for action in s.sample(worker_id, footprint)]
    assert any(isinstance(action, KillWorker) for action in actions)


@pytest.mark.parametrize("begun", [False, True])
def test_after_the_memory_limit_as_many_go_on_together_as_fit_by_bytes(begun: bool) -> None:
    """The six took 200 MiB each, and three quarters of the 900 MiB beside the model are filled again."""
    s = bounded()
    six = (R1, R2, R3, R4, R5, R6)
    asked(s, *six)
    if begun:
        s.text(W1, *six)
    takes_too_much(s, W1, 1300)
    s.dies(W1)
    if begun:
        goes_on(s, *six)
    assert sent(ready(s, W2)) == [R1, R2, R3]
    assert sent(s.ask(R7, "a", resumes=2)) == []  # others wait behind them
    assert sent(s.text(W2, R1, R2, R3)) == []
    assert sent(s.finish(W2, R2)) == [R4]
    assert sent(s.cancel(R4)) == []  # its memory comes back when the process has confirmed it
    assert sent(s.finish(W2, R4)) == [R5]
    assert sent(s.finish(W2, R1, R3)) == [R6, R7]


def crowd(s: Script, *, resumes: int = 2) -> tuple[bytes, ...]:
    """Of six requests three are in the second process, and three wait for them."""
    six = (R1, R2, R3, R4, R5, R6)
    asked(s, *six, resumes=resumes)
    takes_too_much(s, W1, 1300)
    s.dies(W1)
    assert sent(ready(s, W2)) == [R1, R2, R3]
    return six


def newcomers(s: Script, first: int, count: int, *, resumes: int = 2) -> list[bytes]:
    """Which of so many new requests are sent at once."""
    ids = [b"gatewayA%08d" % number for number in range(first, first + count)]
    return [request_id for new in ids for request_id in sent(s.ask(new, "a", resumes=resumes))]


@pytest.mark.parametrize("resumes", [0, 2])
def test_after_the_memory_limit_new_requests_do_not_make_the_same_load(resumes: int) -> None:
    """Nor do those that may not go on, and those that come when all that were there have ended."""
    s = bounded()
    crowd(s, resumes=resumes)
    s.text(W2, R1, R2, R3)
    assert newcomers(s, 1, 10, resumes=resumes) == []
    assert sent(s.finish(W2, R1, R2, R3)) == [R4, R5, R6]
    assert sent(s.finish(W2, R4)) == [b"gatewayA00000001"]
    assert sent(s.finish(W2, R5, R6)) == [b"gatewayA00000002", b"gatewayA00000003"]
    assert newcomers(s, 20, 2) == []


def test_some_time_after_the_load_and_the_last_that_was_there_requests_come_as_before() -> None:
    s = bounded()
    six = crowd(s)
    s.wait(CAREFUL_SECONDS, W2)
    assert newcomers(s, 1, 5) == []  # some are left
    s.finish(W2, *six[:3])
    assert sent(s.finish(W2, *six[3:])) == [b"gatewayA%08d" % number for number in range(1, 6)]


def test_the_time_counts_from_the_load_and_it_wakes_up_by_itself() -> None:
    s = bounded()
    six = (R1, R2, R3, R4, R5, R6)
    asked(s, *six)
    takes_too_much(s, W1, 1300)
    s.dies(W1)
    s.connect(W2)
    for part in range(1, 20):  # a load of more than a minute
        s.wait(5.0, W2)
        s.progress(W2, "weights", part / 20)
    s.ready(W2)
    s.finish(W2, *six[:3])
    s.finish(W2, *six[3:])
    new = newcomers(s, 1, 5)
    assert len(new) == 3
    s.wait(CAREFUL_SECONDS - 1.0, W2)
    s.text(W2, *new)
    assert s.pool.next_deadline() == s.now + 1.0
    assert sent(s.wait(1.0, W2)) == [b"gatewayA00000004", b"gatewayA00000005"]


def test_a_load_by_an_administrator_forgets_it_when_all_that_were_there_have_ended() -> None:
    s = bounded()
    six = crowd(s)
    s.load(R7, "a")
    assert newcomers(s, 1, 5) == []
    s.finish(W2, *six[:3])
    assert len(sent(s.finish(W2, *six[3:]))) == 5


def test_those_that_wait_for_memory_are_no_victims_of_a_full_queue() -> None:
    s = bounded(queue_timeout=5.0, stall_timeout=60.0)
    crowd(s)
    newcomers(s, 1, 1)
    s.text(W2, R1, R2, R3)
    for _ in range(2):
        assert s.wait(20.0, W2) == []
        s.text(W2, R1, R2, R3)
    assert sent(s.finish(W2, R1, R2, R3)) == [R4, R5, R6]
    assert sent(s.finish(W2, R4)) == [b"gatewayA00000001"]


def test_one_whose_payload_never_comes_is_not_waited_for_longer_after_the_memory_limit() -> None:
    s = bounded(queue_timeout=20.0)
    asked(s, R1)
    s.text(W1, R1)
    takes_too_much(s, W1, 1300)
    s.dies(W1)
    ready(s, W2)
    assert s.wait(19.9, W2) == []
    assert s.wait(0.1, W2) == [Failed(R1, "model_unavailable")]


def test_a_prompt_is_counted_beside_requests_that_wait_for_memory() -> None:
    s = bounded()
    crowd(s)
    assert newcomers(s, 1, 1) == []
    s.requests[R8] = SimRequest("a")
    assert sent(s.send(RequestArrived(R8, "a", R8, s.specs["a"], task="count"))) == [R8]
    assert sent(s.finish(W2, R8)) == []


def test_a_process_that_takes_too_much_without_requests_holds_back_none() -> None:
    s = bounded()
    asked(s, R1)
    s.finish(W1, R1)
    takes_too_much(s, W1, 1300)
    s.dies(W1)
    asked(s, R2, R3, R4, worker_id=W2)
    assert all(s.requests[request_id].forwards == 1 for request_id in (R2, R3, R4))


def test_if_that_is_too_much_again_fewer_go_on() -> None:
    s = bounded()
    asked(s, R1, R2, R3, R4)
    s.text(W1, R1, R2, R3, R4)
    takes_too_much(s, W1, 1010)
    s.dies(W1)
    goes_on(s, R1, R2, R3, R4)
    assert sent(ready(s, W2)) == [R1, R2]
    s.text(W2, R1, R2)
    takes_too_much(s, W2, 1010)
    s.dies(W2)
    goes_on(s, R1, R2)
    s.wait(0.5)
    assert sent(ready(s, W3)) == [R1]
    assert sent(s.finish(W3, R1)) == [R2]
    assert sent(s.finish(W3, R2)) == [R3, R4]


def test_one_that_takes_more_than_there_is_goes_on_alone() -> None:
    s = bounded()
    asked(s, R1, R2)
    takes_too_much(s, W1, 100_000)
    s.dies(W1)
    assert sent(ready(s, W2)) == [R1]
    assert sent(s.text(W2, R1)) == []
    assert sent(s.finish(W2, R1)) == [R2]


def test_a_suspect_is_none_when_the_next_process_has_taken_too_much() -> None:
    """It is known why that one ended; the first death is behind it."""
    s = bounded()
    asked(s, R1, R2)
    s.text(W1, R1)
    s.dies(W1)
    goes_on(s, R1)
    assert sent(ready(s, W2)) == [R1]
    assert sent(s.text(W2, R1)) == [R2]
    takes_too_much(s, W2, 1300)
    s.dies(W2)
    goes_on(s, R1)
    s.wait(0.5)
    assert sent(ready(s, W3)) == [R1]
    assert sent(s.text(W3, R1)) == []
    assert sent(s.finish(W3, R1)) == [R2]


def test_a_suspect_goes_on_by_bytes_too() -> None:
    """Of the three two fit; then R2 has no output yet when its process dies."""
    s = bounded()
    asked(s, R1, R2, R3)
    takes_too_much(s, W1, 1010)
    s.dies(W1)
    assert sent(ready(s, W2)) == [R1, R2]
    s.text(W2, R1)
    s.dies(W2)
    goes_on(s, R1)
    s.wait(0.5)
    assert sent(ready(s, W3)) == [R1, R3]
    assert sent(s.text(W3, R1, R3)) == []
    assert sent(s.ask(R4, "a", resumes=2)) == []
    assert sent(s.finish(W3, R3)) == [R2]
    assert sent(s.text(W3, R2)) == []
    assert sent(s.finish(W3, R1)) == [R4]


def test_what_is_measured_of_two_processes_counts_without_the_model() -> None:
    """The second one has 600 MiB for requests, and each of four takes 175 of them."""
    s = bounded(ranks=2)
    s.ask(R1, "a", resumes=2)
    for worker_id in (W1, W2):
        s.connect(worker_id)
    s.ready(W1, 100)
    s.ready(W2, 400)
    for request_id in (R2, R3, R4):
        s.ask(request_id, "a", resumes=2)
    s.sample(W1, 500)
    takes_too_much(s, W2, 1100)
    for worker_id in (W1, W2):
        s.dies(worker_id)
    for worker_id in (W3, W4):
        s.connect(worker_id)
    s.ready(W3, 100)
    assert sent(s.ready(W4, 400)) == [R1, R2]
