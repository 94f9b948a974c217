"""The books of a pool world: what it knows of its processes, requests and downloads, and what must always hold.

The checks use these books where they can, not the pool's.
"""

import copy
import random
from collections import Counter, deque
from dataclasses import dataclass, field

from broker.policy.actions import (
    Exited,
)
from broker.policy.budget import Hardware
from broker.policy.downloads import Downloads
from broker.policy.events import Event, TimePassed
from broker.policy.flow import Flow
from broker.policy.flow_events import LinkOpened
from broker.policy.limits import PoolLimits
from broker.policy.policies import Policies
from broker.policy.pool import Pool
from broker.policy.pressure import Pressure
from broker.policy.records import Instance, Phase
from broker.policy.specs import ModelSpec

MIB = 1 << 20
GATEWAYS = (b"gatewayA", b"gatewayB")


@dataclass
class SimWorker:
    """A process as the world sees it."""

    worker_id: str
    spare: bool
    connected: bool = False
    spec: ModelSpec | None = None
    rank: int = 0
    measured: int | None = None
    ready: bool = False
    asked_to_stop: bool = False
    killed: bool = False
    stuck: bool = False
    steps: int = 0
    generated: int = 0
    prompt: int = 0
    cached: int = 0
    in_flight: set[bytes] = field(default_factory=set)
    cancelled: set[bytes] = field(default_factory=set)


@dataclass
class SimDownload:
    """A process that fetches a model."""

    worker_id: str
    model_id: str
    killed: bool = False


@dataclass
class SimLink:
    """What a gateway has got since its link was opened, and how much of it it has read."""

    got: int = 0
    read: int = 0


@dataclass
class SimRequest:
    model_id: str
    admin: bool = False
    ends: int = 0
    outputs: int = 0
    forwards: int = 0
    keep_alive: float | None = None
    is_keep: bool = False
    resume_limit: int = 0
    heard: bool = False  # it has output of the process that it is in
    lost: bool = False  # the broker waits for the payload to go on with
    payload: bytes = b""
    resumes: int = 0
    is_suspect: bool = False
    crowd: int = 0  # how many were in the process that took too much; the fewest, of several
    died_in_answer: bool = False  # its last process, after output
    decode_deaths: int = 0
    worker_id: str = ""  # where it was sent last


class Books:
    """seed: of everything random. limits: random ones unless given. models: how many there are."""

    def __init__(self, seed: int, limits: PoolLimits | None = None, models: int = 5) -> None:
        self.random = random.Random(seed)
        self.limits = limits or self._random_limits()
        self.measured: dict[str, int] = {}  # bytes by model, from when it was last ready
        self.now = 1000.0
        self.workers: dict[str, SimWorker] = {}
        self.requests: dict[bytes, SimRequest] = {}
        self.specs = {
            f"m{i}": ModelSpec(
                f"m{i}",
                "text-gen",
                f"/models/m{i}",
                weight_bytes=self.random.choice([10, 100, 300, 700, 2000]) * MIB,
                keep_alive_seconds=self.random.choice([None, None, 0.0, 5.0, -1.0]),
                ranks=self.random.choice([1, 1, 2]),
                fingerprint=f"files of m{i}",
                recycle_after_requests=self.random.choice([0, 0, 1, 5]),
                recycle_over_bytes=self.random.choice([0, 0, 200, 800]) * MIB,
            )
            for i in range(models)
        }
        if models:
            self.measured["m0"] = self.random.choice([50, 150, 800]) * MIB  # of a broker before this one
        remembered = {f"files of {model_id}": size for model_id, size in self.measured.items()}
        self.pool = Pool(self.limits, "test", remembered)
        self.downloads = Downloads(self.limits, "test", "/hub", for_requests=self.random.random() < 0.5)
        self.driven: Pool | Policies = Policies(self.pool, self.downloads, Flow())
        self.absent = {} if not models else {"org/far": self._far("org/far"), "org/new": self._far("org/new")}
        self.fetching: dict[str, SimDownload] = {}
        self.inbox: deque[Event] = deque()
        self.links = {gateway: SimLink() for gateway in GATEWAYS}
        self.sent: Counter[str] = Counter()  # outputs by worker, since its start
        self.read: dict[str, int] = {}  # of these, how many it has been told are read
        self.pins: list[str] = []
        self.sizes: Counter[bytes] = Counter()  # what the sequences of requests take
        self.working_set = self.random.choice([0, 700 * MIB]) if self.limits.machine.has_metal else 0
        self.pressure, self.pressure_since = Pressure.NORMAL, 0.0
        self.is_settling = False
        self.counter = 0
        self.events = 0
        self.exited = False
        self.log: list[str] = []
        for gateway in GATEWAYS:
            self.driven.handle(LinkOpened(gateway), self.now)

    def _far(self, model_id: str) -> ModelSpec:
        return ModelSpec(model_id, "text-gen", f"/hub/{model_id}", weight_bytes=100 * MIB)

    def _random_limits(self) -> PoolLimits:
        pick = self.random.choice
        return PoolLimits(
            max_models=pick([1, 2, 3]),
            machine=pick([Hardware(0, size * MIB) for size in (500, 1000, 1000, 4000)] + [Hardware(5 << 30, 0, True)]),
            block_bytes=pick([0, 1, 8, 64]) * MIB,
            max_queue=pick([2, 10, 100]),
            max_requests_per_model=pick([3, 50]),
            queue_timeout=pick([20.0, 300.0]),
            drain_timeout=pick([0.0, 5.0, 30.0]),
            keep_alive=pick([3.0, 100.0, -1.0]),
            warm_spares=pick([0, 1, 2]),
        )

    # ---- what must always hold ------------------------------------------------------------------------------------

    def _check(self, loading_before: set[str]) -> None:
        for request_id, request in self.requests.items():
            assert request.ends <= 1, f"{request_id!r} ended {request.ends} times"
        holding = self.instances()
        names = Counter(instance.model_id for instance in holding)
        assert len(names) <= self.limits.max_models, "more models than max_models"
        assert max(names.values(), default=0) <= 2, "a model has more than a process and its successor"
        for instance in holding:
            if instance.phase is Phase.LOADING and instance.name not in loading_before:
                taken = sum(self.counted(i) for i in holding)
                assert taken <= self.pool.memory.budget_bytes, "a load was started beyond the budget"
            self._check_ranks(instance)
        assert set(self.pool.workers) == set(self.workers)
        spares = sum(w.is_spare for w in self.pool.workers.values())
        assert spares <= max(self.limits.warm_spares, self.limits.machine.has_metal), "too many spares"
        assert sorted(m.model_id for m in self.pool.models if m.pinned) == sorted(set(self.pins)), "pins not saved"
        self._check_nobody_waits_for_nothing()
        self._check_nobody_overstays()

    def _check_nothing_is_left(self, policy: Pool | Policies) -> None:
        """All that is due has been done. Flow looks for gateways that read nothing only when time passes."""
        deadline = policy.next_deadline()
        assert deadline is None or deadline > self.now, "a deadline in the past makes the loop spin"
        left = [action for action in policy.handle(TimePassed(), self.now) if not isinstance(action, Exited)]
        assert left == [], f"a second look would have done {left}"

    def _check_ranks(self, instance: Instance) -> None:
        """One failure domain: as many processes as the model has ranks, and when one goes, all go."""
        living = [self.workers[w.worker_id] for w in instance.living]
        if instance.phase is Phase.STOPPING:
            assert all(w.killed or w.asked_to_stop for w in living), "a rank was left behind"
            assert living, "an instance without a process"
        else:
            assert len(living) == len(instance.ranks), "a rank has gone and the others stay"
            assert not any(w.killed or w.asked_to_stop for w in living)

    def _check_awake_in_time(self) -> None:
        """Just before the next deadline there is nothing to do."""
        self.events += 1
        if self.exited or self.events % 3:  # copying all policies is slow: not every time
            return
        deadline = self.driven.next_deadline()
        before = (self.now + 10_000.0 if deadline is None else deadline) - 1e-6
        overslept = copy.deepcopy(self.driven).handle(TimePassed(), before)
        assert overslept == [], f"asleep until {deadline} it would have missed {overslept}"

    def _check_nobody_waits_for_nothing(self) -> None:
        raise NotImplementedError

    def _check_nobody_overstays(self) -> None:
        raise NotImplementedError

    def counted(self, instance: Instance) -> int:
        """Bytes that this model takes now."""
        raise NotImplementedError

    def _size(self, model_id: str) -> int:
        """Bytes that a model needs to be loaded: what it took before or an estimate, and a block for each rank."""
        spec, block = self.specs[model_id], self.limits.block_bytes
        need = self.measured.get(model_id, int(spec.weight_bytes * self.limits.estimate_factor))
        part = -(-need // spec.ranks)
        return (-(-part // block) * block + block if block else part) * spec.ranks

    def instances(self) -> list[Instance]:
        return [instance for m in self.pool.models for instance in m.instances]

    def _model_pinned(self, model_id: str) -> bool:
        return any(m.pinned for m in self.pool.models if m.model_id == model_id)

    def _older_wait(self, model_id: str, order: int) -> bool:
        return any(
            m.waiting and m.waiting[0].order < order for m in self.pool.models if m.model_id == model_id and m.waiting
        )

    def _leaves(self, instance: Instance) -> bool:
        """Whether it gets nothing new and ends by itself."""
        model = next(m for m in self.pool.models if m.model_id == instance.model_id)
        return model.drain is not None or instance is model.outgoing or (model.reload is not None and model.reload.gap)

    def _is_replaced(self, instance: Instance) -> bool:
        """Whether another process loads to take its place: until then it serves."""
        return any(m.incoming is not None for m in self.pool.models if m.model_id == instance.model_id)
