"""Rule 8: answers go on in the next process, and a request that kills one process after the other is found."""

from broker.policy.actions import Action, Fail, ForwardRequest, KillWorker, Reply, StartWorker, TellLost
from broker.policy.events import RequestResumed, ShutdownRequested
from broker.wire.failure import DEVICE_EXIT_CODE
from tests.broker.policy.script import R1, R2, R3, R4, R5, R6, W1, W2, W3, W4, Failed, Script

DIED = "the process of a died (signal SIGKILL)"
SUSPECT = "this request ended two processes of a before its first output, the second one alone"


def asked(s: Script, *request_ids: bytes, resumes: int = 2, worker_id: str = W1) -> None:
    """The model a is loaded and has these requests."""
    s.ask(request_ids[0], "a", resumes=resumes)
    s.connect(worker_id)
    s.ready(worker_id)
    for request_id in request_ids[1:]:
        s.ask(request_id, "a", resumes=resumes)


def ready(s: Script, worker_id: str) -> list[Action]:
    s.connect(worker_id)
    return s.ready(worker_id)


def sent(actions: list[Action]) -> list[bytes]:
    return [action.request_id for action in actions if isinstance(action, ForwardRequest)]


def goes_on(s: Script, *request_ids: bytes) -> list[bytes]:
    """Their gateway sends what the next process needs; which requests are sent to it then."""
    actions: list[Action] = []
    for request_id in request_ids:
        s.lost.discard(request_id)
        s.requests[request_id].lost = False
        actions += s.send(RequestResumed(request_id, s.requests[request_id].payload))
    return sent(actions)


# ---- answers go on ------------------------------------------------------------------------------------------------


def test_an_answer_goes_on_with_what_its_gateway_sends() -> None:
    s = Script()
    asked(s, R1)
    s.text(W1, R1)
    assert s.dies(W1) == [TellLost(R1), StartWorker(W2, spare=False)]
    assert ready(s, W2) == []  # its payload has not come
    s.lost.clear()
    s.requests[R1].lost = False
    payload = s.requests[R1].payload
    assert s.send(RequestResumed(R1, payload)) == [ForwardRequest(W2, R1, "a", payload)]
    assert len(s.finish(W2, R1)) == 1


def test_a_payload_that_comes_while_the_process_loads_waits_for_it() -> None:
    s = Script()
    asked(s, R1)
    s.text(W1, R1)
    s.dies(W1)
    assert goes_on(s, R1) == []
    assert sent(ready(s, W2)) == [R1]
    # Twice, or after the end: nothing waits for it.
    assert s.send(RequestResumed(R1, b"again")) == []
    s.finish(W2, R1)
    assert s.send(RequestResumed(R1, b"again")) == []


def test_it_goes_on_as_often_as_it_may_and_then_ends_as_ever() -> None:
    s = Script()
    asked(s, R1)
    s.text(W1, R1)
    for dying, following in ((W1, W2), (W2, W3)):
        assert TellLost(R1) in s.dies(dying)
        goes_on(s, R1)
        s.wait(0.5)
        assert sent(ready(s, following)) == [R1]
        s.text(following, R1)
    says = f"{DIED}; it is process 3 that ended under this request, which may go on 2 times"
    assert s.dies(W3) == [Failed(R1, "worker_died", says, retryable=True)]


def test_without_a_limit_it_ends_at_once() -> None:
    s = Script()
    asked(s, R1, resumes=0)
    s.text(W1, R1)
    assert s.dies(W1) == [Failed(R1, "worker_died", DIED)]


def test_a_client_that_leaves_meanwhile_is_cancelled() -> None:
    s = Script()
    asked(s, R1)
    s.text(W1, R1)
    s.dies(W1)
    assert s.cancel(R1) == [Failed(R1, "cancelled")]
    s.lost.clear()
    assert s.send(RequestResumed(R1, b"late")) == []


def test_a_gateway_that_leaves_takes_its_answers_along() -> None:
    s = Script()
    asked(s, R1)
    s.text(W1, R1)
    s.dies(W1)
    assert s.gateway_leaves(R1[:8]) == [Failed(R1, "cancelled")]


def test_a_payload_that_never_comes_is_waited_for_as_long_as_for_room() -> None:
    s = Script(queue_timeout=20.0)
    asked(s, R1)
    s.text(W1, R1)
    s.dies(W1)
    ready(s, W2)
    assert s.wait(19.9, W2) == []
    assert s.wait(0.1, W2) == [Failed(R1, "model_unavailable")]


def test_a_kill_by_an_administrator_lets_answers_go_on_unless_it_says_otherwise() -> None:
    for resume in (True, False):
        s = Script()
        asked(s, R1)
        s.text(W1, R1)
        says = Failed(R1, "worker_died", "killed by an administrator")
        assert s.kill(R2, "a", resume=resume)[1:] == [TellLost(R1) if resume else says]
        assert [a.request_id for a in s.dies(W1) if isinstance(a, Reply)] == [R2]
        assert s.model("a").deaths == 0


def test_an_unload_by_force_and_a_shutdown_end_answers() -> None:
    s = Script()
    asked(s, R1)
    s.text(W1, R1)
    assert Failed(R1, "worker_died", "unload by force") in s.unload(R2, "a", timeout=0.0, force=True)
    s = Script()
    asked(s, R1)
    s.text(W1, R1)
    s.dies(W1)
    assert Failed(R1, "model_unavailable") in s.send(ShutdownRequested())


def test_they_end_those_too_that_wait_for_their_turn_to_go_on() -> None:
    for ending in ("kill", "force"):
        s = Script()
        asked(s, R1, R2, R3)
        s.text(W1, R1, R2)
        s.dies(W1)
        goes_on(s, R1)
        assert sent(ready(s, W2)) == [R1]  # R2 is waited for, and R3 is a suspect
        actions = s.kill(R5, "a", resume=False) if ending == "kill" else s.unload(R5, "a", timeout=0.0, force=True)
        ended = [action.request_id for action in actions if isinstance(action, Fail)]
        assert sorted(ended) == [R1, R2]


def test_a_load_that_fails_ends_what_would_go_on() -> None:
    s = Script()
    asked(s, R1)
    s.text(W1, R1)
    s.dies(W1)
    s.connect(W2)
    assert Failed(R1, "load_failed") in s.load_fails(W2)


# ---- suspects -----------------------------------------------------------------------------------------------------


def test_a_suspect_goes_last_and_alone_and_all_others_go_at_once() -> None:
    s = Script()
    asked(s, R1, R2, R3, R4)
    s.text(W1, R2, R4)
    s.dies(W1)
    goes_on(s, R2, R4)
    assert sent(ready(s, W2)) == [R2, R4]
    assert sent(s.ask(R5, "a", resumes=2)) == []  # behind the suspects: they would never be alone
    assert sent(s.text(W2, R2)) == []
    assert sent(s.text(W2, R4)) == [R1]
    assert sent(s.text(W2, R4)) == []
    assert sent(s.text(W2, R1)) == [R3]
    assert sent(s.finish(W2, R3)) == [R5]


def test_a_suspect_waits_for_those_whose_gateways_are_late() -> None:
    s = Script()
    asked(s, R1, R2, R3)
    s.text(W1, R2, R3)
    s.dies(W1)
    goes_on(s, R2)
    assert sent(ready(s, W2)) == [R2]
    assert sent(s.text(W2, R2)) == []
    goes_on(s, R3)
    assert sent(s.text(W2, R3)) == [R1]


def test_a_suspect_and_those_behind_it_are_no_victims_of_a_full_queue() -> None:
    s = Script(queue_timeout=5.0, stall_timeout=60.0)
    asked(s, R1, R2)
    s.text(W1, R2)
    s.dies(W1)
    goes_on(s, R2)
    assert sent(ready(s, W2)) == [R2]
    s.ask(R3, "a", resumes=2)
    assert sent(s.wait(20.0, W2)) == []
    assert sent(s.text(W2, R2)) == [R1]
    assert sent(s.wait(20.0, W2)) == []
    assert sent(s.text(W2, R1)) == [R3]


def test_a_suspect_that_kills_again_is_refused_and_nobody_else() -> None:
    s = Script()
    asked(s, R1, R2, R3)
    s.text(W1, R1)
    s.dies(W1)
    assert s.model("a").deaths == 1
    goes_on(s, R1)
    ready(s, W2)
    assert sent(s.text(W2, R1)) == [R2]
    assert s.dies(W2, "SIGSEGV") == [
        Failed(R2, "worker_died", f"{SUSPECT} (signal SIGSEGV)", retryable=False),
        TellLost(R1),
        StartWorker(W3, spare=False),
    ]
    assert s.model("a").deaths == 0  # neither was the model's
    goes_on(s, R1)
    assert sent(ready(s, W3)) == [R1]
    assert sent(s.text(W3, R1)) == [R3]
    s.text(W3, R3)
    s.finish(W3, R1, R3)


def test_suspects_that_are_like_it_are_refused_with_it() -> None:
    s = Script()
    asked(s, R1)
    s.finish(W1, R1)
    for request_id, origin in ((R2, b"poison"), (R3, b""), (R4, b"poison")):
        s.ask(request_id, "a", origin=origin, resumes=2)
    s.dies(W1)
    assert sent(ready(s, W2)) == [R2]
    ended = [action.request_id for action in s.dies(W2) if isinstance(action, Fail)]
    assert ended == [R2, R4]
    assert sent(ready(s, W3)) == [R3]


def test_a_hang_makes_suspects_too() -> None:
    s = Script(stall_timeout=20.0)
    asked(s, R1, R2)
    assert s.wait(20.0, W1) == [KillWorker(W1, "hung: no progress for 20 s")]
    s.dies(W1)
    assert sent(ready(s, W2)) == [R1]
    assert Failed(R1, "worker_died", SUSPECT, retryable=False) in s.wait(20.0, W2)


def test_an_error_of_the_gpu_makes_suspects_and_convicts_none() -> None:
    s = Script()
    asked(s, R1, R2)
    s.dies(W1, code=DEVICE_EXIT_CODE)
    assert sent(ready(s, W2)) == [R1]
    s.dies(W2, code=DEVICE_EXIT_CODE)
    s.wait(0.5)
    assert sent(ready(s, W3)) == [R1]
    says = f"exit code {DEVICE_EXIT_CODE}); it is process 3 that ended under this request, which may go on 2 times"
    assert Failed(R1, "worker_died", says, retryable=True) in s.dies(W3, code=DEVICE_EXIT_CODE)


def test_where_the_culprit_is_known_the_others_are_no_suspects() -> None:
    s = Script()
    asked(s, R1, R2, R3)
    s.dies(W1, "SIGSEGV", intake=R2)
    assert sent(ready(s, W2)) == [R1, R3]
    # Also if it becomes known when the process has gone.
    s = Script(stall_timeout=20.0)
    asked(s, R1, R2, R3)
    s.wait(20.0, W1)
    s.dies(W1, intake=R2)
    assert sent(ready(s, W2)) == [R1, R3]


def test_a_kill_by_an_administrator_makes_no_suspects() -> None:
    s = Script()
    asked(s, R1, R2)
    s.kill(R3, "a")
    s.dies(W1)
    assert sent(ready(s, W2)) == [R1, R2]


def test_two_suspects_in_a_row_mean_that_the_model_is_broken() -> None:
    s = Script()
    asked(s, R1, R2)
    s.dies(W1)
    ready(s, W2)
    s.dies(W2)
    assert s.model("a").deaths == 0
    assert sent(ready(s, W3)) == [R2]
    assert Failed(R2, "worker_died", SUSPECT) in s.dies(W3)
    assert s.model("a").deaths == 1


def test_an_output_between_two_suspects_clears_the_model() -> None:
    s = Script()
    asked(s, R1, R2, R3)
    s.dies(W1)
    ready(s, W2)
    s.dies(W2)
    ready(s, W3)
    s.finish(W3, R2)
    s.dies(W3)
    assert s.model("a").deaths == 0


def test_a_suspect_that_was_not_alone_is_a_suspect_still() -> None:
    """A request that may not go on may give no output before its end: suspects do not wait for it."""
    s = Script()
    asked(s, R1)
    s.finish(W1, R1)
    s.ask(R2, "a", resumes=2)
    s.ask(R3, "a")
    s.dies(W1)
    assert sent(ready(s, W2)) == [R3, R2]
    assert s.dies(W2)[0] == Failed(R3, "worker_died", DIED)
    s.wait(0.5)
    assert sent(ready(s, W3)) == [R2]
    assert Failed(R2, "worker_died", SUSPECT) in s.dies(W3)


# ---- deaths in mid-answer -----------------------------------------------------------------------------------------


def test_after_two_deaths_in_mid_answer_requests_go_on_one_at_a_time() -> None:
    s = Script()
    asked(s, R1, R2, R3)
    for dying, following in ((W1, W2), (W2, W3)):
        s.text(dying, R1, R2, R3)
        s.dies(dying)
        goes_on(s, R1, R2, R3)
        s.wait(0.5)
        s.connect(following)
        actions = s.ready(following)
        assert sent(actions) == ([R1, R2, R3] if following == W2 else [R1])
    assert sent(s.ask(R4, "a", resumes=2)) == [R4]  # others go beside it
    s.text(W3, R4)
    assert sent(s.text(W3, R1)) == []
    assert TellLost(R4) in s.dies(W3)  # R1 was it, and ends
    assert s.requests[R1].ends == 1
    goes_on(s, R4)
    s.wait(1.0)
    assert sent(ready(s, W4)) == [R2, R4]
    s.text(W4, R2, R4)
    assert sent(s.finish(W4, R2)) == [R3]


def test_kills_by_an_administrator_do_not_part_them() -> None:
    s = Script()
    asked(s, R1, R2)
    for kill, dying, following in ((R5, W1, W2), (R6, W2, W3)):
        s.text(dying, R1, R2)
        s.kill(kill, "a")
        s.dies(dying)
        goes_on(s, R1, R2)
        assert sent(ready(s, following)) == [R1, R2]
