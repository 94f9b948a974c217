"""The decision: what to start, stop, assign and dispatch, from all facts. pool.py calls `decide` after every event.

Idempotent: with the same facts and the same time a second call does nothing.
"""

from broker.policy.actions import AnnounceModel, AssignModel, Exited, ForwardRequest, Reply
from broker.policy.answers import end, fail, finish_drain, load_report, restart_waiting
from broker.policy.deaths import ask_to_exit, kill, stop, watch
from broker.policy.facts import FOREVER, Facts
from broker.policy.noted import RequestSent, RequestWentOn
from broker.policy.pressure import Pressure
from broker.policy.records import Instance, Model, Phase
from broker.policy.reload import advance
from broker.policy.sharing import share_out, start_worker
from broker.policy.shown import rests, shown
from broker.policy.specs import Shown
from broker.policy.suspects import Cause, careful_until, next_to_send
from broker.wire.failure import Code, Failure
from broker.wire.states import State


def decide(facts: Facts, now: float) -> None:
    watch(facts, now)
    if facts.stopping:
        _shut_down(facts, now)
    else:
        _drain(facts, now)
        _expire_waiting(facts, now)
        _answer_keeps(facts, now)
        _drain(facts, now)  # an unload may have waited for a request that has just ended
        _answer_loads(facts)
        advance(facts, now)
        _expire_idle(facts, now)
        if share_out(facts, now):
            _expire_idle(facts, now)  # what has stayed for a reload that there is no room for
        _assign(facts)
        _end_care(facts, now)
        _dispatch(facts, now)
        _keep_spares(facts, now)
    _announce(facts, now)


def _shut_down(facts: Facts, now: float) -> None:
    for _, instance in facts.instances:
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
        if not older_wait and not any(i.busy for i in model.instances):
            if instance.phase is Phase.READY:
                finish_drain(facts, model)
                stop(facts, instance, "unload", now)
            else:
                kill(facts, instance, "unload", now, cause=Cause.ASKED)
        elif now >= model.drain.deadline and model.drain.force:
            for one in model.instances:
                kill(facts, one, "unload by force", now, cause=Cause.ASKED, replay=False, resume=False)
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
            for wait in model.loads:
                facts.actions.append(Reply(wait.request_id, load_report(model)))
            model.loads, model.pinned_by_load = [], False


def _answer_keeps(facts: Facts, now: float) -> None:
    """Requests without work end when the model is ready. That is a use of it."""
    for model, instance in facts.serving:
        if not model.waiting or instance.phase is not Phase.READY:
            continue
        last = FOREVER if model.drain is None else model.drain.order
        for request in [r for r in model.waiting if r.payload is None and r.order < last]:
            model.waiting.remove(request)
            del facts.requests[request.request_id]
            instance.hear(request.keep_alive)
            instance.last_completed = model.last_used = now
            facts.actions.append(Reply(request.request_id, load_report(model)))


def _expire_idle(facts: Facts, now: float) -> None:
    for model, instance in facts.serving:
        if now >= facts.idle_until(model):
            is_early = facts.pressure is not Pressure.NORMAL
            stop(facts, instance, "the system is short of memory" if is_early else "keep_alive", now)


def _assign(facts: Facts) -> None:
    """Tell processes that have connected what to load."""
    for _, instance in facts.instances:
        if instance.phase is not Phase.LOADING:
            continue
        for worker in instance.ranks:
            if worker.connected and not worker.assigned:
                worker.assigned = True
                memory = (worker.lease.share_bytes, facts.most_of(instance))
                facts.actions.append(
                    AssignModel(worker.worker_id, instance.spec, *memory, worker.rank, len(instance.ranks))
                )


def _end_care(facts: Facts, now: float) -> None:
    """Some time after a process has taken too much memory its model takes requests as before."""
    for model in facts.models.values():
        if model.memory_part and now >= careful_until(model):
            model.memory_part = 0.0
            restart_waiting(model, now)  # they were held back


def _dispatch(facts: Facts, now: float) -> None:
    """Hand waiting requests to rank 0 of instances that are ready."""
    for model, instance in facts.serving:
        if instance.phase is not Phase.READY or (model.leaves and model.drain is None):
            continue
        last = facts.claim_order if instance.name in facts.claimed else FOREVER
        if model.drain is not None:
            last = min(last, model.drain.order)
        dispatch(facts, model, instance, last, now)


def dispatch(facts: Facts, model: Model, instance: Instance, last: float, now: float) -> None:
    """Hand the waiting requests before the place `last` to this instance, which is ready. All of a decision that
    another request for a model that serves at once can change."""
    while (request := next_to_send(model, instance, last)) is not None:
        model.waiting.remove(request)
        assert request.payload is not None  # those without work have been answered
        if request.has_begun:
            facts.noted.append(RequestWentOn(model.model_id))
        else:
            facts.noted.append(RequestSent(model.model_id, now - request.arrived_at, request.is_replay))
        if not instance.busy:
            for worker in instance.ranks:
                worker.progressed_at = now
        request.worker_id = instance.head.worker_id
        instance.in_flight[request.request_id] = request
        instance.hear(request.keep_alive)
        instance.last_dispatched = model.last_used = now
        work = (model.model_id, request.payload, request.task, request.trace)
        facts.actions.append(ForwardRequest(request.worker_id, request.request_id, *work))


def _keep_spares(facts: Facts, now: float) -> None:
    while now >= facts.spare_due():
        start_worker(facts, now, spare=True)


def _announce(facts: Facts, now: float) -> None:
    memory = facts.memory
    if memory != facts.announced:
        facts.announced = memory
        facts.actions.append(memory)
    waits_for = facts.waits_for(now)
    for model in facts.models.values():
        if not facts.stopping and rests(model, now):
            continue
        seen = shown(model, now, waits_for)
        if facts.stopping and model.serving is None:
            seen = Shown(State.UNLOADED, "shutdown")  # pinned or not, nothing will be started
        if seen != model.announced:
            if seen.state is not model.announced.state:
                model.since = now
            model.announced = seen
            facts.actions.append(AnnounceModel(model.model_id, seen))
