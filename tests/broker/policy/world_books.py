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
from broker.policy.downloads import Downloads
from broker.policy.events import (
    Event,
    LinkOpened,
    TimePassed,
)
from broker.policy.flow import Flow
from broker.policy.limits import PoolLimits
from broker.policy.policies import Policies
from broker.policy.pool import Pool
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
    payload: bytes = b""  # empty: the request's id
    ends: int = 0
    outputs: int = 0
    forwards: int = 0


class Books:
    """seed: of everything random. limits: random ones unless given. models: how many there are."""

    def __init__(self, seed: int, limits: PoolLimits | None = None, models: int = 5) -> None:
        self.random = random.Random(seed)
        self.limits = limits or self._random_limits()
        self.pool = Pool(self.limits, run_id="test")
        self.downloads = Downloads(self.limits, "test", "/hub", for_requests=self.random.random() < 0.5)
        self.driven: Pool | Policies = Policies(self.pool, self.downloads, Flow())
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
            )
            for i in range(models)
        }
        self.absent = {} if not models else {"org/far": self._far("org/far"), "org/new": self._far("org/new")}
        self.fetching: dict[str, SimDownload] = {}
        self.inbox: deque[Event] = deque()
        self.links = {gateway: SimLink() for gateway in GATEWAYS}
        self.sent: Counter[str] = Counter()  # outputs by worker, since its start
        self.read: dict[str, int] = {}  # of these, how many it has been told are read
        self.pins: list[str] = []
        self.measured: dict[str, int] = {}  # bytes by model, from when it was last ready
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
            max_memory_bytes=pick([500, 1000, 4000]) * MIB,
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
        assert len(holding) <= self.limits.max_models, "more models than max_models"
        for instance in holding:
            if instance.phase is Phase.LOADING and instance.name not in loading_before:
                reserved = sum(self._size(i.model_id) for i in holding)
                assert reserved <= self.limits.max_memory_bytes, "a load was started beyond the budget"
            self._check_ranks(instance)
        assert set(self.pool.workers) == set(self.workers)
        spares = sum(w.is_spare for w in self.pool.workers.values())
        assert spares <= self.limits.warm_spares, "too many spares"
        assert sorted(m.model_id for m in self.pool.models if m.pinned) == sorted(set(self.pins)), "pins not saved"
        self._check_nobody_waits_for_nothing()

    def _check_nothing_is_left(self, policy: Pool | Policies) -> None:
        """All that is due has been done. Flow looks for gateways that read nothing only when time passes."""
        deadline = policy.next_deadline()
        assert deadline is None or deadline > self.now, "a deadline in the past makes the loop spin"
        assert [a for a in policy.handle(TimePassed(), self.now) if not isinstance(a, Exited)] == []

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
        """The head of the queue waits only if its room cannot be made now, by the simplest reckoning there is."""
        if self.exited or self.pool._facts.stopping:
            return
        heads = [
            m
            for m in self.pool.models
            if m.wanted and m.serving is None and m.restart_at <= self.now and m.spec is not None
        ]
        if not heads:
            return
        head = min(heads, key=lambda m: m.order)
        staying = [i for i in self.instances() if i.phase is not Phase.STOPPING and not self._draining(i.model_id)]
        idle = [
            i
            for i in staying
            if i.phase is Phase.READY
            and not i.in_flight
            and not self._model_pinned(i.model_id)
            and not self._older_wait(i.model_id, head.order)
        ]

        def fits(others: list[Instance]) -> bool:
            total = self._size(head.model_id) + sum(self._size(i.model_id) for i in others)
            return len(others) < self.limits.max_models and total <= self.limits.max_memory_bytes

        # What is leaving already may be waited for; beyond that, idle models must make room at once.
        assert not fits(self.instances()), f"{head.model_id} waits although there is room"
        could = fits([i for i in staying if i not in idle])
        assert fits(staying) or not could, f"{head.model_id} waits although room can be made"

    def _size(self, model_id: str) -> int:
        """Bytes that a model counts, by the world's own books."""
        estimate = int(self.specs[model_id].weight_bytes * self.limits.estimate_factor)
        return self.measured.get(model_id, estimate)

    def instances(self) -> list[Instance]:
        return [m.serving for m in self.pool.models if m.serving is not None]

    def ranks_of(self, model_id: str) -> list[SimWorker]:
        """The processes that have been told to load a part of this model."""
        return [w for w in self.workers.values() if w.spec is not None and w.spec.model_id == model_id]

    def _model_pinned(self, model_id: str) -> bool:
        return any(m.pinned for m in self.pool.models if m.model_id == model_id)

    def _older_wait(self, model_id: str, order: int) -> bool:
        return any(
            m.waiting and m.waiting[0].order < order for m in self.pool.models if m.model_id == model_id and m.waiting
        )

    def _draining(self, model_id: str) -> bool:
        return any(m.drain is not None for m in self.pool.models if m.model_id == model_id)
