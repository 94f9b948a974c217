"""Who gets memory: models that wait to be loaded, and workers that wait for a larger share, in one queue.

Whoever has waited longest is served first, a lease in as many parts as become free. Whoever waits for memory that is
coming (others have been asked for it, or leave) lets nobody overtake. A load waits for busy models too, which get
nothing newer until they have left. A lease never does: what it cannot get beside them keeps nobody waiting. Leases of
models that leave go before the load which waits for that. docs/pool.md has the rules.

Shares change here and in `on_memory_needed` alone, so the sum of them stays within the budget.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from typing import NamedTuple

from broker.policy.actions import GrantShare, ShrinkShare, StartWorker
from broker.policy.answers import give_up_waiting
from broker.policy.deaths import stop
from broker.policy.events import MemoryNeeded
from broker.policy.eviction import Hold, Verdict, make_room
from broker.policy.facts import ASK_AGAIN_SECONDS, SHRINK_SECONDS, Facts
from broker.policy.noted import ModelEvicted, ProcessTaken
from broker.policy.records import Instance, Lease, Model, Phase, Worker
from broker.policy.reload import do_without_room
from broker.policy.specs import ModelSpec
from broker.wire.failure import Code, Failure


def on_memory_needed(facts: Facts, event: MemoryNeeded, now: float) -> None:
    worker = facts.workers.get(event.worker_id)
    if worker is None or worker.instance is None or worker.measured_bytes is None:
        return
    lease, limits = worker.lease, facts.limits
    most = max(lease.share_bytes, facts.most_of(worker.instance))
    wanted = min(limits.blocks(max(0, event.share_bytes) + lease.beside_bytes), most)
    least = min(limits.blocks(max(0, event.least_bytes) + lease.beside_bytes), wanted)
    must = wanted if event.must_bytes is None else limits.blocks(max(0, event.must_bytes) + lease.beside_bytes)
    lease.share_bytes = min(lease.share_bytes, wanted)
    lease.wanted_bytes, lease.least_bytes, lease.is_asking = wanted, least, True
    lease.must_bytes = min(must, wanted)
    lease.asked_at, lease.kept_until = None, 0.0
    if isinstance(lease.told, ShrinkShare):
        asked = max(least, limits.blocks(lease.told.share_bytes + lease.beside_bytes))
        if lease.share_bytes > asked:  # it has heard that, and needs what it keeps
            lease.kept_until, lease.kept_bytes = now + ASK_AGAIN_SECONDS, lease.share_bytes
    _queue_up(facts, worker)


def _queue_up(facts: Facts, worker: Worker) -> None:
    """Its place in the queue. What it asks for later has a later place."""
    lease = worker.lease
    if lease.wanted_bytes <= lease.share_bytes:
        lease.order, lease.goal_bytes = 0, 0
    elif lease.goal_bytes <= lease.share_bytes:
        lease.order, lease.goal_bytes = facts.next_order(), lease.wanted_bytes


def share_out(facts: Facts, now: float) -> bool:
    """Start the loads and grant the leases that fit; see the top of this file. Whether anything waited for memory."""
    facts.claimed = ()
    if not any(m.wants_processes for m in facts.models.values()) and all(
        worker.lease.is_at_rest for worker in facts.workers.values()
    ):
        return False
    for worker in facts.workers.values():
        lease = worker.lease
        if lease.asked_at is not None and now >= lease.asked_at + SHRINK_SECONDS:
            lease.kept_until, lease.kept_bytes, lease.asked_at = now + ASK_AGAIN_SECONDS, lease.share_bytes, None
        if now >= lease.kept_until:
            lease.kept_until = 0.0
    while (turn := _go_round(facts, now)).has_changed_behind_head:
        pass  # what the head waits for may be another one now
    _tell(facts, turn.targets(), now)
    return True


def _go_round(facts: Facts, now: float) -> "_Round":
    facts.claimed = ()
    turn = _Round(facts, now)
    leases, loads = _waiting(facts, now)
    while leases or loads:
        if not loads or (leases and leases[0].lease.order < loads[0].order):
            worker = leases.pop(0)
            if turn.lease(worker):  # all that it asked for here; what it asked for later has a place of its own
                insort(leases, worker, key=lambda w: w.lease.order)
        else:
            model = loads.pop(0)
            (turn.load if model.serving is None else turn.replace)(model)
    return turn


def _waiting(facts: Facts, now: float) -> tuple[list[Worker], list[Model]]:
    """All that wait for memory, in the order of their places."""
    loads = [m for m in facts.models.values() if m.wants_processes and (m.serving or m.restart_at <= now)]
    leases = [w for w in _leasing(facts) if w.lease.order]
    return sorted(leases, key=lambda w: w.lease.order), sorted(loads, key=lambda m: m.order)


def _leasing(facts: Facts) -> list[Worker]:
    """The workers that ask for shares and go on."""
    living = [w for _, i in facts.instances if i.phase is not Phase.STOPPING for w in i.living]
    return [worker for worker in living if worker.lease.least_bytes is not None]


class _Round:
    """One round through the queue. head_waits: the first that waits has been met; has_changed_behind_head: a share has
    grown after that. asks: how many bytes others are to give back; reckoned when all shares are granted."""

    def __init__(self, facts: Facts, now: float) -> None:
        self._facts = facts
        self._now = now
        self._head_waits = False
        self.has_changed_behind_head = False
        self._asks: list[Callable[[], _Ask]] = []

    # ---- loads ----------------------------------------------------------------------------------------------------

    def load(self, model: Model) -> None:
        """What can never fit is refused at any place."""
        facts, now = self._facts, self._now
        assert model.spec is not None  # nothing wants a model that has never had a spec
        share = facts.share_of(model, model.spec)
        need, occupants = share * model.spec.ranks, facts.occupants(model.order, now, model)
        room = make_room(need, facts.limits.max_models, facts.room_bytes, occupants, facts.ever_bytes)
        if room.verdict is Verdict.NEVER:
            failure = Failure(Code.INSUFFICIENT_MEMORY, facts.why_never(model, need))
            give_up_waiting(facts, model, failure)
        elif self._head_waits:
            return
        elif now < facts.loads_from(now)[0]:
            self._head_waits = facts.returning_bytes(now) > 0  # this load gets the returning memory first
        elif room.verdict is Verdict.FITS:
            model.serving = _start(facts, model, model.spec, share, now)
            model.restarts += model.deaths > 0
            if model.reload is not None:
                model.reload.by = model.serving
        else:
            self._head_waits = True
            facts.claimed, facts.claim_order = room.victims, model.order
            leaving = room.victims if room.verdict is Verdict.EVICT else ()
            self._stop(leaving, f"evicted for {model.model_id}")
            staying = {o.name for o in occupants if o.hold is not Hold.LEAVING and o.name not in leaving}
            # What is claimed finishes in its own time: it could not, if it had to come down.
            names = staying - set(room.victims)
            self._asks.append(
                lambda: _Ask(need + self._taken(staying) - facts.room_bytes, need, 0, _askable(facts, names))
            )

    def replace(self, model: Model) -> None:
        """Start the process that is to take the place of the one that serves, if there is room for both. No model
        leaves for that; others give back what they do not use."""
        facts, reload, serving = self._facts, model.reload, model.serving
        assert reload is not None
        assert serving is not None
        if len(model.instances) > 1 or serving.phase is not Phase.READY:
            return  # it has its turn afterwards
        if not reload.gap:
            share = facts.share_of(model, reload.spec)
            need = share * reload.spec.ranks
            givers = [] if reload.is_recycling else _askable(facts, {i.name for _, i in facts.instances})
            more = sum(w.lease.share_bytes - w.lease.at_once_bytes for w in givers)
            if self._now < facts.loads_from(self._now)[0]:
                return
            if not self._head_waits and need <= facts.free_bytes:
                reload.by = model.incoming = _start(facts, model, reload.spec, share, self._now)
                return
            if not self._head_waits and need <= facts.free_bytes + more:
                self._head_waits = True
                self._asks.append(lambda: _Ask(need - facts.free_bytes, 0, 0, givers))
                return
            if self._head_waits and not reload.is_recycling and need <= facts.free_bytes + more:
                return  # after those that have waited longer
            if not do_without_room(facts, model, need, self._now):
                return
            self.has_changed_behind_head |= self._head_waits  # what leaves is room that comes
        if not serving.busy:
            stop(facts, serving, "reload", self._now)

    # ---- leases ---------------------------------------------------------------------------------------------------

    def lease(self, worker: Worker) -> bool:
        """Whether it has got all that it asked for first, and asks for more."""
        facts, lease, instance = self._facts, worker.lease, worker.instance
        assert instance is not None
        model = facts.models[instance.model_id]
        leaves = model.drain is not None or instance is model.outgoing
        held_up = self._head_waits and instance.name not in facts.claimed and not leaves
        if held_up or instance.phase is Phase.STOPPING:
            return False
        goal = min(lease.goal_bytes, lease.wanted_bytes)
        free = facts.free_bytes
        if free > 0:
            upto = min(goal, facts.limits.whole_blocks(worker.counted_bytes + free))
            self.has_changed_behind_head |= self._head_waits and upto > lease.share_bytes
            lease.share_bytes = max(lease.share_bytes, upto)
        if lease.share_bytes >= goal:
            lease.kept_until, lease.kept_bytes = self._now + SHRINK_SECONDS, lease.must_bytes
            _queue_up(facts, worker)
            return lease.order > 0
        goal = min(goal, lease.must_bytes, _limit_of(facts, worker, self._now))
        if lease.share_bytes < goal:
            self._head_waits |= self._make_room(goal, worker, instance)
        return False

    def _make_room(self, goal: int, worker: Worker, own: Instance) -> bool:
        """Whether something is coming for this lease."""
        facts, order = self._facts, worker.lease.order
        missing = goal - worker.counted_bytes - facts.free_bytes
        others = [o for o in facts.occupants(order, self._now) if o.name != own.name]
        leaving = {o.name for o in others if o.hold is Hold.LEAVING}
        # Those who have waited longer need what they have got so far.
        first = {w.worker_id for w in _leasing(facts) if 0 < w.lease.order < order}
        returning = facts.returning_bytes(self._now)
        coming = self._taken(leaving) + returning
        coming += sum(
            w.lease.share_bytes - w.lease.at_once_bytes
            for w in _askable(facts, {o.name for o in others} - leaving)
            if w.worker_id not in first
        )
        victims = set()
        for idle in sorted((o for o in others if o.hold is Hold.IDLE), key=lambda o: o.last_used):
            if coming >= missing:
                break
            victims.add(idle.name)
            coming += idle.at_least
        self._stop(victims, f"evicted for a larger share of {own.model_id}")
        gone = leaving | victims
        names = {o.name for o in others} - gone

        def ask() -> _Ask:
            # What is in use is for those who have less than an equal part, from those who have more.
            equal = facts.room_bytes // len(facts.serving)
            still = goal - worker.counted_bytes - facts.free_bytes - self._taken(gone) - returning
            if own.phase is Phase.STOPPING:  # it has had to make room itself
                still = 0
            workers = [w for w in _askable(facts, names) if w.worker_id not in first]
            return _Ask(still, equal - worker.lease.share_bytes, equal, workers)

        self._asks.append(ask)
        return coming > 0

    # ---- what makes room ------------------------------------------------------------------------------------------

    def _stop(self, names: Iterable[str], reason: str) -> None:
        for _, instance in self._facts.instances:
            if instance.name in names:
                self._facts.noted.append(ModelEvicted(instance.model_id))
                stop(self._facts, instance, reason, self._now)

    def _taken(self, names: set[str]) -> int:
        return sum(instance.reserved_bytes for _, instance in self._facts.instances if instance.name in names)

    def targets(self) -> dict[str, int]:
        """The shares that workers are asked to come down to, by worker id: by what they can give back at once, and if
        that is not enough, by what is in use."""
        targets: dict[str, int] = {}
        for make in self._asks:
            ask = make()
            missing, in_use = ask.missing_bytes, max(0, ask.in_use_bytes)
            for worker in ask.workers:
                missing -= self._take(targets, worker, missing, worker.lease.at_once_bytes)
            missing = min(missing, in_use)
            for worker in [w for w in ask.workers if not w.lease.kept_until]:
                missing -= self._take(targets, worker, missing, max(ask.left_bytes, worker.measured_bytes or 0))
        return targets

    def _take(self, targets: dict[str, int], worker: Worker, missing: int, bottom: int) -> int:
        """Lower what this worker is to come down to, by what is missing at most and in whole blocks; by how much."""
        blocks = self._facts.limits.blocks
        share = targets.get(worker.worker_id, worker.lease.share_bytes)
        taken = min(blocks(missing), share - blocks(bottom))
        if taken <= 0:
            return 0
        targets[worker.worker_id] = share - taken
        return taken


class _Ask(NamedTuple):
    """How many bytes these workers are to give back. in_use_bytes: how many of them even if they are in use;
    left_bytes: what each may keep."""

    missing_bytes: int
    in_use_bytes: int
    left_bytes: int
    workers: list[Worker]


def _askable(facts: Facts, names: set[str]) -> list[Worker]:
    """The workers of these instances that may have something to give back, the most first."""
    workers = [w for w in _leasing(facts) if w.instance is not None and w.instance.name in names]
    return sorted(workers, key=lambda w: w.lease.at_once_bytes - w.lease.share_bytes)


def _start(facts: Facts, model: Model, spec: ModelSpec, share_bytes: int, now: float) -> Instance:
    """Give the model its processes: spares as far as there are any, and there is room for what they take already."""
    room, spares = facts.free_bytes - share_bytes * spec.ranks, []
    for spare in facts.spares[: spec.ranks]:
        if (more := max(0, spare.footprint_bytes - share_bytes)) <= room:
            room -= more
            spares.append(spare)
    started = [start_worker(facts, now, spare=False) for _ in range(spec.ranks - len(spares))]
    instance = Instance(model.model_id, [*spares, *started], spec, started_at=now)
    for rank, worker in enumerate(instance.ranks):
        worker.instance, worker.rank = instance, rank
        worker.stage, worker.fraction, worker.progressed_at = None, None, now
        worker.lease.share_bytes = share_bytes
        facts.noted.append(ProcessTaken(worker.worker_id, model.model_id, rank))
    return instance


def start_worker(facts: Facts, now: float, *, spare: bool) -> Worker:
    facts.started += 1
    worker_id = f"w{facts.started}-{facts.run_id}"
    worker = facts.workers[worker_id] = Worker(worker_id, started_at=now, last_seen=now, progressed_at=now)
    facts.actions.append(StartWorker(worker_id, spare))
    return worker


def _tell(facts: Facts, targets: dict[str, int], now: float) -> None:
    """Tell workers what has changed for them since they were told last."""
    for worker in _leasing(facts):
        lease = worker.lease
        target = targets.get(worker.worker_id)
        if target is not None:
            told: GrantShare | ShrinkShare = ShrinkShare(worker.worker_id, max(0, target - lease.beside_bytes))
        else:
            shown = [max(0, n - lease.beside_bytes) for n in (lease.share_bytes, _limit_of(facts, worker, now))]
            told = GrantShare(worker.worker_id, *shown)
        if not lease.is_asking and _means_the_same(lease, told):
            continue
        if isinstance(told, GrantShare):
            lease.asked_at = None
        elif lease.is_asking or not isinstance(lease.told, ShrinkShare):
            lease.asked_at = now
        lease.told, lease.is_asking = told, False
        facts.actions.append(told)


def _means_the_same(lease: Lease, told: GrantShare | ShrinkShare) -> bool:
    """The limit alone is worth a message only to a worker that waits for more."""
    before = lease.told
    if isinstance(before, GrantShare) and isinstance(told, GrantShare) and lease.wanted_bytes <= lease.share_bytes:
        return before.share_bytes == told.share_bytes
    return before == told


def _limit_of(facts: Facts, worker: Worker, now: float) -> int:
    """The largest share that it can get as long as pinned models stay."""
    assert worker.instance is not None
    model = facts.models[worker.instance.model_id]
    pinned = [i for m, i in facts.serving if m.pinned and m is not model and i.phase is not Phase.STOPPING]
    others = sum(w.idle_bytes for i in pinned for w in i.ranks)
    others += sum(w.idle_bytes for w in worker.instance.ranks if w is not worker)
    room = facts.limits.whole_blocks(max(0, facts.room_bytes + facts.returning_bytes(now) - others))
    return max(worker.lease.share_bytes, min(facts.most_of(worker.instance), room))
