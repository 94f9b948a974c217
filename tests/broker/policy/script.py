"""Scripted scenarios for the pool: a World in which a test decides what happens, in the order it writes it down.

Every call hands one event to the pool and gives back its actions, announcements left out (they are in `announced`).
After every event the World's invariants are asserted too, so a script proves more than it says.
"""

from dataclasses import dataclass, replace
from typing import Any

from broker.policy.actions import (
    Action,
    AnnounceMemory,
    AnnounceModel,
    AssignModel,
    Fail,
    ForwardRequest,
    Reply,
    StopWorker,
)
from broker.policy.budget import Hardware
from broker.policy.events import (
    Event,
    GatewayLeft,
    HeartbeatArrived,
    KeepRequested,
    KillRequested,
    LoadRequested,
    OutputsArrived,
    PinRequested,
    PullRequested,
    ReloadRequested,
    RemoveRequested,
    RequestArrived,
    RequestCancelled,
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
from broker.policy.limits import PoolLimits
from broker.policy.records import Instance, Model, Worker
from broker.policy.shown import shown
from broker.policy.specs import Exit, ModelSpec
from tests.broker.policy.pool_world import World
from tests.broker.policy.world_books import MIB, SimRequest

W1, W2, W3, W4, W5, W6 = (f"w{n}-test" for n in range(1, 7))
R1, R2, R3, R4, R5, R6, R7, R8, R9 = (b"gatewayArequest%d" % n for n in range(1, 10))
ELSEWHERE = b"gatewayBrequest1"  # a request of another gateway

START = 1000.0
SIZE = 100 * MIB  # what a model of a script needs unless it says otherwise, before and after it is loaded


class Script(World):
    """Models a, b, c, d of 100 MiB each; room for 1000 MiB and two of them; no spare, no keep_alive. `limits` as in
    PoolLimits, memory in MiB; shares are to the byte."""

    def __init__(self, *, memory: int = 1000, max_models: int = 2, **limits: Any) -> None:
        defaults = {"warm_spares": 0, "keep_alive": -1.0, "block_bytes": 0}
        machine = limits.pop("machine", Hardware(0, memory * MIB))
        super().__init__(0, PoolLimits(max_models, machine, **defaults | limits), models=0)
        self.now = START
        self.driven = self.pool  # alone: what the pool does shows best without the others
        self.announced: list[AnnounceModel] = []
        self.remembered: list[AnnounceMemory] = []
        for model_id in "abcd":
            self.add_model(model_id, 100)

    def add_model(self, model_id: str, needs: int, **fields: Any) -> None:
        """A model of which the pool will think that it needs this many MiB."""
        weight_bytes = int(needs * MIB / self.limits.estimate_factor)
        self.specs[model_id] = ModelSpec(model_id, "text-gen", f"/models/{model_id}", weight_bytes, **fields)

    def send(self, event: Event) -> list[Action]:
        actions = super().send(event)
        self.announced += [action for action in actions if isinstance(action, AnnounceModel)]
        self.remembered += [action for action in actions if isinstance(action, AnnounceMemory)]
        return [action for action in actions if not isinstance(action, AnnounceModel | AnnounceMemory)]

    # ---- clients and administrators -------------------------------------------------------------------------------

    def ask(
        self, request_id: bytes, model_id: str, origin: bytes = b"", keep_alive: float | None = None, resumes: int = 0
    ) -> list[Action]:
        """A request that asks for this model. origin: equal for requests that a worker takes in alike. resumes: how
        often it may go on in another process."""
        known = SimRequest(model_id, keep_alive=keep_alive, resume_limit=resumes)
        self.requests.setdefault(request_id, known)
        event = RequestArrived(request_id, model_id, request_id, self.specs.get(model_id), origin=origin)
        return self.send(replace(event, keep_alive=keep_alive, resume_limit=resumes))

    def keep(self, request_id: bytes, model_id: str, seconds: float | None) -> list[Action]:
        self.requests[request_id] = SimRequest(model_id, keep_alive=seconds, is_keep=True)
        return self.send(KeepRequested(request_id, model_id, seconds, self.specs.get(model_id)))

    def cancel(self, request_id: bytes) -> list[Action]:
        return self.send(RequestCancelled(request_id))

    def gateway_leaves(self, gateway_id: bytes) -> list[Action]:
        return self.send(GatewayLeft(gateway_id))

    def load(self, request_id: bytes, model_id: str) -> list[Action]:
        self.requests[request_id] = SimRequest(model_id, admin=True)
        return self.send(LoadRequested(request_id, model_id, self.specs.get(model_id)))

    def unload(
        self, request_id: bytes, model_id: str, timeout: float | None = None, *, force: bool = False
    ) -> list[Action]:
        self.requests[request_id] = SimRequest(model_id, admin=True)
        return self.send(UnloadRequested(request_id, model_id, timeout, force))

    def kill(self, request_id: bytes, model_id: str, *, resume: bool = True) -> list[Action]:
        self.requests[request_id] = SimRequest(model_id, admin=True)
        return self.send(KillRequested(request_id, model_id, resume))

    def reload(self, request_id: bytes, model_id: str, *, allow_gap: bool = False, **changes: Any) -> list[Action]:
        """changes: what the settings of the model say by now."""
        self.requests[request_id] = SimRequest(model_id, admin=True)
        if model_id in self.specs:
            self.specs[model_id] = replace(self.specs[model_id], **changes)
        return self.send(ReloadRequested(request_id, model_id, allow_gap, self.specs.get(model_id)))

    def pull(self, request_id: bytes, model_id: str) -> list[Action]:
        self.requests[request_id] = SimRequest(model_id, admin=True)
        return self.send(PullRequested(request_id, model_id, False, self.specs.get(model_id)))

    def remove(self, request_id: bytes, model_id: str, *others: str) -> list[Action]:
        """others: models that are loaded from the same files."""
        self.requests[request_id] = SimRequest(model_id, admin=True)
        self.removals[request_id] = RemoveRequested(request_id, model_id, others)
        return self.send(self.removals[request_id])

    def pin(self, request_id: bytes, model_id: str) -> list[Action]:
        self.requests[request_id] = SimRequest(model_id, admin=True)
        return self.send(PinRequested(request_id, model_id, self.specs.get(model_id)))

    def unpin(self, request_id: bytes, model_id: str) -> list[Action]:
        self.requests[request_id] = SimRequest(model_id, admin=True)
        return self.send(UnpinRequested(request_id, model_id))

    # ---- workers --------------------------------------------------------------------------------------------------

    def started(self, worker_id: str, pid: int) -> list[Action]:
        return self.send(WorkerStarted(worker_id, pid))

    def connect(self, worker_id: str) -> list[Action]:
        self.workers[worker_id].connected = True
        return self.send(WorkerConnected(worker_id))

    def progress(self, worker_id: str, stage: str = "weights", fraction: float | None = None) -> list[Action]:
        return self.send(WorkerProgressed(worker_id, stage, fraction))

    def ready(self, worker_id: str, measured: int | None = None, beside: int = 0) -> list[Action]:
        """Its model is loaded and the process takes this many MiB, or exactly what was reserved for it. beside: how
        many of them are not MLX's."""
        self.workers[worker_id].ready = True
        worker = self.pool.workers[worker_id]
        reserved = worker.instance.reserved_bytes // len(worker.instance.ranks) if worker.instance else 0
        taken = reserved if measured is None else measured * MIB
        self.took(worker_id, taken)
        self.memory(worker_id).beside = beside * MIB
        return self.send(WorkerBecameReady(worker_id, taken, 4096, beside * MIB))

    def load_fails(self, worker_id: str, message: str = "model.safetensors is broken") -> list[Action]:
        """What follows, besides that the worker hears that it may go."""
        actions = self.send(WorkerFailedToLoad(worker_id, message))
        actions.remove(StopWorker(worker_id, f"load failed: {message}"))
        return actions

    def text(self, worker_id: str, *request_ids: bytes) -> list[Action]:
        """One step of this worker gives output to these requests."""
        return self._outputs(worker_id, request_ids, end=False)

    def finish(self, worker_id: str, *request_ids: bytes) -> list[Action]:
        """One step of this worker ends these requests."""
        return self._outputs(worker_id, request_ids, end=True)

    def _outputs(self, worker_id: str, request_ids: tuple[bytes, ...], *, end: bool) -> list[Action]:
        for request_id in request_ids:
            self.note_output(self.requests[request_id])
            self.requests[request_id].ends += end
            if end:
                self.workers[worker_id].in_flight.discard(request_id)
        return self.send(OutputsArrived(worker_id, [(r, end) for r in request_ids], [b"frames"]))

    def beat(self, worker_id: str, steps: int = 0) -> list[Action]:
        return self.send(HeartbeatArrived(worker_id, steps, 1, 2, 3))

    def sample(self, worker_id: str, footprint: int) -> list[Action]:
        """The process is seen to take this many MiB."""
        self.memory(worker_id).footprint = footprint * MIB
        return self.send(WorkerSampled(worker_id, footprint * MIB, footprint * MIB, 12.5))

    def dies(
        self,
        worker_id: str,
        signal: str | None = "SIGKILL",
        code: int | None = None,
        tail: str = "",
        intake: bytes | None = None,
    ) -> list[Action]:
        """intake: the request that it was taking in."""
        self.note_exit(self.workers.pop(worker_id), intake)
        how = Exit(code, None if code is not None else signal, 77.0, tail, intake)
        return self.send(WorkerExited(worker_id, how))

    def exits(self, worker_id: str) -> list[Action]:
        """In good order, with code 0."""
        return self.dies(worker_id, code=0)

    # ---- time -----------------------------------------------------------------------------------------------------

    def wait(self, seconds: float, *alive: str) -> list[Action]:
        """Time passes, in steps of at most 5 s, in each of which the workers named here send a heartbeat."""
        actions = []
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 5.0)
            for worker_id in alive:
                actions += self.beat(worker_id, self.pool.workers[worker_id].steps)
            actions += self.send(TimePassed())
        return actions

    # ---- common beginnings ----------------------------------------------------------------------------------------

    def loading(self, model_id: str, request_id: bytes) -> str:
        """The worker that loads this model for this request."""
        self.ask(request_id, model_id)
        worker_id = self.worker(model_id).worker_id
        if not self.workers[worker_id].connected:
            self.connect(worker_id)
        return worker_id

    def busy(self, model_id: str, request_id: bytes) -> str:
        """The worker that runs this model and has this request in flight."""
        worker_id = self.loading(model_id, request_id)
        self.ready(worker_id)
        return worker_id

    def idle(self, model_id: str) -> str:
        """The worker that has loaded this model for a request that has ended."""
        request_id = self.new_id(model_id)
        worker_id = self.busy(model_id, request_id)
        self.finish(worker_id, request_id)
        return worker_id

    def pinned(self, model_id: str) -> str:
        """The worker that has loaded this model for an administrator."""
        self.load(self.new_id(model_id, admin=True), model_id)
        worker_id = self.worker(model_id).worker_id
        self.connect(worker_id)
        self.ready(worker_id)
        return worker_id

    # ---- what a test looks at -------------------------------------------------------------------------------------

    def model(self, model_id: str) -> Model:
        return next(m for m in self.pool.models if m.model_id == model_id)

    def instance(self, model_id: str) -> Instance:
        instance = self.model(model_id).serving
        assert instance is not None
        return instance

    def worker(self, model_id: str) -> Worker:
        return self.instance(model_id).head

    def state(self, model_id: str) -> str:
        return shown(self.model(model_id), self.now).state

    def reason(self, model_id: str) -> str | None:
        return shown(self.model(model_id), self.now, self.pool.waits_for(self.now)).reason

    def forward(self, worker_id: str, model_id: str, request_id: bytes) -> ForwardRequest:
        """The action that hands this request to this worker."""
        payload = self.requests[request_id].payload or request_id
        return ForwardRequest(worker_id, request_id, model_id, payload)

    def assign(self, worker_id: str, model_id: str) -> AssignModel:
        """The action that makes this worker load this model."""
        worker, spec = self.pool.workers[worker_id], self.specs[model_id]
        limit = spec.memory_limit_bytes or self.pool.memory.budget_bytes
        return AssignModel(worker_id, spec, worker.lease.share_bytes, limit, worker.rank, spec.ranks)

    def loaded(self, request_id: bytes, model_id: str, *, pinned: bool = True, size: int = SIZE) -> Reply:
        """The answer to an administrator whose load has succeeded, or to a client who keeps a model."""
        body = {"model_id": model_id, "model_type": "text-gen", "size_bytes": size, "pinned": pinned}
        return Reply(request_id, body)


@dataclass(eq=False)
class Failed:
    """Equal to a Fail of this request with this code whose message contains `says`; what is None is not compared."""

    request_id: bytes
    code: str
    says: str = ""
    retry_after: float | None = None
    retryable: bool | None = None

    __hash__ = None  # type: ignore[assignment]  # equal to many things

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Fail)
            and (other.request_id, other.failure.code) == (self.request_id, self.code)
            and self.says in other.failure.message
            and (self.retry_after is None or other.failure.retry_after == self.retry_after)
            and (self.retryable is None or other.failure.retryable == self.retryable)
        )


def replied(request_id: bytes, model_id: str) -> Reply:
    """The answer to an administrator who wanted no more than that."""
    return Reply(request_id, {"model_id": model_id})
