"""THE POLICY: which workers run, and which request goes where. A pure state machine.

Theory of operation
===================
`handle(event, now) -> actions`. Handlers of events only update facts; then one function, `_schedule`, looks at all
facts and decides. So a decision never depends on which event came last, and there is one place to read to know why
something happened. Nothing here reads a clock, a socket, a file or the process table; `next_deadline()` says when to
call again with TimePassed if nothing else happens.

The mutable state is `_facts` (facts.py, records.py). Busy, idle, queued, cooling down, due: all derived from it there.

Invariants, asserted by tests/broker/policy/test_pool_histories.py after every event:
  * every request ends exactly once, by an output marked as its end or by a Fail; so does every admin request;
  * when a load starts, everything that holds memory (loaded, loading, stopping) fits the limits together with it;
  * a victim is idle and unpinned; a model has at most one process, its successor starts after it has exited;
  * nobody waits although room could be made.

What this file does not do: derive (facts.py), choose victims (eviction.py), know the crash policy's numbers
(restart.py), talk to processes (supervisor.py), or render status (snapshot.py).
"""

from collections.abc import Callable
from typing import Any

from broker.policy import restart
from broker.policy.actions import (
    Action,
    AnnounceModel,
    AssignModel,
    DropOutputs,
    Exited,
    Fail,
    ForwardCancel,
    ForwardOutputs,
    ForwardRequest,
    KillWorker,
    Reply,
    SavePins,
    StartWorker,
    StopWorker,
)
from broker.policy.events import (
    Event,
    GatewayLeft,
    HeartbeatArrived,
    KillRequested,
    LoadRequested,
    ModelPinned,
    OutputsArrived,
    RequestArrived,
    RequestCancelled,
    ShutdownRequested,
    TimePassed,
    UnloadRequested,
    UnpinRequested,
    WorkerBecameReady,
    WorkerConnected,
    WorkerExited,
    WorkerFailedToLoad,
    WorkerProgressed,
    WorkerSampled,
    WorkerStarted,
)
from broker.policy.eviction import Verdict, make_room
from broker.policy.facts import FOREVER, Facts
from broker.policy.records import AdminWait, Drain, Model, PendingRequest, Phase, PoolLimits, Worker, state_of
from broker.policy.specs import ModelSpec, Shown
from broker.wire.failure import Code, Failure
from broker.wire.states import State

SAMPLES_OVER_LIMIT = 3


class Pool:
    """See the top of this file. run_id: makes worker ids unique among all starts of the broker."""

    def __init__(self, limits: PoolLimits, run_id: str) -> None:
        self.limits = limits
        self._facts = Facts(limits)
        self._run_id = run_id
        self._order = 0
        self._started = 0
        # Derived by the last _schedule: workers that get no new work because the head of the queue needs their room,
        # and the order of that head.
        self._claimed: tuple[str, ...] = ()
        self._claim_order = 0
        self._deadline: float | None = None
        self._actions: list[Action] = []
        self._handlers: dict[type[Event], Callable[[Any, float], None]] = {
            RequestArrived: self._on_request_arrived,
            RequestCancelled: self._on_request_cancelled,
            GatewayLeft: self._on_gateway_left,
            LoadRequested: self._on_load_requested,
            UnloadRequested: self._on_unload_requested,
            KillRequested: self._on_kill_requested,
            UnpinRequested: self._on_unpin_requested,
            ModelPinned: self._on_model_pinned,
            WorkerStarted: self._on_worker_started,
            WorkerConnected: self._on_worker_connected,
            WorkerProgressed: self._on_worker_progressed,
            WorkerBecameReady: self._on_worker_became_ready,
            WorkerFailedToLoad: self._on_load_failed,
            HeartbeatArrived: self._on_heartbeat_arrived,
            WorkerSampled: self._on_worker_sampled,
            WorkerExited: self._on_worker_exited,
            ShutdownRequested: self._on_shutdown_requested,
            TimePassed: lambda event, now: None,
        }

    def handle(self, event: Event, now: float) -> list[Action]:
        """What to do now that `event` has happened. now: seconds, monotonic, never less than at the last call."""
        self._actions = []
        if isinstance(event, OutputsArrived):
            # The hot path: outputs that end nothing free nothing, so there is nothing to decide.
            if self._on_outputs_arrived(event, now):
                self._schedule(now)
        else:
            self._handlers[type(event)](event, now)
            self._schedule(now)
        return self._actions

    def next_deadline(self) -> float | None:
        """When to call `handle(TimePassed(), now)` at the latest; None: only when something happens."""
        return self._deadline

    def running(self, model_id: str) -> ModelSpec | None:
        """The model as it was when its process was started, if it has one that goes on."""
        model = self._facts.models.get(model_id)
        worker = self._facts.worker_of(model)
        if model is None or model.drain is not None or worker is None or worker.phase is Phase.STOPPING:
            return None
        return model.spec

    @property
    def models(self) -> list[Model]:
        """For snapshots; not to be changed."""
        return list(self._facts.models.values())

    @property
    def workers(self) -> dict[str, Worker]:
        """For snapshots; not to be changed."""
        return self._facts.workers

    @property
    def queued(self) -> int:
        """Requests that wait in the broker, in no worker yet."""
        return self._facts.queued

    # ---- events from gateways -------------------------------------------------------------------------------------

    def _on_request_arrived(self, event: RequestArrived, now: float) -> None:
        model = self._known_model(event.model_id, event.spec)
        worker = self._facts.worker_of(model)
        if event.request_id in self._facts.requests:
            return  # a gateway that uses an id twice; the first one's end is the end
        if self._facts.stopping:
            self._fail(event.request_id, Code.MODEL_UNAVAILABLE, "the broker is shutting down", retryable=True)
        elif model is None or (event.spec is None and worker is None) or (event.spec is not None and event.problem):
            self._refuse(event.request_id, event.problem, event.model_id)
        elif worker is None and model.failure is not None:
            self._fail(event.request_id, Code.MODEL_UNAVAILABLE, f"{model.model_id} has failed: {model.failure}")
        elif worker is None and model.restart_at > now:
            why = f"{model.model_id} is cooling down after {model.deaths} failures: {model.last_reason}"
            self._fail(event.request_id, Code.MODEL_UNAVAILABLE, why, model.restart_at - now, retryable=True)
        elif self._facts.load_of(model) >= self.limits.max_requests_per_model:
            why = f"{model.model_id} already has {self._facts.load_of(model)} requests, the limit per model"
            self._fail(event.request_id, Code.RATE_LIMIT_EXCEEDED, why, 1.0, retryable=True)
        elif not self._serves_at_once(model, worker) and self._facts.queued >= self.limits.max_queue:
            why = f"{self._facts.queued} requests are already waiting for a model, the limit of the queue"
            self._fail(event.request_id, Code.RATE_LIMIT_EXCEEDED, why, 1.0, retryable=True)
        else:
            order = self._next_order()
            request = PendingRequest(event.request_id, event.model_id, event.payload, order, now)
            self._facts.requests[event.request_id] = request
            model.waiting.append(request)

    def _on_request_cancelled(self, event: RequestCancelled, now: float) -> None:
        self._cancel(event.request_id)

    def _on_gateway_left(self, event: GatewayLeft, now: float) -> None:
        admin_ids = [w.request_id for m in self._facts.models.values() for w in (*m.loads, *m.unloads, *m.kills)]
        for request_id in [*self._facts.requests, *admin_ids]:
            if request_id.startswith(event.gateway_id):
                self._cancel(request_id)

    def _cancel(self, request_id: bytes) -> None:
        request = self._facts.requests.get(request_id)
        if request is None:
            # Administration goes on without whoever asked: a load belongs to nobody.
            for model in self._facts.models.values():
                for waits in (model.loads, model.unloads, model.kills):
                    for wait in [w for w in waits if w.request_id == request_id]:
                        waits.remove(wait)
                        self._fail(request_id, Code.CANCELLED, "the client has gone")
        elif request.worker_id is None:
            self._facts.models[request.model_id].waiting.remove(request)
            self._end(request, Code.CANCELLED, "the client has gone")
        elif not request.cancelled:
            request.cancelled = True  # it still holds its place in the worker until that says that it has ended
            self._actions.append(ForwardCancel(request.worker_id, request_id))

    # ---- events from administrators -------------------------------------------------------------------------------

    def _on_load_requested(self, event: LoadRequested, now: float) -> None:
        model = self._known_model(event.model_id, event.spec)
        if self._facts.stopping:
            self._fail(event.request_id, Code.MODEL_UNAVAILABLE, "the broker is shutting down", retryable=True)
        elif model is None or (event.spec is None and model.worker_id is None):
            self._refuse(event.request_id, event.problem, event.model_id)
        else:
            order = self._next_order()
            model.failure, model.deaths, model.restart_at = None, 0, now
            if not model.pinned:
                model.pinned_by_load = True
                self._pin(model, order)
            model.loads.append(AdminWait(event.request_id, order))

    def _on_model_pinned(self, event: ModelPinned, now: float) -> None:
        model = self._known_model(event.model_id, event.spec) or self._facts.models.setdefault(
            event.model_id, Model(event.model_id)
        )
        if not model.pinned:
            # Not saved: it comes from where pins are kept, and its neighbours there are not here yet.
            model.pinned, model.pin_order = True, self._next_order()
        if event.spec is None and event.problem is not None:
            model.failure = event.problem.message

    def _on_unload_requested(self, event: UnloadRequested, now: float) -> None:
        model = self._facts.models.get(event.model_id)
        worker = self._facts.worker_of(model)
        if model is None or (worker is None and not model.pinned):
            self._fail(event.request_id, Code.NOT_LOADED, f"Model not loaded: {event.model_id}")
            return
        self._fail_loads(model, Code.MODEL_UNAVAILABLE, f"{model.model_id} was unloaded before it was ready")
        if worker is None:
            self._unpin(model)
            self._actions.append(Reply(event.request_id, {"model_id": model.model_id}))
            return
        model.unloads.append(AdminWait(event.request_id, self._order))
        if worker.phase is Phase.STOPPING:
            self._unpin(model)
            return
        timeout = self.limits.drain_timeout if event.timeout is None else event.timeout
        if model.drain is None:
            model.drain = Drain(self._next_order(), now + timeout, event.force)
        else:
            model.drain.deadline = min(model.drain.deadline, now + timeout)
            model.drain.force |= event.force

    def _on_kill_requested(self, event: KillRequested, now: float) -> None:
        model = self._facts.models.get(event.model_id)
        worker = self._facts.worker_of(model)
        if model is None or worker is None:
            self._fail(event.request_id, Code.NOT_LOADED, f"Model not loaded: {event.model_id}")
            return
        model.kills.append(AdminWait(event.request_id, self._order))
        self._kill(worker, "killed by an administrator", now, expected=True)

    def _on_unpin_requested(self, event: UnpinRequested, now: float) -> None:
        model = self._facts.models.get(event.model_id)
        if model is None or not model.pinned:
            self._fail(event.request_id, Code.NOT_LOADED, f"Model not pinned: {event.model_id}")
            return
        self._unpin(model)
        self._actions.append(Reply(event.request_id, {"model_id": model.model_id}))

    def _on_shutdown_requested(self, event: ShutdownRequested, now: float) -> None:
        self._facts.stopping = True
        for model in self._facts.models.values():
            for waits in (model.loads, model.unloads, model.kills):
                for wait in waits:
                    self._fail(wait.request_id, Code.MODEL_UNAVAILABLE, "the broker is shutting down", retryable=True)
                waits.clear()
            model.waiting.clear()
        for request in list(self._facts.requests.values()):
            self._end(request, Code.MODEL_UNAVAILABLE, "the broker is shutting down", retryable=True)
        for worker in self._facts.workers.values():
            worker.in_flight.clear()
            if worker.phase is not Phase.STOPPING:
                self._stop(worker, "shutdown", now)

    # ---- events from workers --------------------------------------------------------------------------------------

    def _on_worker_started(self, event: WorkerStarted, now: float) -> None:
        self._facts.workers[event.worker_id].pid = event.pid

    def _on_worker_connected(self, event: WorkerConnected, now: float) -> None:
        worker = self._facts.workers.get(event.worker_id)
        if worker is None or worker.connected:
            return
        worker.connected = True
        worker.last_seen = worker.progressed_at = now
        if worker.phase is Phase.LOADING:
            self._assign(worker)

    def _on_worker_progressed(self, event: WorkerProgressed, now: float) -> None:
        worker = self._facts.workers.get(event.worker_id)
        if worker is not None:
            worker.last_seen = worker.progressed_at = now
            worker.stage, worker.fraction = event.stage, event.fraction
            if worker.phase is Phase.WAITING:
                worker.imported, self._facts.spare_deaths = True, 0

    def _on_worker_became_ready(self, event: WorkerBecameReady, now: float) -> None:
        worker = self._facts.workers.get(event.worker_id)
        if worker is None or worker.phase is not Phase.LOADING:
            return
        model = self._facts.model_of(worker)
        worker.phase, worker.stage, worker.fraction = Phase.READY, None, None
        worker.ready_at = worker.last_seen = worker.progressed_at = worker.last_completed = now
        worker.reserved_bytes = model.measured_bytes = event.measured_bytes
        worker.context_length = event.context_length
        # Those who waited for this load are one group and are served together: A B A B becomes AA BB. Who came after
        # an unload waits for the next load.
        last = model.drain.order if model.drain is not None else FOREVER
        for request in model.waiting:
            request.waiting_since = now
            if request.order < last:
                request.order = model.waiting[0].order

    def _on_load_failed(self, event: WorkerFailedToLoad, now: float) -> None:
        worker = self._facts.workers.get(event.worker_id)
        if worker is None or worker.phase is not Phase.LOADING:
            return
        model = self._facts.model_of(worker)
        self._give_up_waiting(model, Code.LOAD_FAILED, f"{model.model_id} cannot be loaded: {event.message}")
        if model.drain is not None:
            self._finish_drain(model)
        worker.phase, worker.end_reason = Phase.STOPPING, f"load failed: {event.message}"
        worker.stop_deadline = now + self.limits.stop_grace
        self._actions.append(StopWorker(worker.worker_id, worker.end_reason))  # it waits to be heard

    def _on_outputs_arrived(self, event: OutputsArrived, now: float) -> bool:
        worker = self._facts.workers.get(event.worker_id)
        if worker is None:
            self._actions.append(DropOutputs(event.worker_id, "the worker has ended"))
            return False
        in_flight = worker.in_flight
        ended = [request_id for request_id, end in event.entries if end]
        if not all(request_id in in_flight for request_id, _ in event.entries) or len(set(ended)) != len(ended):
            self._actions.append(DropOutputs(event.worker_id, "outputs of a request that is not in flight there"))
            return False
        worker.last_seen = worker.progressed_at = now
        for request_id, _ in event.entries:
            request = in_flight[request_id]
            if not request.has_output:
                request.has_output, request.payload = True, b""  # from here on it is never replayed
        self._actions.append(ForwardOutputs(event.worker_id, event.frames))
        if not ended:
            return False
        for request_id in ended:
            del in_flight[request_id], self._facts.requests[request_id]
        worker.last_completed = now
        self._facts.model_of(worker).last_used = now
        return True

    def _on_heartbeat_arrived(self, event: HeartbeatArrived, now: float) -> None:
        worker = self._facts.workers.get(event.worker_id)
        if worker is None:
            return
        worker.last_seen = now
        if event.steps != worker.steps:
            worker.steps, worker.progressed_at = event.steps, now
        worker.mlx_active_bytes = event.mlx_active_bytes
        worker.mlx_cache_bytes = event.mlx_cache_bytes
        worker.mlx_peak_bytes = event.mlx_peak_bytes

    def _on_worker_sampled(self, event: WorkerSampled, now: float) -> None:
        worker = self._facts.workers.get(event.worker_id)
        if worker is None:
            return
        worker.rss_bytes, worker.footprint_bytes = event.rss_bytes, event.footprint_bytes
        worker.cpu_percent = event.cpu_percent
        over = 0 < worker.memory_limit_bytes < event.footprint_bytes
        worker.samples_over_limit = worker.samples_over_limit + 1 if over else 0
        if worker.samples_over_limit >= SAMPLES_OVER_LIMIT and worker.phase is not Phase.STOPPING:
            taken, limit = event.footprint_bytes / 2**30, worker.memory_limit_bytes / 2**30
            self._kill(worker, f"memory_limit: took {taken:.2f} GiB, limit {limit:.2f} GiB", now)

    def _on_worker_exited(self, event: WorkerExited, now: float) -> None:
        worker = self._facts.workers.pop(event.worker_id)
        reason = worker.end_reason or event.exit.describe()
        if worker.model_id is None:
            if not worker.end_expected:
                self._facts.spare_deaths += 1
                self._facts.spare_restart_at = now + restart.delay_seconds(self._facts.spare_deaths)
            return
        model = self._facts.model_of(worker)
        model.worker_id = None
        model.last_exit, model.last_reason = event.exit, reason
        if worker.end_expected:
            model.restart_at = now
        else:
            self._count_death(model, worker, reason, now)
        self._restart_waiting(model, now)
        self._lose(worker, f"the process of {model.model_id} died ({reason})", now, replay=True)
        if model.drain is not None:
            self._finish_drain(model)
        for wait in model.unloads:
            self._actions.append(Reply(wait.request_id, {"model_id": model.model_id}))
        for wait in model.kills:
            self._actions.append(Reply(wait.request_id, {"model_id": model.model_id, "pid": worker.pid}))
        model.unloads, model.kills = [], []
        if model.failure is not None:
            self._give_up_waiting(model, Code.WORKER_DIED, f"{model.model_id} has failed: {model.failure}")

    def _count_death(self, model: Model, worker: Worker, reason: str, now: float) -> None:
        stable = worker.ready_at is not None and now - worker.ready_at >= restart.STABLE_SECONDS
        model.deaths = 1 if stable else model.deaths + 1
        model.restart_at = now + restart.delay_seconds(model.deaths)
        if restart.gives_up(model.deaths):
            model.failure = f"{model.deaths} deaths in a row, the last: {reason}"
        if worker.ready_at is None:
            # Whoever joined the load that died has seen one death more; the second is one too many.
            why = f"the process of {model.model_id} died while loading ({reason})"
            for request in list(model.waiting):
                request.deaths += 1
                if request.deaths > 1:
                    model.waiting.remove(request)
                    self._end(request, Code.WORKER_DIED, why, retryable=True)
            for wait in list(model.loads):
                wait.deaths += 1
                if wait.deaths > 1:
                    model.loads.remove(wait)
                    self._fail(wait.request_id, Code.WORKER_DIED, why, retryable=True)
            if model.pinned_by_load and not model.loads:
                self._unpin(model)

    # ---- the one decision -----------------------------------------------------------------------------------------

    def _schedule(self, now: float) -> None:
        """Look at all facts and decide. Idempotent: with the same facts a second call does nothing."""
        for worker in list(self._facts.workers.values()):
            self._watch(worker, now)
        if self._facts.stopping:
            if not self._facts.workers:
                self._actions.append(Exited())
        else:
            self._drain(now)
            self._expire_waiting(now)
            self._drain(now)  # an unload may have waited for who has just given up
            self._answer_loads()
            self._expire_idle(now)
            self._start_wanted(now)
            self._dispatch(now)
            self._keep_spares(now)
        self._announce(now)
        self._deadline = min(self._facts.deadlines(now), default=None)

    def _watch(self, worker: Worker, now: float) -> None:
        """Kill what has stopped living: no heartbeat, no progress, no exit."""
        for deadline, reason in self._facts.ends(worker):
            if now >= deadline:
                self._kill(worker, reason, now)
                return

    def _expire_waiting(self, now: float) -> None:
        for model in self._facts.models.values():
            while model.waiting and now >= self._facts.expiry(model):
                request = model.waiting.popleft()
                waited = f"{model.model_id} found no room for {self.limits.queue_timeout:g} s"
                self._end(request, Code.MODEL_UNAVAILABLE, waited, 1.0, retryable=True)

    def _drain(self, now: float) -> None:
        for model in self._facts.models.values():
            worker = self._facts.worker_of(model)
            if model.drain is None or worker is None or worker.phase is Phase.STOPPING:
                continue
            older_wait = bool(model.waiting) and model.waiting[0].order < model.drain.order
            if not worker.busy and not older_wait:
                if worker.phase is Phase.READY:
                    self._finish_drain(model)
                    self._stop(worker, "unload", now)
                else:
                    self._kill(worker, "unload", now, expected=True)
            elif now >= model.drain.deadline and model.drain.force:
                self._kill(worker, "unload by force", now, expected=True, replay=False)
            elif now >= model.drain.deadline:
                count = len(worker.in_flight) + len(model.waiting)
                why = f"{model.model_id} still has {count} requests; it stays loaded (force=true would kill it)"
                model.drain = None
                for wait in model.unloads:
                    self._fail(wait.request_id, Code.DRAIN_TIMEOUT, why)
                model.unloads = []

    def _finish_drain(self, model: Model) -> None:
        """The process goes, and with it the pin, unless somebody has asked for a load since."""
        model.drain = None
        if not model.loads:
            self._unpin(model)

    def _start_wanted(self, now: float) -> None:
        """Start what fits, in order of waiting. The first that has to wait for room claims its victims and nobody
        overtakes it: that is what keeps the queue from starving anyone. What can never fit is told so at any place."""
        self._claimed = ()
        head_waits = False
        wanted = [m for m in self._facts.models.values() if m.wanted and m.worker_id is None and m.restart_at <= now]
        for model in sorted(wanted, key=lambda m: m.order):
            need = self._facts.need_of(model)
            limits = self.limits
            room = make_room(need, limits.max_models, limits.max_memory_bytes, self._facts.occupants(model.order, now))
            if room.verdict is Verdict.NEVER:
                self._give_up_waiting(model, Code.INSUFFICIENT_MEMORY, self._facts.why_never(model, need))
            elif head_waits:
                continue
            elif room.verdict is Verdict.FITS:
                self._start(model, need, now)
            else:
                head_waits = True
                self._claimed, self._claim_order = room.victims, model.order
                if room.verdict is Verdict.EVICT:
                    for worker_id in room.victims:
                        self._stop(self._facts.workers[worker_id], f"evicted for {model.model_id}", now)

    def _start(self, model: Model, need: int, now: float) -> None:
        spare = self._facts.spare()
        worker = spare or self._start_worker(now, spare=False)
        worker.model_id, worker.phase = model.model_id, Phase.LOADING
        worker.stage, worker.fraction = None, None
        worker.progressed_at = now
        worker.reserved_bytes = need
        assert model.spec is not None  # nothing wants a model that has never had a spec
        worker.memory_limit_bytes = model.spec.memory_limit_bytes or int(
            self._facts.estimate(model.spec) * self.limits.memory_limit_factor + self.limits.memory_limit_floor_bytes
        )
        model.worker_id = worker.worker_id
        model.restarts += model.deaths > 0
        if worker.connected:
            self._assign(worker)

    def _dispatch(self, now: float) -> None:
        """Hand waiting requests to ready workers."""
        for worker in self._facts.workers.values():
            if worker.phase is not Phase.READY:
                continue
            model = self._facts.model_of(worker)
            last = self._claim_order if worker.worker_id in self._claimed else FOREVER
            if model.drain is not None:
                last = min(last, model.drain.order)
            while model.waiting and model.waiting[0].order < last:
                request = model.waiting.popleft()
                if not worker.busy:
                    worker.progressed_at = now
                request.worker_id = worker.worker_id
                worker.in_flight[request.request_id] = request
                worker.last_dispatched = model.last_used = now
                self._actions.append(
                    ForwardRequest(worker.worker_id, request.request_id, model.model_id, request.payload)
                )

    def _answer_loads(self) -> None:
        for worker in self._facts.workers.values():
            if worker.phase is Phase.READY and (model := self._facts.model_of(worker)).drain is None:
                for wait in model.loads:
                    self._actions.append(Reply(wait.request_id, self._loaded(model, worker)))
                model.loads, model.pinned_by_load = [], False

    def _expire_idle(self, now: float) -> None:
        for worker in list(self._facts.workers.values()):
            if now >= self._facts.idle_until(worker):
                self._stop(worker, "keep_alive", now)

    def _keep_spares(self, now: float) -> None:
        while now >= self._facts.spare_due():
            self._start_worker(now, spare=True)

    def _announce(self, now: float) -> None:
        for model in self._facts.models.values():
            worker = self._facts.worker_of(model)
            state, reason = state_of(model, worker, now)
            if self._facts.stopping and worker is None:
                state, reason = State.UNLOADED, "shutdown"  # pinned or not, nothing will be started
            stage, fraction = (worker.stage, worker.fraction) if worker is not None else (None, None)
            shown = Shown(state, reason, stage, fraction)
            if shown != model.announced:
                if state != model.announced.state:
                    model.since = now
                model.announced = shown
                self._actions.append(AnnounceModel(model.model_id, shown))

    # ---- workers --------------------------------------------------------------------------------------------------

    def _start_worker(self, now: float, *, spare: bool) -> Worker:
        self._started += 1
        worker_id = f"w{self._started}-{self._run_id}"
        worker = Worker(worker_id, None, Phase.WAITING, started_at=now, last_seen=now, progressed_at=now)
        self._facts.workers[worker_id] = worker
        self._actions.append(StartWorker(worker_id, spare))
        return worker

    def _assign(self, worker: Worker) -> None:
        spec = self._facts.model_of(worker).spec
        assert spec is not None
        self._actions.append(AssignModel(worker.worker_id, spec, worker.memory_limit_bytes))

    def _stop(self, worker: Worker, reason: str, now: float) -> None:
        worker.phase, worker.end_reason, worker.end_expected = Phase.STOPPING, reason, True
        worker.stop_deadline = now + self.limits.stop_grace
        if worker.connected:
            self._actions.append(StopWorker(worker.worker_id, reason))
        else:
            worker.killed = True
            self._actions.append(KillWorker(worker.worker_id, reason))

    def _kill(self, worker: Worker, reason: str, now: float, *, expected: bool = False, replay: bool = True) -> None:
        if not worker.killed:
            self._actions.append(KillWorker(worker.worker_id, reason))
        worker.killed, worker.phase = True, Phase.STOPPING
        worker.end_expected = worker.end_expected or expected
        worker.end_reason = worker.end_reason or reason
        model = self._facts.models.get(worker.model_id or "")
        if model is not None:
            if model.drain is not None:
                self._finish_drain(model)
            self._restart_waiting(model, now)
        # Its clients are told now: reaping a process of many gigabytes can take a while.
        self._lose(worker, f"the process of {worker.model_id} was ended: {reason}", now, replay=replay)

    def _restart_waiting(self, model: Model, now: float) -> None:
        """Whoever waited for a process that is gone begins to wait for the next one."""
        for request in model.waiting:
            request.waiting_since = now

    def _lose(self, worker: Worker, why: str, now: float, *, replay: bool) -> None:
        """Requests in flight on a worker that is gone: what has shown no output is tried once more."""
        for request in reversed(worker.in_flight.values()):
            request.worker_id = None
            if request.cancelled:
                self._end(request, Code.CANCELLED, "the client has gone")
            elif replay and not request.has_output and request.deaths == 0:
                request.deaths, request.waiting_since = 1, now
                self._facts.models[request.model_id].waiting.appendleft(request)
            else:
                self._end(request, Code.WORKER_DIED, why, retryable=True)
        worker.in_flight.clear()

    # ---- models ---------------------------------------------------------------------------------------------------

    def _known_model(self, model_id: str, spec: ModelSpec | None) -> Model | None:
        """The record of this model, made if the catalog knows it; a fresh spec replaces the old one."""
        model = self._facts.models.get(model_id)
        if spec is None:
            return model
        if model is None:
            model = self._facts.models[model_id] = Model(model_id)
        model.spec = spec
        return model

    def _serves_at_once(self, model: Model, worker: Worker | None) -> bool:
        ready = worker is not None and worker.phase is Phase.READY and worker.worker_id not in self._claimed
        return ready and model.drain is None

    def _loaded(self, model: Model, worker: Worker) -> dict[str, Any]:
        assert model.spec is not None
        size = worker.reserved_bytes
        model_type = model.spec.model_type
        return {"model_id": model.model_id, "model_type": model_type, "size_bytes": size, "pinned": model.pinned}

    def _pin(self, model: Model, order: int) -> None:
        model.pinned, model.pin_order = True, order
        self._save_pins()

    def _unpin(self, model: Model) -> None:
        if model.pinned:
            model.pinned = model.pinned_by_load = False
            self._save_pins()

    def _save_pins(self) -> None:
        self._actions.append(SavePins(sorted(m.model_id for m in self._facts.models.values() if m.pinned)))

    # ---- ends -----------------------------------------------------------------------------------------------------

    def _next_order(self) -> int:
        self._order += 1
        return self._order

    def _give_up_waiting(self, model: Model, code: Code, why: str) -> None:
        """Everyone who waits for this model gets the same error. A pin that came with a failed load goes with it; any
        other stays, and the model is `failed` if there is no point in trying again by itself."""
        while model.waiting:
            self._end(model.waiting.popleft(), code, why)
        self._fail_loads(model, code, why)
        if model.pinned_by_load:
            self._unpin(model)
        if code == Code.INSUFFICIENT_MEMORY and model.pinned:
            model.failure = why

    def _fail_loads(self, model: Model, code: Code, why: str) -> None:
        for wait in model.loads:
            self._fail(wait.request_id, code, why)
        model.loads = []

    def _refuse(self, request_id: bytes, problem: Failure | None, model_id: str) -> None:
        unknown = Failure(Code.MODEL_NOT_FOUND, f"no model named {model_id!r}")
        self._actions.append(Fail(request_id, problem or unknown))

    def _end(
        self,
        request: PendingRequest,
        code: Code,
        message: str,
        retry_after: float | None = None,
        *,
        retryable: bool = False,
    ) -> None:
        del self._facts.requests[request.request_id]
        self._fail(request.request_id, code, message, retry_after, retryable=retryable)

    def _fail(
        self,
        request_id: bytes,
        code: Code,
        message: str,
        retry_after: float | None = None,
        *,
        retryable: bool = False,
    ) -> None:
        failure = Failure(code, message, retry_after=retry_after, retryable=retryable)
        self._actions.append(Fail(request_id, failure))
