"""The broker's shell: two sockets, one loop. It turns what it hears into events, hands them to the pool, and performs
the actions that come back, in order. It decides nothing about models.

One thread, no locks: everything that can happen is a file descriptor in one poll set (gateways' socket, workers'
socket, exits, workers' output, signals) or a deadline.
"""

import contextlib
import logging
import math
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import zmq

from broker.models.catalog import Catalog, CatalogError
from broker.pins import read_pins, write_pins
from broker.policy.actions import (
    Action,
    AnnounceModel,
    AssignModel,
    DownloadEnded,
    DropOutputs,
    Exited,
    Fail,
    ForwardCancel,
    ForwardOutputs,
    ForwardRequest,
    KillWorker,
    Readmit,
    Reply,
    SavePins,
    StartDownload,
    StartWorker,
    StopWorker,
)
from broker.policy.downloads import Downloads
from broker.policy.events import (
    Event,
    GatewayLeft,
    HeartbeatArrived,
    KillRequested,
    LoadRequested,
    ModelMissed,
    ModelPinned,
    OutputsArrived,
    RequestArrived,
    RequestCancelled,
    ShutdownRequested,
    TimePassed,
    UnloadRequested,
    UnpinRequested,
    WantsModel,
    WorkerBecameReady,
    WorkerConnected,
    WorkerExited,
    WorkerFailedToLoad,
    WorkerProgressed,
    WorkerSampled,
    WorkerStarted,
)
from broker.policy.flow import Flow, Settled
from broker.policy.pool import Pool
from broker.policy.snapshot import status
from broker.policy.specs import Exit, ModelSpec, Shown
from broker.policy.tasks import wrong_task
from broker.processes.memory import Sampler, total_bytes
from broker.processes.supervisor import Supervisor
from broker.runtime import RuntimeDir
from broker.settings import BrokerSettings
from broker.wire.body import Body, ProtocolError, to_map
from broker.wire.codec import decode, encode
from broker.wire.failure import Code, Failure
from broker.wire.frames import gateway_of, receive_frames, send_frames
from broker.wire.from_gateways import (
    Cancel,
    Goodbye,
    InferenceRequest,
    Kill,
    Load,
    Models,
    Status,
    Unload,
    Unpin,
    Watch,
)
from broker.wire.from_peers import Ack, Heartbeat, Hello
from broker.wire.from_workers import LoadFailed, Progress, Ready
from broker.wire.outputs import ERROR, FINAL, PARTIAL, Output, Outputs, encode_outputs
from broker.wire.states import State
from broker.wire.to_workers import Assign, Shutdown

logger = logging.getLogger(__name__)

# Messages taken from one socket before the others get their turn.
_BURST = 256
_GATEWAY_HEARTBEAT_SECONDS = 1.0
# As plain integers, which are joined much faster than pyzmq's own.
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
# Outputs that may wait for one gateway that does not read; past it the gateway counts as gone.
_GATEWAY_BACKLOG = 20_000


class Broker:
    """`run()` serves until SIGTERM or SIGINT. The runtime directory must be ours (see runtime.py)."""

    def __init__(self, settings: BrokerSettings, runtime: RuntimeDir) -> None:
        self._settings = settings
        overrides = {model_id: model.override() for model_id, model in settings.models.items()}
        self._catalog = Catalog(settings.models_dir, settings.hub_dir, overrides)
        limits, run_id = settings.limits(total_bytes()), os.urandom(3).hex()
        self._pool = Pool(limits, run_id)
        self._downloads = Downloads(limits, run_id, str(settings.hub_dir), for_requests=settings.allow_downloads)
        self._pins_path = settings.state_dir / "pins.json"
        self._sampler = Sampler()
        self._flow = Flow()
        self._inbox: deque[Event] = deque()
        self._gateways: set[bytes] = set()
        self._watchers: dict[bytes, str | None] = {}
        self._running = True
        self._started_at = self._next_heartbeat = self._next_sample = time.monotonic()

        self._context = zmq.Context()
        self._gateway_socket = self._bind(runtime.gateway_endpoint, backlog=_GATEWAY_BACKLOG)
        self._worker_socket = self._bind(runtime.worker_endpoint, backlog=0)
        self._supervisor = Supervisor(runtime.worker_endpoint, settings.heartbeat_interval_seconds)
        self._wakeup, self._signal_fd = socket.socketpair()
        self._wakeup.setblocking(False)
        self._signal_fd.setblocking(False)
        self._polled_outputs: dict[int, str] | None = None
        self._perform: dict[type[Action], Callable[[Any], None]] = {
            StartWorker: self._start_worker,
            StartDownload: self._start_download,
            DownloadEnded: self._download_ended,
            Readmit: self._readmit,
            AssignModel: self._assign_model,
            ForwardRequest: self._forward_request,
            ForwardCancel: self._forward_cancel,
            ForwardOutputs: self._forward_outputs,
            DropOutputs: self._drop_outputs,
            StopWorker: self._stop_worker,
            KillWorker: self._kill_worker,
            Reply: self._reply,
            Fail: self._fail,
            SavePins: self._save_pins,
            AnnounceModel: self._announce,
            Exited: self._exited,
        }
        self._from_gateway: dict[type[Body], Callable[[bytes, bytes, Any], None]] = {
            InferenceRequest: self._on_request,
            Cancel: self._on_cancel,
            Load: self._on_load,
            Unload: self._on_unload,
            Kill: self._on_kill,
            Unpin: self._on_unpin,
            Status: self._on_status,
            Models: self._on_models,
            Watch: self._on_watch,
            Hello: lambda gateway, request_id, body: None,
            Ack: self._on_read,
            Goodbye: self._on_goodbye,
        }
        self._from_worker: dict[type[Body], Callable[[str, Any], Event]] = {
            Hello: lambda worker, body: WorkerConnected(worker),
            Progress: lambda worker, body: WorkerProgressed(worker, body.stage, body.fraction),
            Ready: self._ready,
            LoadFailed: lambda worker, body: WorkerFailedToLoad(worker, body.message, body.code),
            Heartbeat: lambda worker, body: HeartbeatArrived(
                worker, body.steps, body.mlx_active_bytes, body.mlx_cache_bytes, body.mlx_peak_bytes
            ),
        }

    def run(self) -> None:
        """Startup, the loop, shutdown."""
        previous = self._take_signals()
        try:
            if self._settings.blas_library:
                logger.info("workers load %s before MLX", self._settings.blas_library)
            self._pin_known_models()
            self._step(TimePassed())
            while self._running:
                self._wait()
                while self._inbox:
                    self._step(self._inbox.popleft())
        finally:
            self._supervisor.close()
            # Errors to clients are in the sockets' queues: give them a moment to leave.
            self._context.destroy(linger=500)
            signal.set_wakeup_fd(-1)
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._wakeup.close()
            self._signal_fd.close()

    # ---- the loop -------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Sleep until something happens or a deadline comes; put what happened into the inbox."""
        outputs = self._supervisor.output_fds
        if outputs != self._polled_outputs:  # seldom, and a poller takes as long to make as to ask
            self._polled_outputs, self._readers = outputs, self._make_readers(outputs)
            self._poller = zmq.Poller()
            for source in self._readers:
                self._poller.register(source, zmq.POLLIN)
        due = min(self._next_heartbeat, self._next_sample, self._next_deadline())
        for source, _ in self._poller.poll(max(0, math.ceil((due - time.monotonic()) * 1000))):
            self._readers[source]()
        if time.monotonic() >= due:
            self._keep_time()

    def _make_readers(self, outputs: dict[int, str]) -> dict[zmq.Socket[bytes] | int, Callable[[], object]]:
        """What to wait for and what to do then, in this order. outputs: file descriptor -> worker id."""
        return {
            self._worker_socket: partial(self._receive, self._worker_socket, self._worker_message, _BURST),
            **{fd: partial(self._supervisor.read_output, worker_id) for fd, worker_id in outputs.items()},
            self._supervisor.exits_fd: self._take_exits,
            self._gateway_socket: partial(self._receive, self._gateway_socket, self._gateway_message, _BURST),
            self._signal_fd.fileno(): self._take_signal,
        }

    def _take_signal(self) -> None:
        self._signal_fd.recv(64)
        self._inbox.append(ShutdownRequested())

    def _next_deadline(self) -> float:
        """The next one of pool and downloads; infinite if there is none."""
        deadlines = (self._pool.next_deadline(), self._downloads.next_deadline())
        return min((d for d in deadlines if d is not None), default=math.inf)

    def _keep_time(self) -> None:
        """Deadlines that have come. Everything heard in this turn is in the inbox before them, so that after a pause
        of the whole machine nobody is taken for dead whose messages are already here."""
        now = time.monotonic()
        if now >= self._next_sample:
            self._next_sample = now + self._settings.memory_sample_seconds
            for worker_id, pid in self._supervisor.pids().items():
                sample = self._sampler.sample(pid)
                if sample is not None:
                    event = WorkerSampled(worker_id, sample.rss_bytes, sample.footprint_bytes, sample.cpu_percent)
                    self._inbox.append(event)
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + _GATEWAY_HEARTBEAT_SECONDS
            for gateway in list(self._gateways):
                self._send_gateway(gateway, encode(Heartbeat()))
            self._tell(self._flow.look(now))
        if now >= self._next_deadline():
            self._inbox.append(TimePassed())

    def _step(self, event: Event) -> None:
        now = time.monotonic()
        actions = [] if self._downloads.takes(event) else self._pool.handle(event, now)
        self._do([*actions, *self._downloads.handle(event, now)])

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            self._perform[type(action)](action)

    def _receive(self, source: zmq.Socket[bytes], handle: Callable[[bytes, list[bytes]], None], limit: int) -> None:
        for _ in range(limit):
            try:
                identity, *frames = receive_frames(source, wait=False)
            except zmq.Again:
                return
            try:
                handle(identity, frames)
            except ProtocolError as error:
                logger.warning("dropped a message of %r: %s", identity[:32], error)
            if not int(source.get(_EVENTS)) & _POLLIN:  # less work than the exception
                return

    def _take_exits(self) -> None:
        # What a worker had sent before it died counts: a request it has answered must not be replayed.
        # Within bounds: a worker that floods this socket must not keep the exits of others waiting.
        self._receive(self._worker_socket, self._worker_message, 8 * _BURST)
        pids = self._supervisor.pids()
        for worker_id, exit_ in self._supervisor.take_exits():
            self._sampler.forget(pids[worker_id])
            logger.info("%s exited: %s", worker_id, exit_.describe())
            self._inbox.append(WorkerExited(worker_id, exit_))
            self._flow.exited(worker_id)

    def _take_signals(self) -> dict[int, Any]:
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        return {n: signal.signal(n, lambda number, frame: None) for n in (signal.SIGTERM, signal.SIGINT)}

    def _bind(self, endpoint: str, backlog: int) -> zmq.Socket[bytes]:
        bound: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        bound.set(zmq.ROUTER_MANDATORY, 1)
        bound.set(zmq.SNDHWM, backlog)
        bound.set(zmq.RCVHWM, 0)
        bound.set(zmq.LINGER, 0)
        bound.bind(endpoint)
        return bound

    def _pin_known_models(self) -> None:
        for model_id in sorted({*self._settings.preload_models, *read_pins(self._pins_path)}):
            spec, problem, fetchable = self._look_up(model_id)
            if problem is not None:
                logger.error("cannot preload %s: %s", model_id, problem.message)
            self._admit(ModelPinned(model_id, spec, problem), fetchable)

    # ---- messages of gateways -------------------------------------------------------------------------------------

    def _gateway_message(self, gateway: bytes, frames: list[bytes]) -> None:
        message = decode(frames)
        handle = self._from_gateway.get(type(message.body))
        if handle is None:
            raise ProtocolError(f"a gateway does not send {message.body.COMMAND.decode()}")
        if message.request_id and gateway_of(message.request_id) != gateway:
            raise ProtocolError("a request id of another gateway")
        if not message.request_id and not isinstance(message.body, Hello | Goodbye | Ack):
            raise ProtocolError(f"{message.body.COMMAND.decode()} without a request id")
        if isinstance(message.body, Hello):
            self._gateway_left(gateway, "it begins anew")  # and has ended what it had asked for before
            self._gateways.add(gateway)
            self._flow.greeted(gateway)
        elif gateway not in self._gateways:
            if isinstance(message.body, Ack):
                return  # it reads what it was sent before it was given up
            # Given up, or of a broker before this one: it may have missed ends. Unheard, it notices the silence, ends
            # its calls and says HELLO.
            raise ProtocolError(f"{message.body.COMMAND.decode()} of a gateway that has not said HELLO")
        handle(gateway, message.request_id, message.body)

    def _on_request(self, gateway: bytes, request_id: bytes, body: InferenceRequest) -> None:
        spec, problem, fetchable = self._look_up(body.model, body.task)
        self._admit(RequestArrived(request_id, body.model, body.payload, spec, problem, body.task), fetchable)

    def _on_cancel(self, gateway: bytes, request_id: bytes, body: Cancel) -> None:
        if request_id in self._watchers:
            del self._watchers[request_id]
            self._fail(Fail(request_id, Failure(Code.CANCELLED, "the client has gone")))
        else:
            self._inbox.append(RequestCancelled(request_id))

    def _on_load(self, gateway: bytes, request_id: bytes, body: Load) -> None:
        spec, problem, fetchable = self._look_up(body.model)
        self._admit(LoadRequested(request_id, body.model, spec, problem), fetchable)

    def _on_unload(self, gateway: bytes, request_id: bytes, body: Unload) -> None:
        self._inbox.append(UnloadRequested(request_id, body.model, body.timeout, body.force))

    def _on_kill(self, gateway: bytes, request_id: bytes, body: Kill) -> None:
        self._inbox.append(KillRequested(request_id, body.model))

    def _on_unpin(self, gateway: bytes, request_id: bytes, body: Unpin) -> None:
        self._inbox.append(UnpinRequested(request_id, body.model))

    def _on_status(self, gateway: bytes, request_id: bytes, body: Status) -> None:
        now = time.monotonic()
        body_ = status(self._pool, now, self._started_at, time.time() - now, self._downloads.all)
        self._reply(Reply(request_id, body_))

    def _on_models(self, gateway: bytes, request_id: bytes, body: Models) -> None:
        states = {model.model_id: model.announced.state for model in self._pool.models}
        models = [
            {
                "model_id": entry.spec.model_id,
                "model_type": entry.spec.model_type,
                "size_bytes": entry.spec.weight_bytes,
                "quantization": entry.quantization,
                "context_length": entry.context_length,
                "created": entry.created,
                "state": states.get(entry.spec.model_id, State.UNLOADED),
            }
            for entry in self._catalog.entries()
        ]
        self._reply(Reply(request_id, {"models": models}))

    def _on_watch(self, gateway: bytes, request_id: bytes, body: Watch) -> None:
        self._watchers[request_id] = body.model
        present = {m.model_id: m.announced for m in self._pool.models}
        present |= {d.model_id: d.shown for d in self._downloads.all}
        for model_id, shown in present.items():
            if body.model in (None, model_id):
                self._send_output(Output(request_id, PARTIAL, _change(model_id, shown)))

    def _on_read(self, gateway: bytes, request_id: bytes, body: Ack) -> None:
        self._tell(self._flow.read(gateway, body.total, time.monotonic()))

    def _on_goodbye(self, gateway: bytes, request_id: bytes, body: Goodbye) -> None:
        self._gateway_left(gateway, "said goodbye")

    def _gateway_left(self, gateway: bytes, why: str) -> None:
        if gateway in self._gateways:
            logger.info("gateway %s has gone: %s", gateway.decode(errors="replace"), why)
            self._gateways.discard(gateway)
            for request_id in [r for r in self._watchers if r.startswith(gateway)]:
                del self._watchers[request_id]
            self._inbox.append(GatewayLeft(gateway))
            self._tell(self._flow.left(gateway))

    def _look_up(self, model_id: str, task: str | None = None) -> tuple[ModelSpec | None, Failure | None, bool]:
        """The model, or the problem; and whether a download may mend that. What runs needs no files."""
        try:
            spec = self._pool.running(model_id) or self._catalog.find(model_id)
        except CatalogError as error:
            return None, error.failure, error.fetchable
        return spec, None if task is None else wrong_task(spec, task), False

    def _admit(self, event: WantsModel, fetchable: bool) -> None:
        self._inbox.append(ModelMissed(event) if fetchable else event)

    # ---- messages of workers --------------------------------------------------------------------------------------

    def _worker_message(self, identity: bytes, frames: list[bytes]) -> None:
        message = decode(frames)
        # The heartbeat thread has a socket of its own: `<worker id>/heartbeat`.
        worker_id = identity.decode(errors="replace").partition("/")[0]
        if isinstance(message.body, Outputs):
            entries = [(request_id, kind != PARTIAL) for request_id, kind in message.body.entries]
            # Straight to the pool: nearly every message is one of these, and no download has any.
            self._do(self._pool.handle(OutputsArrived(worker_id, entries, frames), time.monotonic()))
            return
        make_event = self._from_worker.get(type(message.body))
        if make_event is None:
            raise ProtocolError(f"a worker does not send {message.body.COMMAND.decode()}")
        self._step(make_event(worker_id, message.body))

    def _ready(self, worker_id: str, body: Ready) -> Event:
        pid = self._supervisor.pids().get(worker_id)
        sample = self._sampler.sample(pid) if pid is not None else None
        measured = max(body.mlx_active_bytes, sample.footprint_bytes if sample is not None else 0)
        return WorkerBecameReady(worker_id, measured, body.context_length)

    # ---- actions --------------------------------------------------------------------------------------------------

    def _start_worker(self, action: StartWorker) -> None:
        library = self._settings.blas_library
        options = [*(["--spare"] if action.spare else []), *([f"--blas-library={library}"] if library else [])]
        self._start(action.worker_id, "a warm spare" if action.spare else "", *options)

    def _start_download(self, action: StartDownload) -> None:
        options = (f"--download={action.model_id}", f"--cache-dir={self._settings.hub_dir}")
        self._start(action.worker_id, f"downloads {action.model_id}", *options)

    def _start(self, worker_id: str, purpose: str, *options: str) -> None:
        try:
            pid = self._supervisor.start(worker_id, *options)
        except OSError as error:
            logger.error("cannot start a worker: %s", error)
            self._inbox.append(WorkerExited(worker_id, Exit(127, None, time.time(), str(error))))
            return
        logger.info("%s started, pid %d%s", worker_id, pid, f", {purpose}" if purpose else "")
        self._flow.started(worker_id)
        self._inbox.append(WorkerStarted(worker_id, pid))

    def _download_ended(self, action: DownloadEnded) -> None:
        """What the model is now, so that nobody who watches goes on to see a download."""
        known = {model.model_id: model.announced for model in self._pool.models}
        shown = known.get(action.model_id, Shown(State.UNLOADED, action.reason))
        self._announce(AnnounceModel(action.model_id, shown))

    def _readmit(self, action: Readmit) -> None:
        event, problem = action.waiting, action.problem
        task = event.task if isinstance(event, RequestArrived) else None
        spec = None
        if problem is None:
            spec, problem, _ = self._look_up(event.model_id, task)
        self._inbox.append(replace(event, spec=spec, problem=problem))
        if action.cancelled and isinstance(event, LoadRequested):
            self._inbox.append(RequestCancelled(event.request_id))

    def _assign_model(self, action: AssignModel) -> None:
        spec = action.spec
        with contextlib.suppress(CatalogError):  # of a model that comes back the pool knows what it was
            spec = self._catalog.find(spec.model_id)
        logger.info("%s loads %s", action.worker_id, spec.model_id)
        body = Assign(spec.model_id, spec.path, spec.model_type, spec.engine, spec.options, action.memory_limit_bytes)
        self._send_worker(action.worker_id, encode(body))

    def _forward_request(self, action: ForwardRequest) -> None:
        body = InferenceRequest(action.model_id, action.payload)
        self._send_worker(action.worker_id, encode(body, action.request_id))

    def _forward_cancel(self, action: ForwardCancel) -> None:
        self._send_worker(action.worker_id, encode(Cancel(), action.request_id))

    def _forward_outputs(self, action: ForwardOutputs) -> None:
        gateway = gateway_of(action.frames[2])
        self._tell(self._flow.sent(gateway, action.worker_id, time.monotonic()))
        self._send_gateway(gateway, action.frames)

    def _drop_outputs(self, action: DropOutputs) -> None:
        logger.warning("dropped outputs of %s: %s", action.worker_id, action.reason)
        self._tell(self._flow.dropped(action.worker_id))

    def _stop_worker(self, action: StopWorker) -> None:
        logger.info("%s is asked to exit: %s", action.worker_id, action.reason)
        self._send_worker(action.worker_id, encode(Shutdown()))

    def _kill_worker(self, action: KillWorker) -> None:
        logger.warning("%s is killed: %s", action.worker_id, action.reason)
        self._supervisor.kill(action.worker_id)

    def _reply(self, action: Reply) -> None:
        self._send_output(Output(action.request_id, FINAL, action.body))

    def _fail(self, action: Fail) -> None:
        self._send_output(Output(action.request_id, ERROR, to_map(action.failure)))

    def _save_pins(self, action: SavePins) -> None:
        # What the settings preload is theirs to keep: taken out there, it is not to come back from here.
        write_pins(self._pins_path, [pin for pin in action.model_ids if pin not in self._settings.preload_models])

    def _announce(self, action: AnnounceModel) -> None:
        shown = action.shown
        detail = shown.reason or shown.stage
        # The percents of a download are for those who watch; one line says that it goes on.
        level = logging.DEBUG if shown.state is State.DOWNLOADING and shown.fraction is not None else logging.INFO
        logger.log(level, "%s is %s%s", action.model_id, shown.state, f" ({detail})" if detail else "")
        body = _change(action.model_id, shown)
        for request_id, model_id in list(self._watchers.items()):
            if model_id in (None, action.model_id):
                self._send_output(Output(request_id, PARTIAL, body))

    def _exited(self, action: Exited) -> None:
        self._running = False

    # ---- sending --------------------------------------------------------------------------------------------------

    def _send_output(self, output: Output) -> None:
        try:
            frames = encode_outputs([output])
        except (ValueError, TypeError, OverflowError):  # a name of a file, say, that is no text
            logger.exception("an answer cannot be sent")
            failure = Failure(Code.INTERNAL_ERROR, "the broker has an answer that it cannot send")
            frames = encode_outputs([Output(output.request_id, ERROR, to_map(failure))])
        gateway = gateway_of(output.request_id)
        self._tell(self._flow.sent(gateway, "", time.monotonic()))
        self._send_gateway(gateway, frames)

    def _tell(self, settled: Settled) -> None:
        """Let workers know how many of their outputs are read."""
        for worker_id, total in settled.items():
            self._send_worker(worker_id, encode(Ack(total)))

    def _send_gateway(self, gateway: bytes, frames: list[bytes]) -> None:
        try:
            send_frames(self._gateway_socket, [gateway, *frames], wait=False)
        except zmq.Again:
            self._gateway_left(gateway, f"{_GATEWAY_BACKLOG} messages unread")
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._gateway_left(gateway, "its socket is closed")

    def _send_worker(self, worker_id: str, frames: list[bytes]) -> None:
        # A worker that cannot be reached has died: its exit is on its way, and with it all that follows.
        with contextlib.suppress(zmq.ZMQError):
            send_frames(self._worker_socket, [worker_id.encode(), *frames], wait=False)


def _change(model_id: str, shown: Shown) -> dict[str, Any]:
    """The PARTIAL of WATCH. at: Unix seconds."""
    return {"model_id": model_id, **shown._asdict(), "at": time.time()}
