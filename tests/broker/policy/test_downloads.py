"""Which models are downloaded, which requests wait for them, and their answers: one event at a time."""

from typing import Any

import pytest

from broker.policy.actions import Action, AnnounceModel, DownloadEnded, KillWorker, Readmit, Reply, StartDownload
from broker.policy.budget import Hardware
from broker.policy.downloads import MAX_DOWNLOADS, Downloads
from broker.policy.events import (
    Event,
    GatewayLeft,
    HeartbeatArrived,
    KillRequested,
    LoadRequested,
    ModelMissed,
    ModelPinned,
    PauseEnded,
    RequestArrived,
    RequestCancelled,
    ShutdownRequested,
    TimePassed,
    UnloadRequested,
    WantsModel,
    WorkerConnected,
    WorkerExited,
    WorkerFailedToLoad,
    WorkerProgressed,
    WorkerSampled,
    WorkerStarted,
)
from broker.policy.limits import PoolLimits
from broker.policy.pool import Pool
from broker.policy.snapshot import status
from broker.policy.specs import Exit
from broker.wire.failure import Code, Failure
from tests.broker.policy.script import ELSEWHERE, R1, R2, R3, R4, Failed

A, B, C = "org/a", "org/b", "org/c"
D1, D2, D3 = (f"d{n}-test" for n in (1, 2, 3))
ABSENT = Failure(Code.MODEL_NOT_FOUND, "no model of this name")
BY_HAND = "; by hand: hf download org/a --cache-dir /hub"


def load(request_id: bytes, model_id: str = A) -> LoadRequested:
    return LoadRequested(request_id, model_id, None, ABSENT)


def chat(request_id: bytes, model_id: str = A) -> RequestArrived:
    return RequestArrived(request_id, model_id, b"payload", None, ABSENT)


class Script:
    """Downloads as the broker drives them. Announcements are left out of the actions and kept in `announced`."""

    def __init__(self, *, for_requests: bool = False, **limits: Any) -> None:
        self.now = 1000.0
        self.limits = PoolLimits(2, Hardware(0, 1 << 30), load_stall_timeout=60.0, **limits)
        self.downloads = Downloads(self.limits, "test", "/hub", for_requests=for_requests)
        self.announced: list[tuple[str, str, str | None, float | None]] = []

    def send(self, event: Event) -> list[Action]:
        actions = self.downloads.handle(event, self.now)
        seen = [(a.model_id, a.shown) for a in actions if isinstance(a, AnnounceModel)]
        self.announced += [(model_id, s.state, s.reason, s.fraction) for model_id, s in seen]
        return [a for a in actions if not isinstance(a, AnnounceModel)]

    def miss(self, waiting: WantsModel) -> list[Action]:
        return self.send(ModelMissed(waiting))

    def exits(self, worker_id: str, code: int | None = 0, signal: str | None = None) -> list[Action]:
        return self.send(WorkerExited(worker_id, Exit(code, signal, 0.0, "")))


def test_an_admins_load_starts_a_download_and_comes_again_when_it_is_done() -> None:
    s = Script()
    assert s.miss(load(R1)) == [StartDownload(D1, A)]
    s.send(WorkerStarted(D1, 4711))
    s.send(WorkerConnected(D1))
    s.send(WorkerProgressed(D1, "download", 0.25))
    assert s.announced == [(A, "downloading", None, None), (A, "downloading", None, 0.25)]
    assert s.exits(D1) == [DownloadEnded(A, None), Readmit(load(R1), None)]
    assert s.downloads.all == []
    assert s.downloads.next_deadline() is None


def test_who_asks_meanwhile_joins() -> None:
    s = Script(for_requests=True)
    pin = ModelPinned(A, None, ABSENT)
    assert s.miss(chat(R1)) == [StartDownload(D1, A)]
    assert s.miss(load(R2)) == s.miss(pin) == []
    told = [Readmit(chat(R1), None), Readmit(load(R2), None), Readmit(pin, None)]
    assert s.exits(D1) == [DownloadEnded(A, None), *told]


def test_requests_fetch_nothing_unless_the_settings_say_so() -> None:
    s = Script()
    assert s.miss(chat(R1)) == [Readmit(chat(R1), ABSENT)]
    assert s.miss(ModelPinned(A, None, ABSENT)) == [Readmit(ModelPinned(A, None, ABSENT), ABSENT)]
    s.miss(load(R2))
    [told] = s.miss(chat(R3))
    why = "org/a is being downloaded"
    assert told == Readmit(chat(R3), Failure(Code.MODEL_UNAVAILABLE, why, retry_after=10.0, retryable=True))
    s.send(WorkerProgressed(D1, "download", 0.426))
    [told] = s.miss(chat(R3))
    assert isinstance(told, Readmit)
    assert told.problem is not None
    assert told.problem.message == "org/a is being downloaded (43%)"


def test_so_many_at_once_and_the_others_in_their_order() -> None:
    s = Script()
    names = [f"org/{n}" for n in range(MAX_DOWNLOADS + 2)]
    started = [s.miss(load(b"%d" % n, name)) for n, name in enumerate(names)]
    assert started == [[StartDownload(D1, names[0])], [StartDownload(D2, names[1])], [], []]
    assert s.announced[2:] == [
        (name, "downloading", "waits for another download", None) for name in (*names[2:3], *names[2:])
    ]
    assert s.exits(D2)[-1] == StartDownload(D3, names[2])
    assert [d.model_id for d in s.downloads.all] == [names[0], names[2], names[3]]


def test_a_failure_is_told_to_everyone_with_its_code() -> None:
    s = Script(for_requests=True)
    s.miss(load(R1))
    s.miss(chat(R2))
    problem = Failure(Code.MODEL_NOT_FOUND, "org/a was not downloaded: no such repository")
    [killed] = s.send(WorkerFailedToLoad(D1, "no such repository", Code.MODEL_NOT_FOUND))
    assert killed == KillWorker(D1, problem.message)
    assert s.exits(D1, 1) == [
        DownloadEnded(A, problem.message),
        Readmit(load(R1), problem),
        Readmit(chat(R2), problem),
    ]


@pytest.mark.parametrize(("code", "signal", "how"), [(None, "SIGKILL", "signal SIGKILL"), (3, None, "exit code 3")])
def test_a_death_is_told_with_the_command_that_helps(code: int | None, signal: str | None, how: str) -> None:
    s = Script()
    s.miss(load(R1))
    problem = Failure(Code.MODEL_UNAVAILABLE, f"org/a was not downloaded: {how}{BY_HAND}", retryable=True)
    assert s.exits(D1, code, signal) == [DownloadEnded(A, problem.message), Readmit(load(R1), problem)]
    assert s.miss(load(R2)) == [StartDownload(D2, A)]


def test_one_that_stands_still_is_ended() -> None:
    s = Script()
    s.miss(load(R1))
    s.now += 30
    s.send(WorkerProgressed(D1, "download", 0.5))
    assert s.downloads.next_deadline() == s.now + 60
    s.now += 59.9
    assert s.send(TimePassed()) == []
    s.now += 0.1
    why = f"org/a was not downloaded: nothing arrived for 60 s{BY_HAND}"
    assert s.send(TimePassed()) == [KillWorker(D1, why)]
    assert s.send(TimePassed()) == []
    assert s.exits(D1, None, "SIGKILL")[0] == DownloadEnded(A, why)


def test_a_request_that_is_cancelled_waits_no_more_and_a_load_goes_on() -> None:
    s = Script(for_requests=True)
    s.miss(chat(R1))
    s.miss(load(R2))
    assert s.send(RequestCancelled(R1)) == [Failed(R1, "cancelled")]
    assert s.send(RequestCancelled(R2)) == []
    assert s.exits(D1) == [DownloadEnded(A, None), Readmit(load(R2), None, cancelled=True)]


def test_a_gateway_that_leaves_cancels_what_was_its_own() -> None:
    s = Script(for_requests=True)
    for waiting in (chat(R1), load(R2), chat(ELSEWHERE), ModelPinned(A, None, ABSENT)):
        s.miss(waiting)
    assert s.send(GatewayLeft(R1[:8])) == [Failed(R1, "cancelled")]
    readmitted = [a for a in s.exits(D1) if isinstance(a, Readmit)]
    assert readmitted == [
        Readmit(load(R2), None, cancelled=True),
        Readmit(chat(ELSEWHERE), None),
        Readmit(ModelPinned(A, None, ABSENT), None),
    ]


def test_an_id_that_is_used_twice_ends_once() -> None:
    s = Script(for_requests=True)
    s.miss(chat(R1))
    assert s.miss(chat(R1)) == []
    assert s.miss(chat(R1, B)) == []
    assert s.exits(D1) == [DownloadEnded(A, None), Readmit(chat(R1), None)]


def test_so_many_requests_may_wait() -> None:
    s = Script(for_requests=True, max_queue=1)
    s.miss(chat(R1))
    assert s.miss(chat(R2, B)) == [Failed(R2, "rate_limit_exceeded")]
    assert s.miss(load(R3, B)) == [StartDownload(D2, B)]


def test_unload_and_kill_end_a_download_and_are_answered_after_its_exit() -> None:
    s = Script()
    s.miss(load(R1))
    s.send(WorkerStarted(D1, 4711))
    why = f"org/a was not downloaded: an administrator ended it{BY_HAND}"
    assert s.send(UnloadRequested(R2, A, None, False)) == [KillWorker(D1, why)]
    assert s.send(KillRequested(R3, A)) == []
    assert s.exits(D1, None, "SIGKILL") == [
        DownloadEnded(A, why),
        Readmit(load(R1), Failure(Code.MODEL_UNAVAILABLE, why)),
        Reply(R2, {"model_id": A}),
        Reply(R3, {"model_id": A, "pid": 4711}),
    ]


def test_one_that_waits_for_its_turn_is_ended_at_once() -> None:
    s = Script()
    for request_id, model_id in ((R1, A), (R2, B), (R3, C)):
        s.miss(load(request_id, model_id))
    ended, told, answer = s.send(KillRequested(R4, C))
    assert isinstance(ended, DownloadEnded)
    assert isinstance(told, Readmit)
    assert (told.waiting, answer) == (load(R3, C), Reply(R4, {"model_id": C, "pid": None}))


def test_a_shutdown_tells_everyone_and_starts_nothing() -> None:
    s = Script()
    for request_id, model_id in ((R1, A), (R2, B), (R3, C)):
        s.miss(load(request_id, model_id))
    actions = s.send(ShutdownRequested())
    assert [a.waiting for a in actions if isinstance(a, Readmit)] == [load(R1, A), load(R2, B), load(R3, C)]
    assert [a.worker_id for a in actions if isinstance(a, KillWorker)] == [D1, D2]
    assert s.downloads.takes(WorkerExited(D1, Exit(None, "SIGKILL", 0.0, "")))  # the pool does not know it
    assert [type(a) for a in s.exits(D1, None, "SIGKILL")] == [DownloadEnded]
    assert s.miss(load(R4)) == [Readmit(load(R4), ABSENT)]


def test_what_the_pool_gets_to_see() -> None:
    s = Script(for_requests=True)
    exit_ = Exit(0, None, 0.0, "")
    assert s.downloads.takes(ModelMissed(load(R1)))
    assert not s.downloads.takes(KillRequested(R2, A))
    s.miss(load(R1))
    mine = (
        WorkerConnected(D1),
        HeartbeatArrived(D1, 0, 0, 0, 0),
        WorkerSampled(D1, 1, 1, 0.0),
        WorkerExited(D1, exit_),
    )
    assert all(s.downloads.takes(event) for event in (*mine, KillRequested(R2, A), RequestCancelled(R1)))
    pools = (WorkerConnected("w1"), RequestCancelled(R2), KillRequested(R2, B), TimePassed(), ShutdownRequested())
    assert not any(s.downloads.takes(event) for event in (*pools, GatewayLeft(b"gateway1"), load(R3)))


def test_no_event_of_another_process_is_taken_for_a_queued_download() -> None:
    s = Script()
    for n, model_id in enumerate((A, B, C)):
        s.miss(load(b"%d" % n, model_id))
    assert not s.downloads.takes(TimePassed())


def test_two_preloads_are_two_downloads() -> None:
    s = Script(for_requests=True)
    first, second = ModelPinned(A, None, ABSENT), ModelPinned(B, None, ABSENT)
    assert s.miss(first) == [StartDownload(D1, A)]
    assert s.miss(second) == [StartDownload(D2, B)]


def test_a_preload_during_a_download_that_it_may_not_join_fails_for_its_own_reason() -> None:
    s = Script()
    s.miss(load(R1))
    pin = ModelPinned(A, None, ABSENT)
    assert s.miss(pin) == [Readmit(pin, ABSENT)]


def test_a_full_queue_says_when_to_ask_again() -> None:
    s = Script(for_requests=True, max_queue=1)
    s.miss(chat(R1))
    assert s.miss(chat(R2)) == [Failed(R2, "rate_limit_exceeded", "1 requests are already waiting", 1.0, True)]


def test_the_first_download_to_stall_sets_the_deadline() -> None:
    s = Script()
    s.miss(load(R1, A))
    s.now += 10
    s.miss(load(R2, B))
    assert s.downloads.next_deadline() == 1060.0
    s.send(UnloadRequested(R3, A, None, force=False))  # is being ended: it cannot stall
    assert s.downloads.next_deadline() == 1070.0
    s.now += 5
    s.send(WorkerConnected(D2))
    assert s.downloads.next_deadline() == 1075.0


def test_after_a_pause_of_everything_a_download_has_its_time_anew() -> None:
    s = Script()
    s.miss(load(R1))
    s.now += 59
    s.send(PauseEnded())
    assert s.downloads.next_deadline() == 1119.0
    s.now += 59
    assert s.send(TimePassed()) == []


def test_a_download_that_waits_for_its_turn_cannot_stall() -> None:
    s = Script()
    for n, model_id in enumerate((A, B, C)):
        s.miss(load(b"%d" % n, model_id))
    s.now += 59
    s.send(WorkerProgressed(D1, "download", 0.5))
    s.send(WorkerProgressed(D2, "download", 0.5))
    s.now += 2
    assert s.send(TimePassed()) == []
    assert s.downloads.next_deadline() == 1119.0
    assert s.downloads.all[2].problem is None


@pytest.mark.parametrize(
    ("event", "retryable"),
    [
        (TimePassed(), True),
        (ShutdownRequested(), True),
        (WorkerFailedToLoad(D1, "the hub does not answer", Code.MODEL_UNAVAILABLE), True),
        (WorkerFailedToLoad(D1, "no such repository", Code.MODEL_NOT_FOUND), False),
        (UnloadRequested(R2, A, None, force=False), False),
    ],
)
def test_what_may_succeed_later_is_retryable(event: Event, *, retryable: bool) -> None:
    s = Script()
    s.miss(load(R1))
    s.now += 60
    told = [a for a in (*s.send(event), *s.exits(D1, 1)) if isinstance(a, Readmit)]
    assert [a.problem is not None and a.problem.retryable for a in told] == [retryable]


def test_a_shutdown_forgets_what_has_no_process_and_answers_once() -> None:
    s = Script()
    for n, model_id in enumerate((A, B, C)):
        s.miss(load(b"%d" % n, model_id))
    s.send(UnloadRequested(R4, A, None, force=False))
    answers = [a for a in s.send(ShutdownRequested()) if isinstance(a, Reply)]
    assert answers == [Reply(R4, {"model_id": A})]
    assert [d.model_id for d in s.downloads.all] == [A, B]
    assert [type(a) for a in s.exits(D1, None, "SIGKILL")] == [DownloadEnded]


def test_the_status_shows_it_in_place_of_what_the_pool_knows() -> None:
    s = Script()
    pool = Pool(s.limits, "test")
    pool.handle(ModelPinned(A, None, ABSENT), s.now)
    s.miss(load(R1))
    s.send(WorkerStarted(D1, 4711))
    s.send(WorkerProgressed(D1, "download", 0.5))
    [entry] = status(pool, s.now, s.now, 0.0, s.downloads.all)["models"]
    shown = {name: entry[name] for name in ("model_id", "state", "reason", "fraction", "pid", "queued", "since")}
    assert shown == {
        "model_id": A,
        "state": "downloading",
        "reason": None,
        "fraction": 0.5,
        "pid": 4711,
        "queued": 1,
        "since": s.now,
    }
