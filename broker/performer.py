"""Performs the actions of the policies, each by one call. Logs them; decides nothing."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, assert_never

from broker.gateways import Gateways, View
from broker.logs.process_logs import ProcessLogs
from broker.lookup import Lookup
from broker.measured import write_measured
from broker.pins import write_pins
from broker.policy.actions import (
    Acknowledge,
    Action,
    AnnounceMemory,
    AnnounceModel,
    AssignModel,
    DownloadEnded,
    DropOutputs,
    Exited,
    Fail,
    ForgetPrompts,
    ForwardCancel,
    ForwardOutputs,
    ForwardRequest,
    GrantShare,
    KillWorker,
    LendPrefill,
    Readmit,
    RemoveFiles,
    Reply,
    SaveMeasured,
    SavePins,
    ShrinkShare,
    StartDownload,
    StartWorker,
    StopWorker,
    TellLost,
    TellProgress,
)
from broker.policy.budget import Origin
from broker.policy.events import Event, WorkerExited, WorkerStarted
from broker.policy.pressure import Pressure
from broker.policy.specs import Exit, Shown
from broker.processes.launcher import Launcher
from broker.prompt_caches import PromptCaches
from broker.wire.failure import Code, Failure, FailureError
from broker.wire.from_gateways import Cancel, InferenceRequest
from broker.wire.from_peers import Ack
from broker.wire.states import State
from broker.wire.to_workers import Assign, DropPrompts, MayPrefill, Share, Shrink, Shutdown
from broker.workers import Workers

logger = logging.getLogger(__name__)

PINS_FILE = "pins.json"
MEASURED_FILE = "measured.json"


class Performer:
    """put: takes the events that follow from actions. remove: deletes the files of a model, raises FailureError. view:
    what the policies have announced. caches: the prompt caches on disk. preloaded: models that the settings pin.
    wires_memory: whether workers wire their shares; lends_prefill: whether they ask before they prefill."""

    def __init__(
        self,
        *,
        launcher: Launcher,
        logs: ProcessLogs,
        workers: Workers,
        gateways: Gateways,
        lookup: Lookup,
        put: Callable[[Event], None],
        remove: Callable[[str], None],
        view: View,
        state_dir: Path,
        caches: PromptCaches,
        preloaded: Sequence[str],
        wires_memory: bool,
        lends_prefill: bool,
    ) -> None:
        self._launcher = launcher
        self._logs = logs
        self._workers = workers
        self._gateways = gateways
        self._lookup = lookup
        self._put = put
        self._delete = remove
        self._view = view
        self._state_dir = state_dir
        self._caches = caches
        self._preloaded = preloaded
        self._for_all: dict[str, Any] = {"wires_memory": wires_memory, "lends_prefill": lends_prefill}
        self.is_finished = False

    def perform(self, action: Action) -> None:
        match action:
            case ForwardOutputs():  # first, because it comes for every token
                self._gateways.forward(action.frames)
            case ForwardRequest():
                self._forward(action)
            case Acknowledge():
                self._workers.send(action.worker_id, Ack(action.total))
            case ForwardCancel():
                self._workers.send(action.worker_id, Cancel(), action.request_id)
            case DropOutputs():
                logger.warning("dropped outputs of %s: %s", action.worker_id, action.reason)
            case Reply():
                self._gateways.reply(action.request_id, action.body)
            case TellProgress():
                self._gateways.tell(action.request_id, action.body)
            case TellLost():
                logger.info("a request has lost its process and goes on", extra={"request_id": action.trace})
                self._gateways.tell_lost(action.request_id)
            case Fail():
                self._fail(action)
            case StartWorker() | StartDownload():
                self._start(action)
            case AssignModel():
                self._assign(action)
            case GrantShare():
                self._workers.send(action.worker_id, Share(action.share_bytes, action.limit_bytes))
            case ShrinkShare():
                self._workers.send(action.worker_id, Shrink(action.share_bytes))
            case StopWorker() | KillWorker():
                self._end(action)
            case Readmit():
                for event in self._lookup.again(action):
                    self._put(event)
            case RemoveFiles() | ForgetPrompts():
                self._remove(action)
            case DownloadEnded():
                # What the model is now, so that those who watch do not go on to see a download.
                shown = self._view.announced().get(action.model_id, Shown(State.UNLOADED, action.reason))
                self._announce(AnnounceModel(action.model_id, shown))
            case AnnounceModel():
                self._announce(action)
            case LendPrefill():
                self._workers.send(action.worker_id, MayPrefill(action.seconds))
            case SavePins() | SaveMeasured():
                self._save(action)
            case AnnounceMemory():
                _log_memory(action)
            case Exited():
                self.is_finished = True
            case _:
                assert_never(action)

    def _forward(self, action: ForwardRequest) -> None:
        logger.debug("%s gets a request for %s", action.worker_id, action.model_id, extra={"request_id": action.trace})
        request = InferenceRequest(action.model_id, action.payload, action.task, trace=action.trace)
        self._workers.send(action.worker_id, request, action.request_id)

    def _fail(self, action: Fail) -> None:
        if action.trace:  # one that was refused is in the line of the gateway alone
            failure = action.failure
            level = logging.DEBUG if failure.code is Code.CANCELLED else logging.INFO
            extra = {"request_id": action.trace}
            logger.log(level, "a request ends without an answer: %s: %s", failure.code, failure.message, extra=extra)
        self._gateways.fail(action)

    def _start(self, action: StartWorker | StartDownload) -> None:
        if isinstance(action, StartDownload):
            purpose = f"downloads {action.model_id}"
        else:
            purpose = "a spare" if action.spare else ""
        try:
            pid = self._launcher.start(action)
        except OSError as error:
            logger.error("cannot start a worker: %s", error)
            self._put(WorkerExited(action.worker_id, Exit(127, None, time.time(), str(error))))
            return
        what = f", {purpose}" if purpose else ""
        about = {"worker": action.worker_id, "pid": pid}
        logger.info("%s started, pid %s%s", action.worker_id, pid or "unknown", what, extra=about)
        self._logs.started(action.worker_id, pid, action.model_id if isinstance(action, StartDownload) else None)
        self._put(WorkerStarted(action.worker_id, pid))

    def _end(self, action: StopWorker | KillWorker) -> None:
        is_kill = isinstance(action, KillWorker)
        verb, level = ("kill", logging.WARNING) if is_kill else ("stop", logging.INFO)
        logger.log(level, "%s %s: %s", verb, action.worker_id, action.reason, extra={"worker": action.worker_id})
        self._logs.note(action.worker_id, f"{verb}: {action.reason}")
        if is_kill:
            self._launcher.kill(action.worker_id)
        else:
            self._workers.send(action.worker_id, Shutdown())

    def _remove(self, action: RemoveFiles | ForgetPrompts) -> None:
        if isinstance(action, ForgetPrompts):
            self._forget(action)
            return
        try:
            self._delete(action.model_id)
        except FailureError as error:
            self._gateways.fail(Fail(action.request_id, error.failure))
        else:
            logger.info("removed the files of %s", action.model_id)
            try:
                self._caches.forget(action.model_id)
            except OSError as error:
                logger.warning("the prompts of %s on disk cannot be removed: %s", action.model_id, error.strerror)
            self._gateways.reply(action.request_id, {"model_id": action.model_id})

    def _forget(self, action: ForgetPrompts) -> None:
        for worker_id in action.worker_ids:
            self._workers.send(worker_id, DropPrompts())
        try:
            self._caches.forget(action.model_id)
        except OSError as error:
            failure = Failure(Code.INTERNAL_ERROR, f"the prompt cache on disk cannot be removed: {error.strerror}")
            self._gateways.fail(Fail(action.request_id, failure))
        else:
            logger.info("forgot the prompts of %s", action.model_id or "all models")
            self._gateways.reply(action.request_id, {"model_id": action.model_id})

    def _save(self, action: SavePins | SaveMeasured) -> None:
        if isinstance(action, SaveMeasured):
            write_measured(self._state_dir / MEASURED_FILE, action.measured)
        else:
            # The settings keep what they preload: a model taken out there must not come back from here.
            write_pins(self._state_dir / PINS_FILE, [pin for pin in action.model_ids if pin not in self._preloaded])

    def _assign(self, action: AssignModel) -> None:
        spec = self._lookup.newest(action.spec)
        about = {"worker": action.worker_id, "model": spec.model_id}
        logger.info("%s loads %s", action.worker_id, spec.model_id, extra=about)
        self._logs.assigned(action.worker_id, spec.model_id)
        limits = (action.share_bytes, action.limit_bytes, action.rank, action.ranks)
        for_all = self._for_all | self._caches.assigned(spec.model_id)
        body = Assign(spec.model_id, spec.path, spec.model_type, spec.engine, spec.options, *limits, **for_all)
        self._workers.send(action.worker_id, body)

    def _announce(self, action: AnnounceModel) -> None:
        shown = action.shown
        detail = shown.reason or shown.stage
        # The progress of a download is for those who watch; one line says that it has begun.
        level = logging.DEBUG if shown.state is State.DOWNLOADING and shown.fraction is not None else logging.INFO
        what = f" ({detail})" if detail else ""
        logger.log(level, "%s is %s%s", action.model_id, shown.state, what, extra={"model": action.model_id})
        if shown.state is State.READY:
            self._logs.ready(action.model_id)
        self._gateways.announce(action)


def _log_memory(memory: AnnounceMemory) -> None:
    budget, metal = memory.budget_bytes, memory.working_set_bytes
    logger.info("models may take %.2f GiB together (%s)", budget / 2**30, memory.origin)
    if memory.origin is Origin.SETTING and metal is not None and budget > metal:
        logger.warning("that is more than Metal may use on this machine, %.2f GiB: models may fail", metal / 2**30)
    if memory.pressure is not Pressure.NORMAL:
        logger.warning("the system is short of memory (%s): idle models leave early", memory.pressure)
    if memory.missing_bytes:
        logger.warning("%.2f GiB of it are wired, and no model has them", memory.missing_bytes / 2**30)
