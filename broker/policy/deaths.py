"""How processes end, from the first sign to the last consequence: the whole of it is in this file.

An end begins in one of four ways: the process is asked to exit (`stop`), killed (`kill`: by an administrator, or by
`watch` when it has stopped living), says that it cannot load, or exits by itself. The ranks of an instance are one
failure domain: any of them takes all others with it. Clients get their errors when the end begins, because reaping a
process of many gigabytes can take a while; deaths are counted, and administrators answered, when the last rank has
exited. A request that ends its process while it is taken in is blamed alone, with those like it. The numbers of the
restart policy are in restart.py.
"""

from broker.policy import restart
from broker.policy.actions import KillWorker, Reply, StopWorker
from broker.policy.answers import (
    CANCELLED,
    end,
    ended_its_process,
    fail,
    finish_drain,
    give_up_waiting,
    restart_waiting,
    unpin,
)
from broker.policy.events import WorkerExited, WorkerFailedToLoad
from broker.policy.facts import Facts, KillDue
from broker.policy.records import Instance, Model, PendingRequest, Worker
from broker.policy.workers import loading
from broker.wire.failure import Code, Failure

# ---- an end begins ------------------------------------------------------------------------------------------------


def stop(facts: Facts, instance: Instance, reason: str, now: float, *, expected: bool = True) -> None:
    """Ask an instance that has nothing in flight to exit."""
    instance.end_reason, instance.end_expected = reason, expected
    for worker in instance.living:
        ask_to_exit(facts, worker, reason, now)


def ask_to_exit(facts: Facts, worker: Worker, reason: str, now: float) -> None:
    worker.stop_deadline = now + facts.limits.stop_grace
    if worker.connected:
        facts.actions.append(StopWorker(worker.worker_id, reason))
    else:
        _kill_process(facts, worker, reason)


def kill(
    facts: Facts, instance: Instance, reason: str, now: float, *, expected: bool = False, replay: bool = True
) -> None:
    """SIGKILL to every rank. expected: it was asked for; replay: requests without output are tried once more."""
    why = f"the process of {instance.model_id} was ended: {reason}"
    _take_down(facts, instance, reason, why, now, expected=expected, replay=replay)


def watch(facts: Facts, now: float) -> None:
    """Kill what has stopped living (no heartbeat, progress or exit), takes too much memory, or was asked for."""
    for model, instance in facts.serving:
        if model.kills and not (instance.end_expected and all(worker.killed for worker in instance.living)):
            kill(facts, instance, "killed by an administrator", now, expected=True)
    for worker in list(facts.workers.values()):
        for coming in facts.ends(worker):
            if now >= coming.due:
                _end_by_force(facts, worker, coming, now)
                break


def _end_by_force(facts: Facts, worker: Worker, due: KillDue, now: float) -> None:
    instance = worker.instance
    if instance is None:
        _kill_process(facts, worker, due.reason)
    else:
        instance.has_stalled = due.has_stalled and instance.end_reason is None
        kill(facts, instance, due.reason, now)


def on_worker_failed_to_load(facts: Facts, event: WorkerFailedToLoad, now: float) -> None:
    found = loading(facts, event.worker_id)
    if found is None:
        return
    _, instance = found
    model = facts.models[instance.model_id]
    why = f"{model.model_id} cannot be loaded: {event.message}"
    give_up_waiting(facts, model, Failure(Code.LOAD_FAILED, why))
    if model.drain is not None:
        finish_drain(facts, model)
    stop(
        facts, instance, f"load failed: {event.message}", now, expected=False
    )  # the process has sent its reason and waits


def _kill_process(facts: Facts, worker: Worker, reason: str) -> None:
    if not worker.killed:
        worker.killed = True
        facts.actions.append(KillWorker(worker.worker_id, reason))


def _take_down(
    facts: Facts, instance: Instance, reason: str, why: str, now: float, *, expected: bool, replay: bool
) -> None:
    for worker in instance.living:
        _kill_process(facts, worker, reason)
    instance.end_reason = instance.end_reason or reason
    instance.end_expected = instance.end_expected or expected
    model = facts.models[instance.model_id]
    restart_waiting(model, now)
    instance.lost |= {request_id: r.origin for request_id, r in instance.in_flight.items() if not r.has_output}
    for request in reversed(instance.in_flight.values()):
        _lose(facts, model, request, why, now, replay=replay)
    instance.in_flight.clear()
    if model.drain is not None:
        finish_drain(facts, model)


def _lose(facts: Facts, model: Model, request: PendingRequest, why: str, now: float, *, replay: bool) -> None:
    """A request in flight on a worker that is gone: what has shown no output is tried once more."""
    request.worker_id = None
    if request.cancelled:
        end(facts, request, CANCELLED)
    elif replay and not request.has_output and request.deaths == 0:
        request.deaths, request.waiting_since, request.is_replay = 1, now, True
        model.waiting.appendleft(request)
    else:
        end(facts, request, Failure(Code.WORKER_DIED, why, retryable=True))


# ---- and is complete ----------------------------------------------------------------------------------------------


def on_worker_exited(facts: Facts, event: WorkerExited, now: float) -> None:
    worker = facts.workers.pop(event.worker_id)
    worker.exited = True
    instance = worker.instance
    if instance is None:
        facts.spare_deaths += 1
        facts.spare_restart_at = now + restart.delay_seconds(facts.spare_deaths)
        return
    how = event.exit.describe()
    if instance.end_reason is None:
        _blame(facts, instance, event.exit.intake, how, now)
        why = f"the process of {instance.model_id} died ({how})"
        _take_down(facts, instance, how, why, now, expected=False, replay=True)
    elif instance.has_stalled:
        _blame(facts, instance, event.exit.intake, instance.end_reason, now)
    instance.first_exit = instance.first_exit or event.exit
    if not instance.living:
        _bury(facts, facts.models[instance.model_id], instance, now)


def _blame(facts: Facts, instance: Instance, intake: bytes | None, how: str, now: float) -> None:
    """The request that ended its process, or stalled it, while it was taken in, is refused, with all that are like it:
    those that are here, and for a while those that come. The model is not at fault. Unless two different requests in a
    row did that: then the model is broken, and its deaths count. intake: the request that was being taken in."""
    request = instance.in_flight.get(intake or b"")
    origin = instance.lost.get(intake or b"") if request is None else request.origin
    if origin is None:
        return
    model = facts.models[instance.model_id]
    is_first, model.last_intake = model.last_intake in (None, origin), origin
    if not is_first:
        return
    instance.blamed = True
    model.refused = {known: until for known, until in model.refused.items() if until > now}
    model.refused[origin] = now + restart.REFUSED_SECONDS
    for request in [*instance.in_flight.values(), *model.waiting]:
        if request.origin == origin and not request.cancelled:
            if instance.in_flight.pop(request.request_id, None) is None:
                model.waiting.remove(request)
            end(facts, request, ended_its_process(model.model_id, how))


def _bury(facts: Facts, model: Model, instance: Instance, now: float) -> None:
    """The last rank has exited."""
    model.serving = None
    facts.buried_at = now
    model.last_exit, model.last_reason = instance.first_exit, instance.end_reason
    if instance.end_expected or instance.blamed:
        model.restart_at = now
    else:
        _count_death(facts, model, instance, now)
    restart_waiting(model, now)
    if model.drain is not None:  # of a shutdown
        finish_drain(facts, model)
    for wait in model.unloads:
        facts.actions.append(Reply(wait.request_id, {"model_id": model.model_id}))
    for wait in model.kills:
        facts.actions.append(Reply(wait.request_id, {"model_id": model.model_id, "pid": instance.head.pid}))
    model.unloads, model.kills = [], []
    if model.failure is not None:
        why = f"{model.model_id} has failed: {model.failure}"
        give_up_waiting(facts, model, Failure(Code.WORKER_DIED, why))


def _count_death(facts: Facts, model: Model, instance: Instance, now: float) -> None:
    stable = instance.ready_at is not None and now - instance.ready_at >= restart.STABLE_SECONDS
    model.deaths = 1 if stable else model.deaths + 1
    model.restart_at = now + restart.delay_seconds(model.deaths)
    if restart.gives_up(model.deaths):
        model.failure = f"{model.deaths} deaths in a row, the last: {instance.end_reason}"
    if instance.ready_at is not None:
        return
    # Requests that joined this load survive one death of it. The second ends them.
    why = f"the process of {model.model_id} died while loading ({instance.end_reason})"
    failure = Failure(Code.WORKER_DIED, why, retryable=True)
    for request in list(model.waiting):
        request.deaths += 1
        if request.deaths > 1:
            model.waiting.remove(request)
            end(facts, request, failure)
    for wait in list(model.loads):
        wait.deaths += 1
        if wait.deaths > 1:
            model.loads.remove(wait)
            fail(facts, wait.request_id, failure)
    if model.pinned_by_load and not model.loads:
        unpin(facts, model)
