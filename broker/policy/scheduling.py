"""The decision: what to start, stop, assign and dispatch, from all facts. pool.py calls `decide` after every event.

Idempotent: with the same facts and the same time a second call does nothing.
"""

from broker.policy.actions import AnnounceModel, AssignModel, Exited, ForwardRequest, Reply, StartWorker
from broker.policy.answers import end, fail, finish_drain, give_up_waiting
from broker.policy.deaths import ask_to_exit, kill, stop, watch
from broker.policy.eviction import Verdict, make_room
from broker.policy.facts import FOREVER, Facts
from broker.policy.records import Instance, Model, Phase, Worker, shown
from broker.policy.specs import Shown
from broker.wire.failure import Code, Failure
from broker.wire.states import State


def decide(facts: Facts, now: float) -> None:
    watch(facts, now)
    if facts.stopping:
        _shut_down(facts, now)
    else:
        _drain(facts, now)
        _expire_waiting(facts, now)
        _drain(facts, now)  # an unload may have waited for a request that has just expired
        _answer_loads(facts)
        _expire_idle(facts, now)
        _start_wanted(facts, now)
        _assign(facts)
        _dispatch(facts, now)
        _keep_spares(facts, now)
    _announce(facts, now)


def _shut_down(facts: Facts, now: float) -> None:
    for _, instance in facts.serving:
        if instance.phase is not Phase.STOPPING:
            stop(facts, instance, "shutdown", now)
    for spare in facts.spares:
        ask_to_exit(facts, spare, "shutdown", now)
    if not facts.workers:
        facts.actions.append(Exited())


def _drain(facts: Facts, now: float) -> None:
    for model, instance in facts.serving:
        if model.drain is None or instance.phase is Phase.STOPPING:
            continue
        older_wait = bool(model.waiting) and model.waiting[0].order < model.drain.order
        if not instance.busy and not older_wait:
            if instance.phase is Phase.READY:
                finish_drain(facts, model)
                stop(facts, instance, "unload", now)
            else:
                kill(facts, instance, "unload", now, expected=True)
        elif now >= model.drain.deadline and model.drain.force:
            kill(facts, instance, "unload by force", now, expected=True, replay=False)
        elif now >= model.drain.deadline:
            count = facts.load_of(model)
            why = f"{model.model_id} still has {count} requests; it stays loaded (force=true would kill it)"
            model.drain = None
            for wait in model.unloads:
                fail(facts, wait.request_id, Failure(Code.DRAIN_TIMEOUT, why))
            model.unloads = []


def _expire_waiting(facts: Facts, now: float) -> None:
    for model in facts.models.values():
        while model.waiting and now >= facts.expiry(model):
            why = f"{model.model_id} found no room for {facts.limits.queue_timeout:g} s"
            failure = Failure(Code.MODEL_UNAVAILABLE, why, retry_after=1.0, retryable=True)
            end(facts, model.waiting.popleft(), failure)


def _answer_loads(facts: Facts) -> None:
    for model, instance in facts.serving:
        if instance.phase is Phase.READY and model.drain is None:
            assert model.spec is not None
            for wait in model.loads:
                body = {
                    "model_id": model.model_id,
                    "model_type": model.spec.model_type,
                    "size_bytes": instance.reserved_bytes,
                    "pinned": model.pinned,
                }
                facts.actions.append(Reply(wait.request_id, body))
            model.loads, model.pinned_by_load = [], False


def _expire_idle(facts: Facts, now: float) -> None:
    for model, instance in facts.serving:
        if now >= facts.idle_until(model):
            stop(facts, instance, "keep_alive", now)


def _start_wanted(facts: Facts, now: float) -> None:
    """Start what fits, in order of waiting. The first that must wait for room claims its victims, and no model
    overtakes it, so that none starves. What can never fit is refused at any place."""
    facts.claimed = ()
    head_waits = False
    limits = facts.limits
    wanted = [m for m in facts.models.values() if m.wanted and m.serving is None and m.restart_at <= now]
    for model in sorted(wanted, key=lambda m: m.order):
        need = facts.need_of(model)
        room = make_room(need, limits.max_models, limits.max_memory_bytes, facts.occupants(model.order, now))
        if room.verdict is Verdict.NEVER:
            failure = Failure(Code.INSUFFICIENT_MEMORY, facts.why_never(model, need))
            give_up_waiting(facts, model, failure)
        elif head_waits:
            continue
        elif room.verdict is Verdict.FITS:
            _start(facts, model, need, now)
        else:
            head_waits = True
            facts.claimed, facts.claim_order = room.victims, model.order
            if room.verdict is Verdict.EVICT:
                for _, instance in facts.serving:
                    if instance.name in room.victims:
                        stop(facts, instance, f"evicted for {model.model_id}", now)


def _start(facts: Facts, model: Model, need: int, now: float) -> None:
    """Give the model its processes: spares as far as there are any."""
    assert model.spec is not None  # nothing wants a model that has never had a spec
    spares = facts.spares[: model.spec.ranks]
    started = [_start_worker(facts, now, spare=False) for _ in range(model.spec.ranks - len(spares))]
    instance = model.serving = Instance(model.model_id, [*spares, *started], need)
    for rank, worker in enumerate(instance.ranks):
        worker.instance, worker.rank = instance, rank
        worker.stage, worker.fraction, worker.progressed_at = None, None, now
        worker.memory_limit_bytes = facts.memory_limit(model.spec)
    model.restarts += model.deaths > 0


def _start_worker(facts: Facts, now: float, *, spare: bool) -> Worker:
    facts.started += 1
    worker_id = f"w{facts.started}-{facts.run_id}"
    worker = facts.workers[worker_id] = Worker(worker_id, started_at=now, last_seen=now, progressed_at=now)
    facts.actions.append(StartWorker(worker_id, spare))
    return worker


def _assign(facts: Facts) -> None:
    """Tell processes that have connected what to load."""
    for model, instance in facts.serving:
        if instance.phase is not Phase.LOADING:
            continue
        assert model.spec is not None
        for worker in instance.ranks:
            if worker.connected and not worker.assigned:
                worker.assigned = True
                ranks = len(instance.ranks)
                share, limit = 0, worker.memory_limit_bytes  # no bound: the pool answers no NEED yet
                facts.actions.append(AssignModel(worker.worker_id, model.spec, share, limit, worker.rank, ranks))


def _dispatch(facts: Facts, now: float) -> None:
    """Hand waiting requests to rank 0 of instances that are ready."""
    for model, instance in facts.serving:
        if instance.phase is not Phase.READY:
            continue
        last = facts.claim_order if instance.name in facts.claimed else FOREVER
        if model.drain is not None:
            last = min(last, model.drain.order)
        while model.waiting and model.waiting[0].order < last:
            request = model.waiting.popleft()
            if not instance.busy:
                for worker in instance.ranks:
                    worker.progressed_at = now
            request.worker_id = instance.head.worker_id
            instance.in_flight[request.request_id] = request
            instance.last_dispatched = model.last_used = now
            facts.actions.append(ForwardRequest(request.worker_id, request.request_id, model.model_id, request.payload))


def _keep_spares(facts: Facts, now: float) -> None:
    while now >= facts.spare_due():
        _start_worker(facts, now, spare=True)


def _announce(facts: Facts, now: float) -> None:
    for model in facts.models.values():
        seen = shown(model, now)
        if facts.stopping and model.serving is None:
            seen = Shown(State.UNLOADED, "shutdown")  # pinned or not, nothing will be started
        if seen != model.announced:
            if seen.state is not model.announced.state:
                model.since = now
            model.announced = seen
            facts.actions.append(AnnounceModel(model.model_id, seen))
