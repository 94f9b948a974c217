"""THE POLICY: which workers run, and which request goes where. A pure state machine.

Theory of operation
===================
`handle(event, now) -> actions`, in two steps. First the event's handler notes what has happened, and answers requests
that this alone settles: a refusal, a cancellation, an end. Handlers start, stop, kill and dispatch nothing, with one
exception: a rank that dies or fails to load takes the other ranks of its instance with it at once. Then `decide`
(scheduling.py) looks at all facts and does everything else, so a decision never depends on which event came last.
Outputs that end no request skip it: they change nothing that it looks at. A request for a model that serves changes
only what is handed to that model, so this is all that is decided then; several that have come at the same moment share
it.

Nothing here reads a clock, a socket, a file or the process table; `next_deadline()` says when to call again with
TimePassed if nothing else happens. The mutable state is one `Facts` (facts.py) of records (records.py). Busy, idle,
queued, cooling down, due: all derived from it there.

Invariants, asserted by tests/broker/policy/test_pool_histories.py after every event:
  * every request ends exactly once, by an output marked as its end or by a Fail; so does every admin request;
  * the shares of all processes together never exceed the budget; when a load starts or a share grows, everything that
    holds memory (loaded, loading, stopping) fits the limits together with it;
  * a victim is idle and unpinned; a model has at most one instance, its successor starts after all ranks have exited;
  * no request waits although room could be made for its model.

One job each: admission.py (requests come), administration.py (what administrators ask), workers.py (what processes
tell), deaths.py (how processes end, from first to last), suspects.py (who goes on when, after a death), answers.py (how
requests end without having run), scheduling.py (the decision), sharing.py (who gets memory), eviction.py (which models
leave), budget.py and pressure.py (how much memory there is), restart.py (the numbers of the restart policy),
snapshot.py (status). This file only says which handler an event has.
"""

from typing import assert_never

from broker.policy.actions import Action, AnnounceMemory
from broker.policy.administration import on_asked
from broker.policy.admission import cancel, on_gateway_left, on_request_arrived, on_request_resumed
from broker.policy.deaths import on_worker_exited, on_worker_failed_to_load
from broker.policy.events import (
    AdminEvent,
    CancelPullRequested,
    Event,
    GatewayLeft,
    HeartbeatArrived,
    KeepRequested,
    LimitsChanged,
    MemoryNeeded,
    ModelMissed,
    OutputsArrived,
    PauseEnded,
    PrefillWanted,
    RequestArrived,
    RequestCancelled,
    RequestResumed,
    SystemSampled,
    TimePassed,
    WorkerBecameReady,
    WorkerConnected,
    WorkerExited,
    WorkerFailedToLoad,
    WorkerProgressed,
    WorkerSampled,
    WorkerStarted,
)
from broker.policy.facts import FOREVER, Facts
from broker.policy.flow_events import LinkClosed, LinkOpened, OutputsRead, OutputsSent
from broker.policy.limits import PoolLimits
from broker.policy.noted import Noted
from broker.policy.records import Model, Phase, Worker
from broker.policy.scheduling import decide, dispatch
from broker.policy.sharing import on_memory_needed
from broker.policy.specs import ModelSpec
from broker.policy.workers import (
    on_heartbeat_arrived,
    on_outputs_arrived,
    on_pause_ended,
    on_system_sampled,
    on_worker_became_ready,
    on_worker_connected,
    on_worker_progressed,
    on_worker_sampled,
)


class Pool:
    """See the top of this file. run_id: makes worker ids unique among all starts of the broker. measured: what models
    took before this start, as SaveMeasured has it."""

    def __init__(self, limits: PoolLimits, run_id: str, measured: dict[str, int] | None = None) -> None:
        self.limits = limits
        self._facts = Facts(limits, run_id, measured=dict(measured or {}))
        self._deadline: float | None = None
        self._has_changed = False  # since the deadline was worked out
        self._decided_at = 0.0  # as a whole: what was due then has been done
        self._came_at: float | None = None  # requests that are decided about with the next one

    def handle(self, event: Event, now: float, then: Event | None = None) -> list[Action]:
        """What to do now that `event` has happened. now: seconds, monotonic, never less than at the last call. then:
        what will be handled next, if that is known: requests for a model that serves are decided about together, and
        have come at the same moment."""
        facts = self._facts
        if self._came_at is not None:
            now, self._came_at = self._came_at, None
        facts.actions = []
        if isinstance(event, OutputsArrived):
            if not on_outputs_arrived(facts, event, now):
                return facts.actions
        else:
            self._note(event, now)
            if isinstance(event, RequestArrived) and self._dispatches(event, then, now):
                return facts.actions
        decide(facts, now)
        self._has_changed, self._decided_at = True, now
        return facts.actions

    def _dispatches(self, event: RequestArrived, then: Event | None, now: float) -> bool:
        """Whether its model serves, so that the rest of the decision stays as it is: the request is handed out, or
        left to be handed out with the next one, if that is for the same model."""
        model = self._facts.models.get(event.model_id)
        if model is None or model.serving is None or not self._facts.serves_at_once(model):
            return False
        if isinstance(then, RequestArrived) and then.model_id == event.model_id:
            self._came_at = now
        else:
            dispatch(self._facts, model, model.serving, FOREVER, now)
            self._has_changed = True
        return True

    def _note(self, event: Event, now: float) -> None:
        facts = self._facts
        if isinstance(event, AdminEvent):
            on_asked(facts, event, now)
            return
        match event:
            case RequestArrived() | KeepRequested():
                on_request_arrived(facts, event, now)
            case RequestResumed():
                on_request_resumed(facts, event)
            case RequestCancelled():
                cancel(facts, event.request_id)
            case GatewayLeft():
                on_gateway_left(facts, event)
            case WorkerStarted():
                facts.workers[event.worker_id].pid = event.pid
            case WorkerConnected():
                on_worker_connected(facts, event, now)
            case WorkerProgressed():
                on_worker_progressed(facts, event, now)
            case WorkerBecameReady():
                on_worker_became_ready(facts, event, now)
            case WorkerFailedToLoad():
                on_worker_failed_to_load(facts, event, now)
            case HeartbeatArrived():
                on_heartbeat_arrived(facts, event, now)
            case WorkerSampled():
                on_worker_sampled(facts, event)
            case SystemSampled():
                on_system_sampled(facts, event, now)
            case WorkerExited():
                on_worker_exited(facts, event, now)
            case PauseEnded():
                on_pause_ended(facts, now)
            case LimitsChanged():
                self.limits = facts.limits = event.limits
            case MemoryNeeded():
                on_memory_needed(facts, event, now)
            case TimePassed() | OutputsArrived():
                pass  # a deadline alone changes no fact; outputs have their own way
            case PrefillWanted():
                pass  # for prefill_turns.py
            case ModelMissed() | CancelPullRequested() | LinkOpened() | LinkClosed() | OutputsSent() | OutputsRead():
                pass  # for downloads.py and flow.py
            case _:
                assert_never(event)

    def next_deadline(self) -> float | None:
        """When to call `handle(TimePassed(), now)` at the latest; None: only when something happens."""
        if self._has_changed:  # only when asked for: many events come between two questions
            self._deadline, self._has_changed = min(self._facts.deadlines(self._decided_at), default=None), False
        return self._deadline

    def take_noted(self) -> list[Noted]:
        """What metrics counts and has not been told yet."""
        noted, self._facts.noted = self._facts.noted, []
        return noted

    def running(self, model_id: str) -> ModelSpec | None:
        """The model as it was when its processes were started, if it has an instance that goes on."""
        model = self._facts.models.get(model_id)
        if model is None or model.drain is not None or model.serving is None:
            return None
        return None if model.serving.phase is Phase.STOPPING else model.spec

    @property
    def models(self) -> list[Model]:
        """For snapshots; not to be changed."""
        return list(self._facts.models.values())

    @property
    def workers(self) -> dict[str, Worker]:
        """For snapshots; not to be changed."""
        return self._facts.workers

    @property
    def is_busy(self) -> bool:
        """Whether a request waits or runs, or a model loads."""
        return bool(self._facts.requests) or any(i.phase is Phase.LOADING for _, i in self._facts.serving)

    @property
    def memory(self) -> AnnounceMemory:
        """The budget and the state of the system's memory."""
        return self._facts.memory

    def idle_until(self, model: Model) -> float | None:
        """When it leaves if nothing uses it; None if it is busy or will not leave by itself."""
        due = self._facts.idle_until(model)
        return due if due < FOREVER else None

    def waits_for(self, now: float) -> str:
        """What queued models wait for."""
        return self._facts.waits_for(now)

    def kill_limit(self, worker: Worker) -> int:
        """Bytes past which this process is killed, 0 for none."""
        return self._facts.kill_limit(worker)

    @property
    def queued(self) -> int:
        """Requests that wait in the broker, in no worker yet."""
        return self._facts.queued
