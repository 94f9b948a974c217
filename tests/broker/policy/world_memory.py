"""The memory of a pool world: workers that run sequences within their shares, some that do not obey, a system that runs
short. The checks of room and shares are here; they use what the world told and heard, not the pool's records."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.policy.actions import Action, GrantShare, KillWorker, SaveMeasured, ShrinkShare, StartWorker
from broker.policy.events import Event, MemoryNeeded, SystemSampled, WorkerBecameReady, WorkerProgressed, WorkerSampled
from broker.policy.limits import PoolLimits
from broker.policy.pressure import FIRST_LOAD_PAUSE_SECONDS, LOAD_PAUSE_SECONDS, Pressure
from broker.policy.records import Instance, Phase
from broker.policy.specs import ModelSpec
from tests.broker.policy.world_books import MIB, Books, SimWorker


@dataclass
class SimMemory:
    """Of one process. share, limit, cap: MLX's memory, as it was told; before it is loaded the share is all of it.
    beside: what it takes beside MLX. running: what live sequences take. said: its last need. footprint: as last
    seen."""

    share: int = 0
    limit: int = 0
    cap: int | None = None
    beside: int = 0
    weights: int = 0
    cache: int = 0
    running: dict[bytes, int] = field(default_factory=dict)
    said: tuple[int, int] | None = None
    is_greedy: bool = False
    footprint: int = 0

    @property
    def least(self) -> int:
        return self.weights + sum(self.running.values())

    @property
    def told(self) -> int:
        """What it may take, all in all. Without a share of MLX's memory that is nothing, whatever it takes."""
        return self.share + (self.beside if self.said is not None and self.share else 0)

    @property
    def counted(self) -> int:
        return max(self.told, self.footprint)

    @property
    def allowed(self) -> int:
        return self.share if self.cap is None else min(self.share, self.cap)


class Memory(Books):
    """See the top of this file."""

    def send(self, event: Event) -> list[Action]:
        raise NotImplementedError

    def ranks_of(self, worker_id: str) -> list[SimWorker]:
        """The processes that run a model together with this one, and have been told to load their part of it."""
        group = self.groups[worker_id]
        return [w for w in self.workers.values() if w.spec is not None and self.groups[w.worker_id] == group]

    def __init__(self, seed: int, limits: PoolLimits | None = None, models: int = 5) -> None:
        super().__init__(seed, limits, models)
        self.memories: dict[str, SimMemory] = {}
        self.groups: dict[str, str] = {}  # by process, the name of its instance
        self.largest_budget = 0

    def memory(self, worker_id: str) -> SimMemory:
        return self.memories.setdefault(worker_id, SimMemory())

    # ---- workers --------------------------------------------------------------------------------------------------

    def assigned(self, worker: SimWorker, spec: ModelSpec, rank: int, share: int, limit: int) -> None:
        worker.spec, worker.rank = spec, rank
        assert rank not in [w.rank for w in self.ranks_of(worker.worker_id) if w is not worker]
        memory = self.memory(worker.worker_id)
        memory.share, memory.limit = share, limit

    def perform_memory(self, action: GrantShare | ShrinkShare | SaveMeasured) -> None:
        match action:
            case GrantShare(worker_id, share, limit):
                memory = self.memory(worker_id)
                assert memory.said is not None, "a share for a worker that has never asked"
                assert share <= limit, "a share beyond the limit"
                memory.share, memory.limit, memory.cap = share, limit, None
            case ShrinkShare(worker_id, share):
                memory = self.memory(worker_id)  # it may have got more than it knows
                memory.share, memory.cap = max(memory.share, share), share
            case SaveMeasured(measured):
                known = {m for m, spec in (*self.specs.items(), *self.absent.items()) if spec.fingerprint}
                assert measured == {f"files of {m}": n for m, n in self.measured.items() if m in known}

    def load_part(self, worker: SimWorker) -> None:
        if self.random.random() < 0.3:
            self.send(WorkerProgressed(worker.worker_id, "weights", self.random.random()))
            return
        assert worker.spec is not None
        factor = self.random.choice([0.9, 1.0, 1.0, 1.3])
        taken = int(worker.spec.weight_bytes * factor) // worker.spec.ranks
        worker.ready = True
        beside = self.random.choice([0, taken // 4])
        memory = self.memory(worker.worker_id)
        memory.beside, memory.weights, memory.is_greedy = beside, taken - beside, self.random.random() < 0.1
        self.took(worker.worker_id, taken)
        self.send(WorkerBecameReady(worker.worker_id, taken, 4096, beside, self.working_set))

    def took(self, worker_id: str, measured_bytes: int) -> None:
        """Into the world's books: what this process takes now that its part of the model is loaded."""
        worker = self.workers[worker_id]
        worker.measured = self.memory(worker_id).footprint = measured_bytes
        if worker.spec is None:
            return
        parts = [rank.measured for rank in self.ranks_of(worker_id) if rank.measured is not None]
        if len(parts) == worker.spec.ranks:
            self.measured[worker.spec.model_id] = sum(parts)

    def run(self, worker: SimWorker) -> None:
        """Begin the sequences that fit, drop the cache before anything else, and say what is needed."""
        memory = self.memory(worker.worker_id)
        memory.running = {r: n for r, n in memory.running.items() if r in worker.in_flight}
        for request_id in sorted(worker.in_flight - memory.running.keys()):
            size = self.sizes[request_id]
            if not (memory.is_greedy or not size or memory.least + size <= memory.allowed):
                break
            memory.running[request_id] = size
        memory.cache = max(0, min(memory.cache, memory.allowed - memory.least))
        if not memory.is_greedy or memory.said is None:
            self._say(worker, memory)

    def never_fit(self, worker: SimWorker) -> set[bytes]:
        """The requests that it must refuse, because they need more than it can get."""
        memory = self.memory(worker.worker_id)
        waiting = worker.in_flight - memory.running.keys()
        return {r for r in waiting if memory.said and memory.weights + self.sizes[r] > memory.limit}

    def _say(self, worker: SimWorker, memory: SimMemory) -> None:
        waiting = sum(self.sizes[r] for r in worker.in_flight - memory.running.keys() - self.never_fit(worker))
        wanted = memory.least + waiting + memory.cache
        if memory.cap is not None:
            wanted = max(memory.least, min(memory.cap, wanted))
        elif not waiting and memory.share >= wanted and self.random.random() < 0.5:
            memory.cache += memory.share - wanted  # the prompts of those that have ended
            wanted = memory.share
        must = self.random.choice([None, memory.least + waiting])
        if (wanted, memory.least) != memory.said or memory.cap is not None:
            if memory.said is None:
                memory.share = max(0, memory.share - memory.beside)
            kept = self.limits.blocks(wanted + memory.beside) - memory.beside
            memory.said, memory.share = (wanted, memory.least), min(memory.share, kept)
            self.send(MemoryNeeded(worker.worker_id, wanted, memory.least, must))

    def see(self, worker: SimWorker, more: int = 0) -> None:
        """The system looks at the process."""
        memory = self.memory(worker.worker_id)
        memory.footprint = memory.beside + memory.least + memory.cache + more
        if memory.is_greedy and not self.is_settling:
            memory.footprint += self.random.choice([0, 100, 3000]) * MIB
        self.send(WorkerSampled(worker.worker_id, memory.footprint, memory.footprint, 1.0))

    def change_system(self) -> None:
        self.pressure = self.random.choice([*Pressure, Pressure.NORMAL])
        wired = self.random.choice([None, 0, 6 << 30])
        if self.pressure is not self.pool.memory.pressure:
            self.pressure_since = self.now
        self.send(SystemSampled(self.pressure, wired))

    # ---- what must always hold ------------------------------------------------------------------------------------

    def promised(self) -> dict[str, int]:
        """What each process has been told that it may take."""
        return {w.worker_id: self.memory(w.worker_id).told for w in self.workers.values() if w.spec is not None}

    def _check_shares(self, before: dict[str, int], actions: Sequence[Action]) -> None:
        """No promise beyond the budget; a budget that has become smaller takes no promise back."""
        now = self.promised()
        grown = [w for w in now if now[w] > before.get(w, 0)]
        self.largest_budget = max(self.largest_budget, self.pool.memory.budget_bytes)
        if grown:  # what a load was given under a larger budget is told when its process connects
            limit = self.largest_budget if any(w not in before for w in grown) else self.pool.memory.budget_bytes
            assert sum(now.values()) <= limit, f"more promised than there is: {now}"
            assert sum(worker.lease.share_bytes for worker in self.pool.workers.values()) <= limit
        killed = [a.worker_id for a in actions if isinstance(a, KillWorker) and a.reason.startswith("memory_limit")]
        owners = [i for i in self.instances() if any(w.worker_id in killed for w in i.ranks)]
        assert len(owners) <= 1, "one worker takes too much, and others die"

    def _check_loads(self, actions: Sequence[Action]) -> None:
        """While the system runs short, loads come one by one."""
        if self.pressure is Pressure.CRITICAL and any(isinstance(a, StartWorker) and not a.spare for a in actions):
            assert self.now >= self.pressure_since + FIRST_LOAD_PAUSE_SECONDS, "a load while the system runs short"

    def held(self) -> bool:
        """Whether loads wait for the system."""
        started = [i.started_at for i in self.instances()]
        pause = LOAD_PAUSE_SECONDS if started else FIRST_LOAD_PAUSE_SECONDS
        short = self.pressure is Pressure.CRITICAL and self.now < max([self.pressure_since, *started]) + pause
        return short or bool(self.pool.memory.missing_bytes)

    def lease_waits(self) -> bool:
        memories = [self.memory(worker_id) for worker_id in self.workers]
        return any(m.said is not None and m.told < m.beside + m.said[0] for m in memories)

    def counted(self, instance: Instance) -> int:
        """What this model takes, and at least what it was reserved while it loads."""
        part = self._size(instance.model_id) // len(instance.ranks)
        living = [self.workers[w.worker_id] for w in instance.living]
        return sum(max(0 if w.ready else part, self.memory(w.worker_id).counted) for w in living)

    def _check_nobody_waits_for_nothing(self) -> None:
        """The head of the queue waits only if its room cannot be made now, by the simplest reckoning there is."""
        if self.exited or self.pool._facts.stopping or self.held() or self.lease_waits():
            return
        heads = [
            m
            for m in self.pool.models
            if m.wanted
            and m.serving is None
            and m.restart_at <= self.now
            and m.spec is not None
            and not any(i.phase is Phase.STOPPING for i in m.instances)
        ]
        if not heads:
            return
        head = min(heads, key=lambda m: m.order)
        staying = [i for i in self.instances() if i.phase is not Phase.STOPPING and not self._leaves(i)]
        idle = [
            i
            for i in staying
            if i.phase is Phase.READY
            and not i.in_flight
            and not self._is_replaced(i)
            and not self._model_pinned(i.model_id)
            and not self._older_wait(i.model_id, head.order)
        ]

        def fits(others: list[Instance]) -> bool:
            total = self._size(head.model_id) + sum(self.counted(i) for i in others)
            names = {i.model_id for i in others} - {head.model_id}
            return len(names) < self.limits.max_models and total <= self.pool.memory.budget_bytes

        # What is leaving already may be waited for; beyond that, idle models must make room at once.
        assert not fits(self.instances()), f"{head.model_id} waits although there is room"
        could = fits([i for i in staying if i not in idle])
        assert fits(staying) or not could or self.shrinking(), f"{head.model_id} waits although room can be made"

    def shrinking(self) -> bool:
        """Whether somebody has been asked to give back."""
        return any(self.memory(w).cap is not None for w in self.workers)
