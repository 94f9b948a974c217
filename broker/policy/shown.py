"""What people see of a model: its state, and why it is so."""

from broker.policy.records import Model, Phase
from broker.policy.specs import Shown
from broker.wire.states import State


def shown(model: Model, now: float, waits_for: str = "waiting for room") -> Shown:
    """What people see of this model. waits_for: why those that are queued are."""
    instance = model.serving
    if instance is None:
        if model.failure is not None:
            return Shown(State.FAILED, model.failure)
        if model.restart_at > now:
            return Shown(State.COOLDOWN, model.last_reason)
        if model.wanted:
            return Shown(State.QUEUED, waits_for)
        return Shown(State.UNLOADED, model.last_reason)
    stage, fraction = instance.progress
    match instance.phase:
        case Phase.STOPPING:
            return Shown(State.STOPPING, instance.end_reason, stage, fraction)
        case Phase.READY:
            return _shown_ready(model)
        case Phase.LOADING:
            return Shown(State.LOADING, model.last_reason if model.deaths else None, stage, fraction)


def rests(model: Model, now: float) -> bool:
    """Whether it has been announced as unloaded, and is so still: most models that were ever asked for."""
    announced = model.announced
    if model.serving is not None or announced.state is not State.UNLOADED or announced.reason != model.last_reason:
        return False
    return model.failure is None and model.restart_at <= now and not model.wanted


def _shown_ready(model: Model) -> Shown:
    if model.drain is not None:
        return Shown(State.DRAINING, "unload")
    if model.reload is not None and model.reload.gap:
        return Shown(State.DRAINING, "reload")
    if model.incoming is not None and model.incoming.phase is Phase.LOADING:
        return Shown(State.READY, "reload", *model.incoming.progress)
    return Shown(State.READY, "reload: the process before it drains" if model.outgoing is not None else None)
