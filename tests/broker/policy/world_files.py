"""The files of a pool world's models: they are absent, are fetched, and are removed again."""

from dataclasses import replace

from broker.policy.actions import Action, ForgetPrompts, Readmit, RemoveFiles, StartDownload, TellProgress
from broker.policy.downloads import MAX_DOWNLOADS
from broker.policy.events import (
    CancelPullRequested,
    KillRequested,
    LoadRequested,
    ModelMissed,
    PinRequested,
    PullRequested,
    ReloadRequested,
    RemoveRequested,
    RequestCancelled,
    UnloadRequested,
    UnpinRequested,
    WantsModel,
    WorkerExited,
    WorkerFailedToLoad,
    WorkerProgressed,
)
from broker.policy.specs import Exit
from broker.wire.failure import Code, Failure
from tests.broker.policy.world_books import SimDownload
from tests.broker.policy.world_idle import Idle


class Files(Idle):
    """See the top of this file."""

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)
        self.removals: dict[bytes, RemoveRequested] = {}

    def problem(self, model_id: str) -> Failure | None:
        return None if model_id in self.specs else Failure(Code.MODEL_NOT_FOUND, "no such model")

    def want(self, event: WantsModel) -> None:
        """As the broker asks: for files that are absent, but could be fetched."""
        missed = event.model_id in self.absent and self.pool.running(event.model_id) is None
        self.send(ModelMissed(event) if missed else event)

    def new_id(self, model_id: str, *, admin: bool = False) -> bytes:
        raise NotImplementedError

    def deliver(self, gateway: bytes, worker_id: str) -> None:
        raise NotImplementedError

    def end(self, request_id: bytes) -> None:
        raise NotImplementedError

    def administrate(self) -> None:
        """An administrator asks for something."""
        model_id = self.random.choice([*self.specs, *self.absent, "unknown"])
        spec, problem = self.specs.get(model_id), self.problem(model_id)
        choice = self.random.random()
        if choice < 0.07:
            self.ask_to_remove(model_id)
            return
        if choice < 0.2:
            self.ask_to_pull(model_id)
            return
        request_id = self.new_id(model_id, admin=True)
        match self.random.randrange(8):
            case 6 | 7:
                self.ask_to_reload(request_id, model_id)
            case 0:
                self.want(LoadRequested(request_id, model_id, spec, problem))
            case 1:
                timeout = self.random.choice([None, 0.0, 2.0])
                self.send(UnloadRequested(request_id, model_id, timeout, self.random.random() < 0.3))
            case 2:
                self.send(KillRequested(request_id, model_id, self.random.random() < 0.7))
            case 3:
                self.send(PinRequested(request_id, model_id, spec, problem))
            case 4:
                self.send(CancelPullRequested(request_id, model_id))
            case _:
                self.send(UnpinRequested(request_id, model_id))

    def ask_to_reload(self, request_id: bytes, model_id: str) -> None:
        """Now and then the settings of the model have changed since, or it cannot be used any more."""
        spec, problem = self.specs.get(model_id), self.problem(model_id)
        if spec is not None and self.random.random() < 0.3:
            spec = self.specs[model_id] = replace(spec, options={"changed": len(self.requests)})
        elif self.random.random() < 0.1:
            spec, problem = None, Failure(Code.LOAD_FAILED, "broken")
        self.send(ReloadRequested(request_id, model_id, self.random.random() < 0.3, spec, problem))

    def ask_to_pull(self, model_id: str) -> None:
        request_id = self.new_id(model_id, admin=True)
        stream = self.random.random() < 0.5
        self.want(PullRequested(request_id, model_id, stream, self.specs.get(model_id), self.problem(model_id)))

    def ask_to_remove(self, model_id: str) -> None:
        """Now and then another model uses the same files."""
        other = self.random.choice(list(self.specs) or ["m0"])
        users = (model_id, *([other] if self.random.random() < 0.2 else []))
        event = RemoveRequested(self.new_id(model_id, admin=True), model_id, users)
        self.removals[event.request_id] = event
        self.send(event)

    def perform_files(self, action: Action) -> None:
        match action:
            case StartDownload(worker_id, model_id):
                assert model_id not in [d.model_id for d in self.fetching.values()], "fetched twice at once"
                assert len(self.fetching) < MAX_DOWNLOADS
                self.fetching[worker_id] = SimDownload(worker_id, model_id)
            case Readmit(waiting, problem, cancelled):
                found = None if problem else self.specs.get(waiting.model_id)
                self.inbox.append(replace(waiting, spec=found, problem=problem or self.problem(waiting.model_id)))
                if cancelled and isinstance(waiting, LoadRequested):
                    self.inbox.append(RequestCancelled(waiting.request_id))
            case TellProgress(request_id, body):
                request = self.requests[request_id]
                assert request.ends == 0, "progress after the end"
                assert body["model_id"] == request.model_id
                self.deliver(request_id[:8], "")
            case RemoveFiles(request_id, model_id):
                assert not self._uses(self.removals[request_id]), "the files of a model that is used"
                self.end(request_id)
                if model_id in self.specs:
                    self.absent[model_id] = self.specs.pop(model_id)
            case ForgetPrompts(request_id):
                self.end(request_id)
            case _:
                raise AssertionError(f"unknown action {action}")

    def check_refusal(self, request_id: bytes, failure: Failure) -> None:
        if failure.code is Code.MODEL_IN_USE and request_id in self.removals:
            assert self._uses(self.removals[request_id]), "nothing uses these files"

    def _uses(self, event: RemoveRequested) -> list[str]:
        """Whatever needs the files of these models."""
        names = {event.model_id, *event.users}
        open_ = [q.model_id for r, q in self.requests.items() if q.ends == 0 and r not in self.removals]
        loaded = [w.spec.model_id for w in self.workers.values() if w.spec is not None]
        starting = [i.model_id for i in self.instances()]
        fetched = [d.model_id for d in self.downloads.all if d.model_id == event.model_id]
        return [name for name in (*open_, *loaded, *starting, *fetched, *self.pins) if name in names]

    # ---- downloads ------------------------------------------------------------------------------------------------

    def _download(self, download: SimDownload, trouble: float) -> None:
        choice = self.random.random()
        if download.killed or choice < trouble:
            self._fetched(download, None)
        elif choice < 0.5:
            self.send(WorkerProgressed(download.worker_id, "download", choice, 0, int(choice * 100), 100))
        elif choice < 0.6:
            self.send(WorkerFailedToLoad(download.worker_id, "no such repository", Code.MODEL_NOT_FOUND))
        else:
            self._fetched(download, 0)

    def _fetched(self, download: SimDownload, code: int | None) -> None:
        del self.fetching[download.worker_id]
        if code == 0 and download.model_id in self.absent:
            self.specs[download.model_id] = self.absent.pop(download.model_id)
        self.send(WorkerExited(download.worker_id, Exit(code, None if code == 0 else "SIGKILL", 0.0, "")))
