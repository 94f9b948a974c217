"""Downloads that nothing but a pull asks for, the progress that it hears, and what else asks for a missing model."""

from broker.policy.actions import DownloadEnded, KillWorker, Readmit, Reply, StartDownload, TellProgress
from broker.policy.events import (
    CancelPullRequested,
    GatewayLeft,
    KeepRequested,
    LoadRequested,
    PullRequested,
    RemoveRequested,
    RequestCancelled,
    ShutdownRequested,
    UnloadRequested,
    WorkerConnected,
    WorkerFailedToLoad,
    WorkerProgressed,
)
from broker.wire.failure import Code, Failure
from tests.broker.policy.script import R1, R2, R3, R4, Failed
from tests.broker.policy.test_downloads import ABSENT, D1, D2, A, B, C, Script, chat, load


def pull(request_id: bytes, model_id: str = A, *, stream: bool = True) -> PullRequested:
    return PullRequested(request_id, model_id, stream, None, ABSENT)


def keep(request_id: bytes, model_id: str = A) -> KeepRequested:
    return KeepRequested(request_id, model_id, 20.0, None, ABSENT)


def progress(
    request_id: bytes,
    fraction: float | None = None,
    done: int = 0,
    total: int = 0,
    *,
    model_id: str = A,
    reason: str | None = None,
) -> TellProgress:
    body = {
        "model_id": model_id,
        "reason": reason,
        "fraction": fraction,
        "done_bytes": done,
        "total_bytes": total,
    }
    return TellProgress(request_id, body)


def test_a_pull_fetches_and_hears_how_far_it_is() -> None:
    s = Script()
    assert s.miss(pull(R1)) == [StartDownload(D1, A), progress(R1)]
    s.send(WorkerConnected(D1))
    assert s.send(WorkerProgressed(D1, "download", 0.25, 0, 5, 20)) == [progress(R1, 0.25, 5, 20)]
    assert s.miss(pull(R2)) == [progress(R2, 0.25, 5, 20)]
    assert s.miss(pull(R3, stream=False)) == []
    both = [progress(R1, 0.5, 10, 20), progress(R2, 0.5, 10, 20)]
    assert s.send(WorkerProgressed(D1, "download", 0.5, 0, 10, 20)) == both
    told = [Readmit(pull(R1), None), Readmit(pull(R2), None), Readmit(pull(R3, stream=False), None)]
    assert s.exits(D1) == [DownloadEnded(A, None), *told]


def test_one_that_waits_for_other_downloads_hears_so() -> None:
    s = Script()
    s.miss(load(R1, A))
    s.miss(load(R2, B))
    assert s.miss(pull(R3, C)) == [progress(R3, model_id=C, reason="waits for another download")]


def test_a_client_that_leaves_ends_no_download() -> None:
    s = Script()
    s.miss(pull(R1))
    s.miss(pull(R2))
    assert s.downloads.takes(RequestCancelled(R1))
    assert s.send(RequestCancelled(R1)) == [Failed(R1, "cancelled")]
    assert s.send(GatewayLeft(b"gatewayA")) == [Failed(R2, "cancelled")]
    assert s.send(WorkerProgressed(D1, "download", 0.5, 0, 10, 20)) == []
    assert s.miss(pull(R3)) == [progress(R3, 0.5, 10, 20)]
    assert s.exits(D1) == [DownloadEnded(A, None), Readmit(pull(R3), None)]


def test_it_joins_a_load_and_learns_how_that_ends() -> None:
    s = Script()
    s.miss(load(R1))
    s.miss(pull(R2))
    s.send(WorkerFailedToLoad(D1, "no such repository", Code.MODEL_NOT_FOUND))
    problem = Failure(Code.MODEL_NOT_FOUND, "org/a was not downloaded: no such repository")
    assert s.exits(D1, 1) == [
        DownloadEnded(A, problem.message),
        Readmit(load(R1), problem),
        Readmit(pull(R2), problem),
    ]


def test_an_unload_ends_it() -> None:
    s = Script()
    s.miss(pull(R1))
    assert [type(a) for a in s.send(UnloadRequested(R2, A, None, False))] == [KillWorker]
    ended, readmit, reply = s.exits(D1, None, "SIGKILL")
    assert isinstance(ended, DownloadEnded)
    assert isinstance(readmit, Readmit)
    assert readmit.problem is not None
    assert "an administrator ended it" in readmit.problem.message
    assert reply == Reply(R2, {"model_id": A})


def test_a_cancel_ends_it_for_all_that_wait() -> None:
    s = Script()
    s.miss(pull(R1))
    assert [type(a) for a in s.send(CancelPullRequested(R2, A))] == [KillWorker]
    ended, readmit, reply = s.exits(D1, None, "SIGKILL")
    assert isinstance(ended, DownloadEnded)
    assert isinstance(readmit, Readmit)
    assert readmit.problem is not None
    assert "an administrator ended it" in readmit.problem.message
    assert reply == Reply(R2, {"model_id": A})
    assert s.send(CancelPullRequested(R3, A)) == [Failed(R3, "not_loaded", "not being downloaded")]


def test_a_cancel_of_one_that_waits_its_turn_is_answered_at_once() -> None:
    s = Script()
    for request_id, model_id in ((R1, A), (R2, B), (R3, C)):
        s.miss(pull(request_id, model_id, stream=False))
    ended, readmit, reply = s.send(CancelPullRequested(R4, C))
    assert (ended.model_id, readmit.waiting.request_id) == (C, R3)  # type: ignore[union-attr]
    assert reply == Reply(R4, {"model_id": C})


def test_a_cancel_ends_no_model() -> None:
    s = Script()
    assert s.send(CancelPullRequested(R1, A)) == [Failed(R1, "not_loaded", f"Model not being downloaded: {A}")]


def test_at_the_end_it_gets_the_reason() -> None:
    s = Script()
    s.miss(pull(R1))
    [_, readmit] = s.send(ShutdownRequested())
    assert isinstance(readmit, Readmit)
    assert readmit.problem is not None
    assert s.miss(pull(R2, B)) == [Readmit(pull(R2, B), ABSENT)]


def test_pulls_are_not_bounded_by_the_queue() -> None:
    s = Script(for_requests=True, max_queue=1)
    s.miss(chat(R1))
    assert s.miss(pull(R2, stream=False)) == []
    assert s.miss(chat(R3)) == [Failed(R3, "rate_limit_exceeded", "1 requests")]


def test_what_is_being_downloaded_is_not_removed() -> None:
    s = Script()
    s.miss(pull(R1))
    remove = RemoveRequested(R2, A, ())
    assert s.downloads.takes(remove)
    assert s.send(remove) == [Failed(R2, "model_in_use", "it is being downloaded")]
    other = RemoveRequested(R3, B, ())
    assert not s.downloads.takes(other)
    assert s.send(other) == []


def test_a_keep_fetches_no_more_than_a_request_does() -> None:
    s = Script()
    assert s.miss(keep(R1)) == [Readmit(keep(R1), ABSENT)]
    s.miss(LoadRequested(R2, A, None, ABSENT))
    [told] = s.miss(keep(R3))
    assert isinstance(told, Readmit)
    assert told.problem is not None
    assert told.problem.message == "org/a is being downloaded"


def test_a_keep_may_fetch_where_requests_may_and_is_bounded_like_them() -> None:
    s = Script(for_requests=True, max_queue=2)
    assert s.miss(keep(R1)) == [StartDownload(D1, A)]
    assert s.miss(keep(R2, B)) == [StartDownload(D2, B)]
    assert s.miss(keep(R3)) == [Failed(R3, "rate_limit_exceeded", "2 requests")]
    assert s.miss(chat(R4)) == [Failed(R4, "rate_limit_exceeded", "2 requests")]
    assert s.send(RequestCancelled(R1)) == [Failed(R1, "cancelled")]
    assert s.exits(D2) == [DownloadEnded(B, None), Readmit(keep(R2, B), None)]
