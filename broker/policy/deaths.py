"""How processes end, from the first sign to the last consequence: the whole of it is in this file.

An end begins in one of four ways: the process is asked to exit (`stop`), killed (`kill`: by an administrator, or by
`watch` when it has stopped living), says that it cannot load, or exits by itself. The ranks of an instance are one
failure domain: any of them takes all others with it. Clients get their errors when the end begins, because reaping a
process of many gigabytes can take a while; deaths are counted, and administrators answered, when the last rank has
exited. A request in mid-answer goes on in the next process where its gateway can do that; until then it waits for the
payload. A request that ends its process while it is taken in, or twice before its output, is blamed alone, with those
like it; suspects.py finds the latter. The numbers of the restart policy are in restart.py.
"""

from collections import deque

from broker.policy import restart
from broker.policy.actions import KillWorker, Reply, StopWorker, TellLost
from broker.policy.answers import (
    CANCELLED,
    end,
    ended_its_process,
    ended_two_processes,
    fail,
    finish_drain,
    give_up_waiting,
    restart_waiting,
    unpin,
)
from broker.policy.events import WorkerExited, WorkerFailedToLoad
from broker.policy.facts import Facts, KillDue
from broker.policy.records import Instance, Model, PendingRequest, Phase, Worker
from broker.policy.succession import begin_end, forget
from broker.policy.suspects import Cause, culprit, note_death, part_of_each
from broker.policy.workers import loading
from broker.wire.failure import DEVICE_EXIT_CODE, Code, Failure

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
    facts: Facts,
    instance: Instance,
    reason: str,
    now: float,
    *,
    cause: Cause = Cause.FAULT,
    replay: bool = True,
    resume: bool = True,
) -> None:
    """SIGKILL to every rank. replay: requests without output are tried once more; resume: those that have begun
    go on, also where they wait for their turn."""
    why = f"the process of {instance.model_id} was ended: {reason}"
    _take_down(facts, instance, reason, why, now, cause=cause, replay=replay, resume=resume)


def watch(facts: Facts, now: float) -> None:
    """Kill what has stopped living (no heartbeat, progress or exit), takes too much memory, or was asked for."""
    for model, instance in facts.instances:
        if model.kills and not (instance.end_expected and all(worker.killed for worker in instance.living)):
            resume = all(wait.resume for wait in model.kills)
            kill(facts, instance, "killed by an administrator", now, cause=Cause.ASKED, resume=resume)
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
        kill(facts, instance, due.reason, now, cause=Cause.MEMORY if due.for_memory else Cause.FAULT)


def on_worker_failed_to_load(facts: Facts, event: WorkerFailedToLoad, now: float) -> None:
    found = loading(facts, event.worker_id)
    if found is None:
        return
    _, instance = found
    model = facts.models[instance.model_id]
    why = f"{model.model_id} cannot be loaded: {event.message}"
    if instance is model.serving:
        give_up_waiting(facts, model, Failure(Code.LOAD_FAILED, why))
        if model.drain is not None:
            finish_drain(facts, model)
    begin_end(facts, model, instance, why)
    stop(
        facts, instance, f"load failed: {event.message}", now, expected=False
    )  # the process has sent its reason and waits


def _kill_process(facts: Facts, worker: Worker, reason: str) -> None:
    if not worker.killed:
        worker.killed = True
        facts.actions.append(KillWorker(worker.worker_id, reason))


def _take_down(
    facts: Facts,
    instance: Instance,
    reason: str,
    why: str,
    now: float,
    *,
    cause: Cause,
    replay: bool = True,
    resume: bool = True,
) -> None:
    for worker in instance.living:
        _kill_process(facts, worker, reason)
    instance.end_reason = instance.end_reason or reason
    instance.end_expected = instance.end_expected or cause is Cause.ASKED
    model = facts.models[instance.model_id]
    part = _memory_part(facts, instance) if cause is Cause.MEMORY else 0.0
    if part and instance.busy:
        model.memory_part, model.took_too_much_at = part, now
    if is_serving := instance is model.serving:
        restart_waiting(model, now)
    instance.lost |= {request_id: r.origin for request_id, r in instance.in_flight.items() if not r.has_output}
    is_known = instance.blamed
    if cause is Cause.FAULT and (guilty := culprit(instance)) is not None:
        is_known = True
        _blame_suspect(facts, instance, guilty, reason)
    for request in reversed(instance.in_flight.values()):
        _lose(facts, model, request, why, now, cause=cause, is_known=is_known, part=part, goes_on=(replay, resume))
    instance.in_flight.clear()
    if not resume:
        for request in [waits for waits in model.waiting if waits.has_begun]:
            model.waiting.remove(request)
            end(facts, request, Failure(Code.WORKER_DIED, why, retryable=True))
    model.waiting = deque(sorted(model.waiting, key=lambda r: r.order))  # some of them may have been held back
    if is_serving and model.drain is not None:
        finish_drain(facts, model)
    begin_end(facts, model, instance, why)


def _memory_part(facts: Facts, instance: Instance) -> float:
    """Of each request in flight, where one process of this instance takes too much."""
    requests = max(1, len(instance.in_flight))
    without_model = [(w.footprint_bytes, facts.kill_limit(w), w.measured_bytes or 0) for w in instance.living]
    return max(part_of_each(taken - model, limit - model, requests) for taken, limit, model in without_model)


def _blame_suspect(facts: Facts, instance: Instance, guilty: PendingRequest, how: str) -> None:
    """A second process has died before this request had output, and the request was alone with it: it is refused, with
    all suspects that are like it. Neither death counts, unless another request did the same before it."""
    model = facts.models[instance.model_id]
    if _is_first_blamed(model, guilty.origin):
        instance.blamed, model.deaths = True, max(0, model.deaths - 1)
    for request in [guilty, *model.waiting]:
        if request.origin == guilty.origin and request.is_suspect and not request.cancelled:
            if instance.in_flight.pop(request.request_id, None) is None:
                model.waiting.remove(request)
            end(facts, request, ended_two_processes(model.model_id, how))


def _is_first_blamed(model: Model, origin: bytes) -> bool:
    """Whether no other request has ended a process in this way since the last output. Else the model is broken."""
    is_first, model.last_blamed = model.last_blamed in (None, origin), origin
    return is_first


def _lose(
    facts: Facts,
    model: Model,
    request: PendingRequest,
    why: str,
    now: float,
    *,
    cause: Cause,
    is_known: bool,
    part: float,
    goes_on: tuple[bool, bool],
) -> None:
    """A request in flight on a worker that is gone is sent to the next one, if that may be and has not been too often.
    goes_on: whether it may be if it has not begun, and if it has."""
    replay, resume = goes_on
    has_output, limit = request.has_output, request.resume_limit
    may, most = (resume, limit) if request.has_begun else (replay, request.deaths_survived)
    request.worker_id = None
    if request.cancelled:
        end(facts, request, CANCELLED)
    elif may and request.deaths < most:
        note_death(request, cause, is_known=is_known, memory_part=part)
        request.deaths, request.waiting_since, request.is_replay = request.deaths + 1, now, True
        request.has_output, request.is_lost = False, has_output
        model.waiting.appendleft(request)
        if has_output:
            facts.actions.append(TellLost(request.request_id, request.trace))
    else:
        if 0 < limit <= request.deaths:
            why += f"; it is process {request.deaths + 1} that ended under this request, which may go on {limit} times"
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
        cause = Cause.DEVICE if event.exit.code == DEVICE_EXIT_CODE else Cause.FAULT
        _take_down(facts, instance, how, why, now, cause=cause)
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
    if not _is_first_blamed(model, origin):
        return
    instance.blamed = True
    for lost in model.waiting:
        if lost.request_id in instance.lost:
            lost.is_suspect = False  # it is known now
    model.refused = {known: until for known, until in model.refused.items() if until > now}
    model.refused[origin] = now + restart.REFUSED_SECONDS
    for request in [*instance.in_flight.values(), *model.waiting]:
        if request.origin == origin and not request.cancelled:
            if instance.in_flight.pop(request.request_id, None) is None:
                model.waiting.remove(request)
            end(facts, request, ended_its_process(model.model_id, how))


def _bury(facts: Facts, model: Model, instance: Instance, now: float) -> None:
    """The last rank has exited."""
    was_serving = instance is model.serving
    forget(model, instance)
    facts.buried_at = now
    model.last_exit, model.last_reason = instance.first_exit, instance.end_reason
    if not was_serving:
        pass  # another one serves, or begins to: that is no death in a row
    elif instance.end_expected or instance.blamed:
        model.restart_at = now
    else:
        _count_death(facts, model, instance, now)
    if was_serving:
        restart_waiting(model, now)
        if model.drain is not None:  # of a shutdown
            finish_drain(facts, model)
    if model.drain is not None or any(other.phase is Phase.STOPPING for other in model.instances):
        return  # what administrators wait for is the end of all
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
    # Requests that joined this load survive one death of it, or as many as they may go on. The next one ends them.
    why = f"the process of {model.model_id} died while loading ({instance.end_reason})"
    failure = Failure(Code.WORKER_DIED, why, retryable=True)
    for request in list(model.waiting):
        request.deaths += 1
        if request.deaths > request.deaths_survived:
            model.waiting.remove(request)
            end(facts, request, failure)
    for wait in list(model.loads):
        wait.deaths += 1
        if wait.deaths > 1:
            model.loads.remove(wait)
            fail(facts, wait.request_id, failure)
    if model.pinned_by_load and not model.loads:
        unpin(facts, model)
