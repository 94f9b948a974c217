"""The id that logs give a request stays with it until it ends, whatever happens to its processes."""

from broker.policy.actions import Fail, ForwardRequest
from broker.policy.events import RequestArrived
from tests.broker.policy.script import R1, Script
from tests.broker.policy.world_books import SimRequest


def test_it_goes_to_each_process_that_gets_the_request_and_to_its_failure() -> None:
    s = Script()
    first = s.idle("a")
    s.requests[R1] = SimRequest("a")
    event = RequestArrived(R1, "a", R1, s.specs["a"], trace="mine")
    assert s.send(event) == [ForwardRequest(first, R1, "a", R1, trace="mine")]
    s.dies(first)
    second = s.worker("a").worker_id
    s.connect(second)
    assert ForwardRequest(second, R1, "a", R1, trace="mine") in s.ready(second)
    s.text(second, R1)
    [fail] = [action for action in s.dies(second) if isinstance(action, Fail)]
    assert (fail.request_id, fail.failure.code, fail.trace) == (R1, "worker_died", "mine")
