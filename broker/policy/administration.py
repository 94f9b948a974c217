"""What administrators ask for: loads, unloads, kills, pins, files; and the shutdown.

Each is noted, and answered at once where that is possible; scheduling.py and deaths.py do what was asked.
"""

from typing import assert_never

from broker.policy.actions import ForgetPrompts, RemoveFiles, Reply
from broker.policy.admission import known_model
from broker.policy.answers import SHUTTING_DOWN, end, fail, fail_loads, pin, refuse, unpin
from broker.policy.events import (
    AdminEvent,
    ForgetRequested,
    KillRequested,
    LoadRequested,
    ModelPinned,
    PinRequested,
    PullRequested,
    ReloadRequested,
    RemoveRequested,
    ShutdownRequested,
    UnloadRequested,
    UnpinRequested,
)
from broker.policy.facts import Facts
from broker.policy.records import AdminWait, Drain, Model, Phase
from broker.policy.reload import on_reload_requested
from broker.wire.failure import Code, Failure


def on_asked(facts: Facts, event: AdminEvent, now: float) -> None:
    """Note it, and answer it if that is all."""
    match event:
        case LoadRequested():
            _on_load_requested(facts, event, now)
        case UnloadRequested():
            _on_unload_requested(facts, event, now)
        case KillRequested():
            _on_kill_requested(facts, event)
        case PinRequested():
            _on_pin_requested(facts, event, now)
        case ReloadRequested():
            on_reload_requested(facts, event)
        case UnpinRequested():
            _on_unpin_requested(facts, event)
        case PullRequested():
            _on_pull_requested(facts, event)
        case RemoveRequested():
            _on_remove_requested(facts, event, now)
        case ForgetRequested():
            _on_forget_requested(facts, event)
        case ModelPinned():
            _on_model_pinned(facts, event)
        case ShutdownRequested():
            _on_shutdown_requested(facts)
        case _:
            assert_never(event)


def _on_load_requested(facts: Facts, event: LoadRequested, now: float) -> None:
    model = known_model(facts, event.model_id, event.spec)
    if facts.stopping:
        fail(facts, event.request_id, SHUTTING_DOWN)
    elif model is None or (event.spec is None and model.serving is None):
        refuse(facts, event.request_id, event.problem, event.model_id)
    else:
        order = facts.next_order()
        model.forget_deaths(now)
        if not model.pinned:
            model.pinned_by_load = True
            pin(facts, model, order)
        model.loads.append(AdminWait(event.request_id, order))


def _on_model_pinned(facts: Facts, event: ModelPinned) -> None:
    known = known_model(facts, event.model_id, event.spec)
    model = known or facts.models.setdefault(event.model_id, Model(event.model_id))
    if not model.pinned:
        # Not saved: it comes from where pins are kept, and its neighbours there are not here yet.
        model.pinned, model.pin_order = True, facts.next_order()
    if event.spec is None and event.problem is not None:
        model.failure = event.problem.message


def _on_unload_requested(facts: Facts, event: UnloadRequested, now: float) -> None:
    model = facts.models.get(event.model_id)
    if model is None or (model.serving is None and not model.pinned):
        _not_loaded(facts, event.request_id, event.model_id)
        return
    why = f"{model.model_id} was unloaded before it was ready"
    fail_loads(facts, model, Failure(Code.MODEL_UNAVAILABLE, why))
    if model.serving is None:
        unpin(facts, model)
        facts.actions.append(Reply(event.request_id, {"model_id": model.model_id}))
        return
    model.unloads.append(AdminWait(event.request_id, facts.order))
    if model.serving.phase is Phase.STOPPING:
        unpin(facts, model)
        return
    timeout = facts.limits.drain_timeout if event.timeout is None else event.timeout
    if model.drain is None:
        model.drain = Drain(facts.next_order(), now + timeout, event.force)
    else:
        model.drain.deadline = min(model.drain.deadline, now + timeout)
        model.drain.force |= event.force
        model.drain.keeps_pin = False


def _on_kill_requested(facts: Facts, event: KillRequested) -> None:
    model = facts.models.get(event.model_id)
    if model is None or not model.instances:
        _not_loaded(facts, event.request_id, event.model_id)
    else:
        model.kills.append(AdminWait(event.request_id, facts.order, resume=event.resume))


def _on_pin_requested(facts: Facts, event: PinRequested, now: float) -> None:
    """As a load, and nobody waits for it."""
    model = known_model(facts, event.model_id, event.spec)
    if facts.stopping:
        fail(facts, event.request_id, SHUTTING_DOWN)
    elif model is None or (event.spec is None and model.serving is None):
        refuse(facts, event.request_id, event.problem, event.model_id)
    else:
        model.forget_deaths(now)
        model.pinned_by_load = False  # it stays, whatever becomes of a load
        if model.drain is not None:
            model.drain.keeps_pin = True
        if not model.pinned:
            pin(facts, model, facts.next_order())
        facts.actions.append(Reply(event.request_id, {"model_id": model.model_id}))


def _on_unpin_requested(facts: Facts, event: UnpinRequested) -> None:
    model = facts.models.get(event.model_id)
    if model is None or not model.pinned:
        fail(facts, event.request_id, Failure(Code.NOT_LOADED, f"Model not pinned: {event.model_id}"))
    else:
        unpin(facts, model)
        facts.actions.append(Reply(event.request_id, {"model_id": model.model_id}))


def _on_pull_requested(facts: Facts, event: PullRequested) -> None:
    """The files are here, or could not be fetched: downloads.py has had its turn."""
    if facts.stopping:
        fail(facts, event.request_id, SHUTTING_DOWN)
    elif event.spec is None:
        refuse(facts, event.request_id, event.problem, event.model_id)
    else:
        body = {"model_id": event.model_id, "size_bytes": event.spec.weight_bytes}
        facts.actions.append(Reply(event.request_id, body))


def _on_remove_requested(facts: Facts, event: RemoveRequested, now: float) -> None:
    models = [facts.models[name] for name in (event.model_id, *event.users) if name in facts.models]
    used = next(((model, how) for model in models if (how := _use_of(model))), None)
    if facts.stopping:
        fail(facts, event.request_id, SHUTTING_DOWN)
    elif used is not None:
        model, how = used
        why = f"the files of {event.model_id} are in use: {model.model_id} {how}"
        fail(facts, event.request_id, Failure(Code.MODEL_IN_USE, why))
    else:
        if (known := facts.models.get(event.model_id)) is not None:
            known.forget_deaths(now)  # of files that are no more
        facts.actions.append(RemoveFiles(event.request_id, event.model_id))


def _on_forget_requested(facts: Facts, event: ForgetRequested) -> None:
    """Models that this machine no longer has too."""
    models = [model for model in facts.models.values() if event.model_id in (None, model.model_id)]
    ready = [instance for model in models for instance in model.instances if instance.phase is Phase.READY]
    workers = tuple(worker.worker_id for instance in ready for worker in instance.ranks)
    facts.actions.append(ForgetPrompts(event.request_id, event.model_id, workers))


def _use_of(model: Model) -> str:
    """Why its files are needed; empty if they are not."""
    if model.instances:
        first = model.instances[0]
        return "is loaded" if first.phase is Phase.READY else f"is {first.phase.value}"
    if model.pinned:
        return "is pinned"
    return "is waited for" if model.wanted else ""


def _on_shutdown_requested(facts: Facts) -> None:
    """End every request now; the broker does not wait for running work."""
    facts.stopping = True
    for model in facts.models.values():
        for waits in model.admin_queues:
            for wait in waits:
                fail(facts, wait.request_id, SHUTTING_DOWN)
            waits.clear()
        model.waiting.clear()
        model.reload = None
        for instance in model.instances:
            instance.in_flight.clear()
    for request in list(facts.requests.values()):
        end(facts, request, SHUTTING_DOWN)


def _not_loaded(facts: Facts, request_id: bytes, model_id: str) -> None:
    fail(facts, request_id, Failure(Code.NOT_LOADED, f"Model not loaded: {model_id}"))
