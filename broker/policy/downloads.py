"""Which models are being downloaded, and which requests wait for each. Pure, in the same form as the pool:
`handle(event, now) -> actions`, `next_deadline()`. It reads no clock, socket, file or process table.

A download is a process of its own (worker/hub/download.py): a slow hub, a full disk or a crash concerns no other model.
Events that ask for the model are held back here. When the process has exited, `Readmit` hands them to the pool, with
the model or with the reason why there is none: the pool does not know about downloads.

`takes` says which events are for a download and not for the pool. This file does not know the hub, find models
(catalog.py) or talk to processes (supervisor.py).
"""

from dataclasses import dataclass, field
from typing import Any, assert_never

from broker.policy.actions import (
    Action,
    AnnounceModel,
    DownloadEnded,
    Fail,
    KillWorker,
    Readmit,
    Reply,
    StartDownload,
    TellProgress,
)
from broker.policy.answers import CANCELLED
from broker.policy.events import (
    CancelPullRequested,
    Event,
    GatewayLeft,
    KeepRequested,
    KillRequested,
    LimitsChanged,
    LoadRequested,
    ModelMissed,
    ModelPinned,
    PauseEnded,
    PullRequested,
    RemoveRequested,
    RequestArrived,
    RequestCancelled,
    ShutdownRequested,
    UnloadRequested,
    WantsModel,
    WorkerConnected,
    WorkerExited,
    WorkerFailedToLoad,
    WorkerProgressed,
    WorkerStarted,
)
from broker.policy.limits import PoolLimits
from broker.policy.specs import Shown
from broker.wire.failure import Code, Failure
from broker.wire.states import State

# One download fills the line; more at once only end later.
MAX_DOWNLOADS = 2
_RETRY_SECONDS = 10.0

# Those that a client sends as work, and that are bounded like it.
_QUEUED = RequestArrived | KeepRequested

ProcessEvent = WorkerStarted | WorkerConnected | WorkerProgressed | WorkerFailedToLoad | WorkerExited


@dataclass(slots=True)
class Download:
    """One model on its way. worker_id None: it waits for another download to end. problem: why it is being ended."""

    model_id: str
    since: float
    worker_id: str | None = None
    pid: int | None = None
    fraction: float | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    progressed_at: float = 0.0
    problem: Failure | None = None
    waiting: list[WantsModel] = field(default_factory=list)
    cancelled: set[bytes] = field(default_factory=set)  # loads whose client has gone; what they asked for goes on
    ends: list[UnloadRequested | KillRequested | CancelPullRequested] = field(default_factory=list)

    @property
    def shown(self) -> Shown:
        reason = "waits for another download" if self.worker_id is None else None
        return Shown(State.DOWNLOADING, reason, None, self.fraction)

    @property
    def progress(self) -> dict[str, Any]:
        """The PARTIAL of PULL."""
        return {
            "model_id": self.model_id,
            "reason": self.shown.reason,
            "fraction": self.fraction,
            "done_bytes": self.done_bytes,
            "total_bytes": self.total_bytes,
        }


class Downloads:
    """See the top of this file.

    hub_dir: the cache, for advice. for_requests: whether a client's request fetches too, or only an admin's load.
    """

    def __init__(self, limits: PoolLimits, run_id: str, hub_dir: str, *, for_requests: bool) -> None:
        self._limits = limits
        self._run_id = run_id
        self._hub_dir = hub_dir
        self._for_requests = for_requests
        self._downloads: dict[str, Download] = {}
        self._started = 0
        self._stopping = False
        self._actions: list[Action] = []

    def takes(self, event: Event) -> bool:
        """Whether this event is for a download, and none for the pool."""
        if isinstance(event, ModelMissed | CancelPullRequested):
            return True
        if not self._downloads:
            return False
        if isinstance(event, UnloadRequested | KillRequested | RemoveRequested):
            return event.model_id in self._downloads
        if isinstance(event, RequestCancelled):
            return self._waits(event.request_id)
        worker_id = getattr(event, "worker_id", None)
        return worker_id is not None and self._of(worker_id) is not None

    def handle(self, event: Event, now: float) -> list[Action]:
        """What to do now that `event` has happened; events of the pool alone are ignored. now: seconds, monotonic."""
        self._actions = []
        self._note(event, now)
        for download in self._running():
            if now >= self._stalls_at(download):
                seconds = self._limits.load_stall_timeout
                self._end(download, Code.MODEL_UNAVAILABLE, f"nothing arrived for {seconds:g} s", retryable=True)
        return self._actions

    def _note(self, event: Event, now: float) -> None:
        match event:
            case ModelMissed():
                self._on_model_missed(event, now)
            case RequestCancelled():
                self._cancel(event.request_id)
            case GatewayLeft():
                self._on_gateway_left(event)
            case UnloadRequested() | KillRequested():
                self._on_end_requested(event, now)
            case CancelPullRequested():
                self._on_cancel_requested(event, now)
            case RemoveRequested():
                if event.model_id in self._downloads:
                    why = f"the files of {event.model_id} are in use: it is being downloaded"
                    self._actions.append(Fail(event.request_id, Failure(Code.MODEL_IN_USE, why)))
            case LimitsChanged():
                self._limits = event.limits
            case ShutdownRequested():
                self._on_shutdown_requested()
            case PauseEnded():
                for running in self._running():
                    running.progressed_at = now
            case WorkerStarted() | WorkerConnected() | WorkerProgressed() | WorkerFailedToLoad() | WorkerExited():
                if download := self._of(event.worker_id):
                    self._on_process(download, event, now)
            case _:  # all others are the pool's
                pass

    def next_deadline(self) -> float | None:
        """When to call `handle(TimePassed(), now)` at the latest; None: only when something happens."""
        if not self._downloads:  # nearly always
            return None
        return min([self._stalls_at(d) for d in self._running()], default=None)

    @property
    def all(self) -> list[Download]:
        """For snapshots; not to be changed."""
        return list(self._downloads.values())

    # ---- events from gateways -------------------------------------------------------------------------------------

    def _on_model_missed(self, event: ModelMissed, now: float) -> None:
        waiting = event.waiting
        download = self._downloads.get(waiting.model_id)
        request_id = _id_of(waiting)
        queued = sum(isinstance(w, _QUEUED) for d in self._downloads.values() for w in d.waiting)
        if request_id is not None and self._waits(request_id):
            return  # a gateway that uses an id twice; the first one's end is the end
        if not self._stopping and (self._for_requests or isinstance(waiting, LoadRequested | PullRequested)):
            if isinstance(waiting, _QUEUED) and queued >= self._limits.max_queue:
                why = f"{queued} requests are already waiting for a download, the limit of the queue"
                failure = Failure(Code.RATE_LIMIT_EXCEEDED, why, retry_after=1.0, retryable=True)
                self._actions.append(Fail(waiting.request_id, failure))
            elif download is None:
                self._downloads[waiting.model_id] = Download(waiting.model_id, since=now, waiting=[waiting])
                self._start_next(now)
            else:
                download.waiting.append(waiting)
                self._tell_progress(download, waiting)
        elif download is not None and isinstance(waiting, _QUEUED):
            done = "" if download.fraction is None else f" ({download.fraction:.0%})"
            why = f"{download.model_id} is being downloaded{done}"
            problem = Failure(Code.MODEL_UNAVAILABLE, why, retry_after=_RETRY_SECONDS, retryable=True)
            self._actions.append(Readmit(waiting, problem))
        else:
            self._actions.append(Readmit(waiting, waiting.problem))

    def _cancel(self, request_id: bytes) -> None:
        for download in self._downloads.values():
            for waiting in [w for w in download.waiting if _id_of(w) == request_id]:
                if isinstance(waiting, LoadRequested):
                    download.cancelled.add(request_id)
                else:
                    download.waiting.remove(waiting)
                    self._actions.append(Fail(request_id, CANCELLED))

    def _on_gateway_left(self, event: GatewayLeft) -> None:
        ids = [_id_of(w) for d in self._downloads.values() for w in d.waiting]
        for request_id in ids:
            if request_id is not None and request_id.startswith(event.gateway_id):
                self._cancel(request_id)

    def _on_cancel_requested(self, event: CancelPullRequested, now: float) -> None:
        if event.model_id in self._downloads:
            self._on_end_requested(event, now)
        else:
            why = f"Model not being downloaded: {event.model_id}"
            self._actions.append(Fail(event.request_id, Failure(Code.NOT_LOADED, why)))

    def _on_end_requested(self, event: UnloadRequested | KillRequested | CancelPullRequested, now: float) -> None:
        download = self._downloads.get(event.model_id)
        if download is not None:
            download.ends.append(event)
            self._end(download, Code.MODEL_UNAVAILABLE, "an administrator ended it")
            if download.worker_id is None:
                self._finish(download, now)

    def _on_shutdown_requested(self) -> None:
        self._stopping = True
        for download in self.all:
            self._end(download, Code.MODEL_UNAVAILABLE, "the broker is shutting down", retryable=True)
            self._tell(download)
            if download.worker_id is None:
                del self._downloads[download.model_id]

    # ---- events from the processes --------------------------------------------------------------------------------

    def _on_process(self, download: Download, event: ProcessEvent, now: float) -> None:
        match event:
            case WorkerStarted():
                download.pid = event.pid
            case WorkerConnected():
                download.progressed_at = now
            case WorkerProgressed():
                download.fraction, download.progressed_at = event.fraction, now
                download.done_bytes, download.total_bytes = event.done_bytes, event.total_bytes
                self._announce(download)
            case WorkerFailedToLoad():
                self._end(download, event.code, event.message, retryable=event.code is Code.MODEL_UNAVAILABLE)
            case WorkerExited():
                download.worker_id = None
                if event.exit.code != 0:
                    self._end(download, Code.MODEL_UNAVAILABLE, event.exit.describe(), retryable=True)
                self._finish(download, now)
            case _:
                assert_never(event)

    # ---- what follows ---------------------------------------------------------------------------------------------

    def _of(self, worker_id: str) -> Download | None:
        return next((d for d in self._downloads.values() if d.worker_id == worker_id), None)

    def _running(self) -> list[Download]:
        return [d for d in self._downloads.values() if d.worker_id is not None and d.problem is None]

    def _stalls_at(self, download: Download) -> float:
        return download.progressed_at + self._limits.load_stall_timeout

    def _start_next(self, now: float) -> None:
        """Start what may run now; say of what began to wait that it does."""
        free = MAX_DOWNLOADS - sum(d.worker_id is not None for d in self._downloads.values())
        for position, download in enumerate([d for d in self._downloads.values() if d.worker_id is None]):
            if position < free:
                self._started += 1
                download.worker_id, download.progressed_at = f"d{self._started}-{self._run_id}", now
                self._actions.append(StartDownload(download.worker_id, download.model_id))
            self._announce(download)

    def _end(self, download: Download, code: Code, why: str, *, retryable: bool = False) -> None:
        """The first reason counts. Requests are answered when the process has exited and the next one may start."""
        if download.problem is None:
            message = f"{download.model_id} was not downloaded: {why}"
            if code == Code.MODEL_UNAVAILABLE:
                message += f"; by hand: hf download {download.model_id} --cache-dir {self._hub_dir}"
            download.problem = Failure(code, message, retryable=retryable)
            if download.worker_id is not None:
                self._actions.append(KillWorker(download.worker_id, message))

    def _finish(self, download: Download, now: float) -> None:
        """No process is left of it."""
        del self._downloads[download.model_id]
        problem = download.problem
        self._actions.append(DownloadEnded(download.model_id, problem.message if problem is not None else None))
        self._tell(download)
        if not self._stopping:
            self._start_next(now)

    def _tell(self, download: Download) -> None:
        """Answer every request that waits for this download or its end."""
        for waiting in download.waiting:
            cancelled = _id_of(waiting) in download.cancelled
            self._actions.append(Readmit(waiting, download.problem, cancelled))
        for end in download.ends:
            pid = {"pid": download.pid} if isinstance(end, KillRequested) else {}
            self._actions.append(Reply(end.request_id, {"model_id": download.model_id} | pid))
        download.waiting, download.ends = [], []

    def _waits(self, request_id: bytes) -> bool:
        return any(_id_of(w) == request_id for d in self._downloads.values() for w in d.waiting)

    def _announce(self, download: Download) -> None:
        self._actions.append(AnnounceModel(download.model_id, download.shown))
        for waiting in download.waiting:
            self._tell_progress(download, waiting)

    def _tell_progress(self, download: Download, waiting: WantsModel) -> None:
        if isinstance(waiting, PullRequested) and waiting.stream:
            self._actions.append(TellProgress(waiting.request_id, download.progress))


def _id_of(waiting: WantsModel) -> bytes | None:
    return None if isinstance(waiting, ModelPinned) else waiting.request_id
