"""A model gets another process without a gap: it loads beside the one that serves, takes its place when it is ready,
and the old one ends what it has begun. Asked for by an administrator, or by the numbers in the settings (recycling).

sharing.py starts the process, since memory is its matter; succession.py has the change of places.
"""

from broker.policy.actions import Reply
from broker.policy.answers import SHUTTING_DOWN, fail, load_report, refuse
from broker.policy.deaths import kill, stop
from broker.policy.events import ReloadRequested
from broker.policy.facts import Facts
from broker.policy.records import AdminWait, Instance, Model, Phase, Replacement
from broker.policy.suspects import Cause
from broker.wire.failure import Code, Failure


def on_reload_requested(facts: Facts, event: ReloadRequested) -> None:
    """A caller shares the reload of another one that has not begun, or that loads the same files."""
    model = facts.models.get(event.model_id)
    serving = None if model is None else model.serving
    if facts.stopping:
        fail(facts, event.request_id, SHUTTING_DOWN)
    elif model is None or not _may_be_reloaded(model, serving):
        fail(facts, event.request_id, Failure(Code.NOT_LOADED, f"Model not loaded: {event.model_id}"))
    elif event.spec is None:
        refuse(facts, event.request_id, event.problem, event.model_id)
    else:
        wait = AdminWait(event.request_id, facts.next_order())
        reload = model.reload
        if reload is not None and reload.by is not None and reload.spec != event.spec:
            why = f"{model.model_id} is being reloaded from files and settings that have changed since: try again then"
            fail(facts, event.request_id, Failure(Code.MODEL_IN_USE, why))
            return
        if reload is None:
            reload = model.reload = Replacement(event.spec, wait.order)
        if reload.by is None:
            reload.spec = event.spec
        reload.waits.append(wait)
        reload.allow_gap |= event.allow_gap
        reload.is_recycling = False


def _may_be_reloaded(model: Model, serving: Instance | None) -> bool:
    if model.drain is not None:
        return False
    return model.reload is not None or (serving is not None and serving.phase is not Phase.STOPPING)


def advance(facts: Facts, now: float) -> None:
    """Everything but the start."""
    for model in facts.models.values():
        incoming, outgoing, reload = model.incoming, model.outgoing, model.reload
        if incoming is not None and reload is None and incoming.phase is not Phase.STOPPING:
            kill(facts, incoming, "unloaded before it was ready", now, cause=Cause.ASKED)
        if outgoing is not None and outgoing.phase is Phase.READY and not outgoing.busy:
            stop(facts, outgoing, "reload", now)
        if reload is not None and reload.by is model.serving and _is_ready(model.serving):
            for wait in reload.waits:
                facts.actions.append(Reply(wait.request_id, load_report(model)))
            model.reload = None
        if model.serving is not None and now >= facts.recycles_at(model, now):
            model.reload = Replacement(model.serving.spec, facts.next_order(), is_recycling=True)
            model.recycled_at = now


def do_without_room(facts: Facts, model: Model, need_bytes: int, now: float) -> bool:
    """There is no room for both. Whether the old one leaves as soon as it is idle: where the caller allows a gap, and
    then the new one follows; or where it is idle and would be recycled, and then it is loaded when it is wanted. Else
    the caller hears the reason."""
    reload, serving = model.reload, model.serving
    assert reload is not None
    assert serving is not None
    model.recycled_at = now
    if reload.is_recycling:
        model.reload = None
        return not serving.busy
    if reload.allow_gap and need_bytes <= facts.ever_bytes:
        reload.gap = True
        return True
    gib = [n / 2**30 for n in (need_bytes, max(0, facts.free_bytes), facts.room_bytes)]
    why = "{} needs {:.2f} GiB beside the process that serves; {:.2f} GiB of {:.2f} are free".format(
        model.model_id, *gib
    )
    hint = "" if reload.allow_gap else "; allow_gap ends that process first"
    for wait in reload.waits:
        fail(facts, wait.request_id, Failure(Code.INSUFFICIENT_MEMORY, why + hint))
    model.reload = None
    return False


def _is_ready(instance: Instance | None) -> bool:
    return instance is not None and instance.phase is Phase.READY
