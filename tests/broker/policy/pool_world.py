"""A world for the pool: workers and clients that do anything the real ones could, in any order, on a fake clock.

The world performs the pool's actions on simulated processes and, after every event, asserts what must always hold.
It asserts from its own books where it can, not from the pool's.
"""

from dataclasses import replace

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
    ForwardCancel,
    ForwardOutputs,
    ForwardRequest,
    GrantShare,
    KillWorker,
    Reply,
    SaveMeasured,
    SavePins,
    ShrinkShare,
    StartWorker,
    StopWorker,
    TellLost,
)
from broker.policy.events import (
    Event,
    GatewayLeft,
    KeepRequested,
    ModelPinned,
    OutputsArrived,
    PauseEnded,
    RequestArrived,
    RequestCancelled,
    ShutdownRequested,
    SystemSampled,
    TimePassed,
    WorkerConnected,
    WorkerExited,
    WorkerFailedToLoad,
    WorkerProgressed,
    WorkerStarted,
)
from broker.policy.flow_events import LinkClosed, LinkOpened, OutputsRead, OutputsSent
from broker.policy.policies import Policies
from broker.policy.pressure import Pressure
from broker.policy.records import Instance, Phase
from broker.policy.specs import Exit
from broker.wire.failure import Failure
from tests.broker.policy.world_books import GATEWAYS, MIB, SimLink, SimRequest, SimWorker
from tests.broker.policy.world_deaths import Deaths
from tests.broker.policy.world_idle import KEEP_ALIVES


class World(Deaths):
    """One history. `step()` does one random thing; `settle()` lets everything that is under way come to its end."""

    # ---- performing -----------------------------------------------------------------------------------------------

    def send(self, event: Event) -> list[Action]:
        """Hand one event to the pool, perform the actions, check everything."""
        self.log.append(f"{self.now:.2f} {event}")
        loading_before = {i.name for i in self.instances() if i.phase is Phase.LOADING}
        if isinstance(event, ModelPinned):  # comes from where pins are kept, so it is not written there again
            self.pins = [*self.pins, event.model_id]
        promised = self.promised()
        self.note_event(event)
        actions = self.driven.handle(event, self.now)
        self.note_actions(event, actions)
        for action in actions:
            self.log.append(f"    -> {action}")
            self._perform(action)
        self._check(loading_before)
        self._check_shares(promised, actions)
        self._check_loads(actions)
        self._check_nothing_is_left(self.driven if isinstance(event, TimePassed) else self.pool)
        if isinstance(event, TimePassed):
            self._check_awake_in_time()
            self.check_counts()
        while self.inbox:
            self.send(self.inbox.popleft())
        return actions

    def _perform(self, action: Action) -> None:
        match action:
            case StartWorker(worker_id, spare):
                assert worker_id not in self.workers
                self._start(worker_id, spare=spare)
            case AssignModel(worker_id, spec, share, limit, rank, ranks):
                worker = self.workers[worker_id]
                assert worker.connected
                assert worker.spec is None
                assert ranks == spec.ranks
                self.groups[worker_id] = self._instance_of(worker_id).name
                self.assigned(worker, spec, rank, share, limit)
            case ForwardRequest():
                self._forward(action)
            case ForwardCancel(worker_id, request_id):
                self.workers[worker_id].cancelled.add(request_id)
            case ForwardOutputs() | DropOutputs() | AnnounceModel() | AnnounceMemory() | DownloadEnded():
                pass
            case StopWorker(worker_id, reason):
                worker = self.workers[worker_id]
                assert reason == "shutdown" or not worker.in_flight, "asked a busy worker to exit"
                if reason.startswith("evicted"):
                    assert worker.ready
                    assert worker.spec is not None
                    assert not self._model_pinned(worker.spec.model_id), "evicted a pinned model"
                self.check_leaves(worker, reason)
                worker.asked_to_stop = True
            case KillWorker(worker_id) if worker_id in self.workers:
                self.workers[worker_id].killed = True
                self.note_kill(action)
            case Reply(request_id, _) | Fail(request_id):
                self.end(request_id, action.failure if isinstance(action, Fail) else None)
            case SavePins(model_ids):
                self.pins = model_ids
            case Exited():
                assert not self.workers
                self.exited = True
            case _:
                self._perform_other(action)

    def _forward(self, action: ForwardRequest) -> None:
        worker, request = self.workers[action.worker_id], self.requests[action.request_id]
        assert worker.spec is not None
        assert worker.rank == 0, "a request to another rank than 0"
        ranks = self.ranks_of(action.worker_id)
        assert len(ranks) == worker.spec.ranks
        assert all(rank.ready for rank in ranks)
        assert not any(rank.asked_to_stop or rank.killed for rank in ranks)
        assert worker.spec.model_id == action.model_id == request.model_id
        assert request.ends == 0
        assert not request.is_keep, "no work"
        self.check_sent(action.request_id, request, worker, action.payload)
        worker.in_flight.add(action.request_id)
        if request.keep_alive is not None:
            self.hear(action.worker_id, action.request_id, request.keep_alive)

    def _instance_of(self, worker_id: str) -> Instance:
        instance = self.pool.workers[worker_id].instance
        assert instance is not None
        return instance

    def end(self, request_id: bytes, failure: Failure | None = None) -> None:
        """The broker answers it."""
        request = self.requests[request_id]
        request.ends += 1
        if failure is not None:
            self.check_refusal(request_id, failure)
            self.check_end(request, failure)
        elif request.is_keep:
            self.note_kept(request_id, request)
        self.deliver(request_id[:8], "")

    def _start(self, worker_id: str, *, spare: bool) -> None:
        self.workers[worker_id] = SimWorker(worker_id, spare)
        if self.driven is not self.pool:
            self.inbox.append(WorkerStarted(worker_id, 4000 + len(self.workers)))

    def _perform_other(self, action: Action) -> None:
        """Those of memory, downloads and flow."""
        match action:
            case GrantShare() | ShrinkShare() | SaveMeasured():
                self.perform_memory(action)
            case TellLost(request_id):
                self.lose(request_id)
            case Acknowledge(worker_id, total):
                assert self.read.get(worker_id, 0) < total <= self.sent[worker_id], "told of what is unread"
                self.read[worker_id] = total
            case KillWorker(worker_id, _) if worker_id in self.fetching:
                self.fetching[worker_id].killed = True
            case _:
                self.perform_files(action)

    def deliver(self, gateway: bytes, worker_id: str) -> None:
        """One message is on its way to this gateway."""
        self.links[gateway].got += 1
        if not worker_id and isinstance(self.driven, Policies):
            for action in self.driven.handle(OutputsSent(gateway), self.now):
                self._perform(action)

    # ---- random life ----------------------------------------------------------------------------------------------

    def new_id(self, model_id: str, *, admin: bool = False) -> bytes:
        self.counter += 1
        request_id = self.random.choice(GATEWAYS) + self.counter.to_bytes(8, "big")
        self.requests[request_id] = SimRequest(model_id, admin)
        self.sizes[request_id] = self.random.choice([0, 0, 0, 1, 20, 100, 400]) * MIB
        return request_id

    def request(self, model_id: str) -> bytes:
        request_id = self.new_id(model_id)
        spec, problem = self.specs.get(model_id), self.problem(model_id)
        keep_alive = self.requests[request_id].keep_alive = self.random.choice(KEEP_ALIVES)
        limit = self.requests[request_id].resume_limit = self.random.choice([0, 0, 1, 2, 3])
        event = RequestArrived(request_id, model_id, request_id, spec, problem, keep_alive=keep_alive)
        self.want(replace(event, resume_limit=limit))
        return request_id

    def ask_to_keep(self, model_id: str) -> None:
        request_id, seconds = self.new_id(model_id), self.random.choice(KEEP_ALIVES)
        request = self.requests[request_id]
        request.is_keep, request.keep_alive = True, seconds
        event = KeepRequested(request_id, model_id, seconds, self.specs.get(model_id), self.problem(model_id))
        if seconds == 0:
            self.send(event)
        else:
            self.want(event)

    def _gateway(self) -> None:
        """A gateway reads some of what it got."""
        gateway, link = self.random.choice(list(self.links.items()))
        if link.read < link.got:
            link.read = self.random.randint(link.read + 1, link.got)
            self.send(OutputsRead(gateway, link.read))

    def step(self) -> None:
        """One random thing happens."""
        choice = self.random.random()
        if self.lost and choice < 0.2:
            self.resume(self.random.choice(sorted(self.lost)))
        elif choice < 0.30:
            self._client()
        elif choice < 0.36:
            self.administrate()
        elif choice < 0.46:
            self._time()
        elif choice < 0.52:
            self._gateway()
        elif choice < 0.53:
            self.change_system()
        elif self.fetching and choice < 0.60:
            self._download(self.random.choice(list(self.fetching.values())), trouble=0.1)
        elif self.workers:
            self._worker(self.random.choice(list(self.workers.values())), trouble=0.06)

    def _client(self) -> None:
        choice = self.random.random()
        open_ids = [r for r, q in self.requests.items() if q.ends == 0]
        if choice < 0.8 or not open_ids:
            ask = self.ask_to_keep if self.random.random() < 0.1 else self.request
            ask(self.random.choice([*self.specs, *self.absent, "unknown"]))
        elif choice < 0.98:
            self.send(RequestCancelled(self.random.choice(open_ids)))
        else:
            gateway = self.random.choice(GATEWAYS)
            self.send(LinkClosed(gateway))
            self.send(GatewayLeft(gateway))
            self.links[gateway] = SimLink()
            self.send(LinkOpened(gateway))

    def _time(self) -> None:
        """Time passes: a little, or exactly to the deadline. Live workers beat, stuck ones do not."""
        deadline = self.driven.next_deadline()
        jump = self.random.choice([0.01, 0.3, 1.0, 4.0])
        if deadline is not None and self.random.random() < 0.3 and deadline - self.now < 40:
            self.now = deadline
        else:
            self.now += jump
        for worker in list(self.workers.values()):
            if worker.connected and not worker.stuck and not worker.killed:
                worker.steps += bool(worker.in_flight) or not worker.ready
                self.send(self.next_beat(worker))
            if worker.ready and self.random.random() < 0.3:
                self.see(worker)
        if self.random.random() < 0.02:
            self.send(PauseEnded())
        self.send(TimePassed())

    def _worker(self, worker: SimWorker, trouble: float) -> None:
        if worker.killed or (worker.asked_to_stop and not worker.stuck):
            self.exit(worker, None if worker.killed else 0)
        elif self.random.random() < trouble:
            self._trouble(worker)
        elif worker.stuck:
            return
        elif not worker.connected:
            self._connect(worker)
        elif worker.spec is None:
            self.send(WorkerProgressed(worker.worker_id, "imported", None, self.working_set))
        elif not worker.ready:
            self.load_part(worker)
        else:
            self.run(worker)
            if worker.in_flight and worker.worker_id in self.workers:
                self._output(worker)

    def _connect(self, worker: SimWorker) -> None:
        worker.connected = True
        self.send(WorkerConnected(worker.worker_id))

    def _output(self, worker: SimWorker) -> None:
        gateway = self.random.choice(GATEWAYS)
        entries = []
        over = worker.cancelled | self.never_fit(worker)
        begun = self.memory(worker.worker_id).running.keys() | over
        for request_id in sorted(r for r in worker.in_flight & begun if r.startswith(gateway)):
            end = request_id in over or self.random.random() < 0.3
            if not end and self.random.random() < 0.4:
                continue
            entries.append((request_id, end))
            request = self.requests[request_id]
            self.note_output(request)
            if end:
                request.ends += 1
                worker.in_flight.discard(request_id)
        if entries:
            self.sent[worker.worker_id] += 1
            self.deliver(gateway, worker.worker_id)
            self.send(OutputsArrived(worker.worker_id, entries, [b"frames"]))

    def _trouble(self, worker: SimWorker) -> None:
        match self.random.randrange(5):
            case 0:
                worker.stuck = True
            case 1 if worker.connected and worker.spec is not None and not worker.ready and not worker.stuck:
                worker.stuck = True  # it says why and dies later
                self.send(WorkerFailedToLoad(worker.worker_id, "model.safetensors is broken"))
            case 2 if worker.connected:
                more = self.random.choice([self.pool.memory.budget_bytes, 1 << 40])
                for _ in range(self.random.choice([1, 3])):  # the third one in a row ends it
                    self.see(worker, more)
            case 3:
                self.sent[worker.worker_id] += 1
                self.send(OutputsArrived(worker.worker_id, [(b"gatewayA-unknown", True)], [b"frames"]))
            case _:
                self.exit(worker, None)

    def exit(self, worker: SimWorker, code: int | None) -> None:
        """The process ends; its requests are lost as far as it is concerned."""
        del self.workers[worker.worker_id]
        signal = "SIGKILL" if code is None else None
        unheard = sorted(request_id for request_id in worker.in_flight if not self.requests[request_id].heard)
        intake = self.random.choice(unheard) if unheard and self.random.random() < 0.3 else None
        self.note_exit(worker, intake)
        self.send(WorkerExited(worker.worker_id, Exit(code, signal, 0.0, "last words", intake)))

    # ---- the end of a history -------------------------------------------------------------------------------------

    def settle(self) -> None:
        """No more trouble and no new clients: everybody must get an answer."""
        self.is_settling, self.pressure = True, Pressure.NORMAL
        self.send(SystemSampled(Pressure.NORMAL))
        for _ in range(4000):
            if all(r.ends for r in self.requests.values()):
                return
            for request_id in sorted(self.lost):
                self.resume(request_id)
            for worker in list(self.workers.values()):
                if worker.stuck or worker.killed or worker.asked_to_stop:
                    self.exit(worker, None if worker.killed else 0)
                elif worker.worker_id in self.workers:
                    self._worker(worker, trouble=0.0)
            for download in list(self.fetching.values()):
                self._download(download, trouble=0.0)
            self._time()
        waiting = [(r, q) for r, q in self.requests.items() if not q.ends]
        raise AssertionError(f"nobody may wait for ever: {waiting[:5]}")

    def close_links(self) -> None:
        """All gateways go: nothing that a worker has sent is waited for any more."""
        for gateway in GATEWAYS:
            self.send(LinkClosed(gateway))
        unread = {w: n for w, n in self.sent.items() if w in self.workers and self.read.get(w, 0) != n}
        assert not unread, f"never told: {unread}"

    def shut_down(self) -> None:
        self.send(ShutdownRequested())
        for _ in range(1000):
            if self.exited:
                return
            for worker in list(self.workers.values()):
                self._worker(worker, trouble=0.2)
            for download in list(self.fetching.values()):
                self._download(download, trouble=0.2)
            self._time()
        raise AssertionError("the broker does not end")

    def restore_pin(self, model_id: str) -> None:
        self.want(ModelPinned(model_id, self.specs.get(model_id), self.problem(model_id)))
