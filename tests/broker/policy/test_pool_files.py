"""Pulls and removals: what the pool answers once files are here, and whose files stay."""

from collections.abc import Callable

import pytest

from broker.policy.actions import ForgetPrompts, RemoveFiles, Reply
from broker.policy.events import ForgetRequested, PullRequested, ShutdownRequested
from broker.wire.failure import Code, Failure
from tests.broker.policy.script import R1, R2, R3, R9, W1, Failed, Script
from tests.broker.policy.world_books import SimRequest


def test_a_pull_of_what_is_here_is_answered_at_once_and_loads_nothing() -> None:
    s = Script()
    weights = s.specs["a"].weight_bytes
    assert s.pull(R1, "a") == [Reply(R1, {"model_id": "a", "size_bytes": weights})]
    assert s.workers == {}
    assert s.pins == []


def test_a_pull_that_has_failed_says_why() -> None:
    s = Script()
    s.idle("a")
    problem = Failure(Code.MODEL_UNAVAILABLE, "nothing arrived for 120 s")
    for request_id, model_id in ((R1, "x"), (R2, "a")):  # the other one runs, though its files have gone
        s.requests[request_id] = SimRequest(model_id, admin=True)
        actions = s.send(PullRequested(request_id, model_id, True, None, problem))
        assert actions == [Failed(request_id, "model_unavailable", "nothing arrived")]
    assert s.pull(R3, "x") == [Failed(R3, "model_not_found")]


def test_the_files_of_a_model_that_nobody_uses_are_removed() -> None:
    s = Script()
    assert s.remove(R1, "a") == [RemoveFiles(R1, "a")]
    s = Script()
    s.idle("a")
    s.unload(R9, "a")
    s.exits(W1)
    assert s.remove(R1, "a", "a") == [RemoveFiles(R1, "a")]
    s.idle("b")
    assert s.remove(R2, "c", "c") == [RemoveFiles(R2, "c")]


def test_prompts_are_forgotten_where_they_are() -> None:
    s = Script()
    s.idle("a")
    for request_id, model_id, workers in ((R1, "a", (W1,)), (R2, "b", ()), (R3, None, (W1,))):
        s.requests[request_id] = SimRequest(model_id or "", admin=True)
        assert s.send(ForgetRequested(request_id, model_id)) == [ForgetPrompts(request_id, model_id, workers)]


def loading(s: Script) -> str:
    s.loading("a", R1)
    return "a is loading"


def loaded(s: Script) -> str:
    s.idle("a")
    return "a is loaded"


def stopping(s: Script) -> str:
    s.idle("a")
    s.unload(R9, "a")
    return "a is stopping"


def pinned(s: Script) -> str:
    s.pinned("a")
    s.model("a").failure = "5 deaths in a row"
    s.kill(R9, "a")
    s.exits(W1)
    return "a is pinned"


def waited_for(s: Script) -> str:
    s.busy("b", R2)
    s.ask(R1, "a")
    return "a is waited for"


@pytest.mark.parametrize("use", [loading, loaded, stopping, pinned, waited_for])
def test_the_files_of_a_model_in_use_stay(use: Callable[[Script], str]) -> None:
    for name, others in (("a", ()), ("draft", ("draft", "a"))):
        s = Script(max_models=1)
        s.add_model("draft", 10)
        how = use(s)
        says = f"the files of {name} are in use: {how}"
        assert s.remove(R3, name, *others) == [Failed(R3, "model_in_use", says, retryable=False)]


def test_a_failure_goes_with_the_files() -> None:
    s = Script()
    s.loading("a", R1)
    s.model("a").failure = "5 deaths in a row"
    s.model("a").deaths = 5
    s.dies(W1)
    assert s.state("a") == "failed"
    assert s.remove(R2, "a") == [RemoveFiles(R2, "a")]
    assert s.state("a") == "unloaded"
    assert s.model("a").deaths == 0


def test_nothing_is_fetched_or_removed_at_the_end() -> None:
    s = Script()
    s.busy("a", R1)
    s.send(ShutdownRequested())
    assert s.pull(R2, "b") == [Failed(R2, "model_unavailable", "shutting down")]
    assert s.remove(R3, "b") == [Failed(R3, "model_unavailable", "shutting down")]
