"""Inference requests come, are refused or wait for their model, and are cancelled."""

from broker.policy.actions import ForwardCancel, Reply
from broker.policy.answers import CANCELLED, SHUTTING_DOWN, end, ended_its_process, fail, load_report, refuse
from broker.policy.events import GatewayLeft, KeepRequested, RequestArrived, RequestResumed
from broker.policy.facts import Facts
from broker.policy.records import Model, PendingRequest, Phase
from broker.policy.specs import KeepAlive, ModelSpec
from broker.wire.failure import Code, Failure
from broker.wire.kinds import KINDS, Task

_ENCODING = frozenset({Task.EMBED, Task.RERANK})
# Work that comes with other work: to count a prompt is a part of answering it.
_PARTS = {Task.COUNT: Task.GENERATE, Task.VOICES: Task.SPEAK}


def wrong_task(spec: ModelSpec, task: str) -> Failure | None:
    """Why this model cannot do this task, so that it is refused before a process starts; None if it can."""
    tasks = spec.tasks or KINDS[spec.model_type].tasks
    if task in tasks:
        return None
    if task not in list(Task):
        return Failure(Code.INVALID_REQUEST, f"there is no task {task!r}")
    does = " and ".join(sorted(tasks - _PARTS.keys()))
    asked = _PARTS.get(Task(task), task)
    message = f"{spec.model_id} is a model of type {spec.model_type}: it can {does}, not {asked}"
    if task in _ENCODING and spec.model_type != "embeddings":  # a conversion may have lost the file that says so
        message += '; if its files mislead, `type = "embeddings"` in the settings says what it is'
    return Failure(Code.INVALID_REQUEST, message, param="model")


def known_model(facts: Facts, model_id: str, spec: ModelSpec | None) -> Model | None:
    """The record of this model, made if the catalog knows it; a fresh spec replaces the old one."""
    model = facts.models.get(model_id)
    if spec is None:
        return model
    if model is None:
        model = facts.models[model_id] = Model(model_id)
    serving = model.serving
    if serving is None or serving.phase is Phase.STOPPING or model.drain is not None:
        model.spec = spec  # else it is what runs, which may have changed since the event was made
    return model


def on_request_arrived(facts: Facts, event: RequestArrived | KeepRequested, now: float) -> None:
    """One that keeps a model waits for it as work does: in the same queue, within the same limits."""
    if event.request_id in facts.requests:
        return  # a gateway that uses an id twice; the first one's end is the end
    model = known_model(facts, event.model_id, event.spec)
    if facts.stopping:
        fail(facts, event.request_id, SHUTTING_DOWN)
    elif model is None or (event.spec is None and model.serving is None) or (event.spec is not None and event.problem):
        refuse(facts, event.request_id, event.problem, event.model_id)
    elif isinstance(event, KeepRequested):
        _keep(facts, model, event, now)
    elif (failure := _refused(model, event.origin, now) or _refusal(facts, model, now)) is not None:
        fail(facts, event.request_id, failure)
    else:
        origin, order = event.origin or event.request_id, facts.next_order()
        stated = None if event.keep_alive is None else KeepAlive(order, event.keep_alive)
        request = PendingRequest(
            *(event.request_id, event.model_id, event.payload, origin, order, now),
            *(stated, event.task, event.trace, event.resume_limit),
        )
        facts.requests[event.request_id] = request
        model.waiting.append(request)


def _keep(facts: Facts, model: Model, event: KeepRequested, now: float) -> None:
    if event.seconds == 0:
        if model.serving is not None:
            model.serving.hear(KeepAlive(facts.next_order(), 0.0))
        facts.actions.append(Reply(event.request_id, load_report(model)))
    elif (failure := _refusal(facts, model, now)) is not None:
        fail(facts, event.request_id, failure)
    else:
        order = facts.next_order()
        stated = KeepAlive(order, event.seconds)
        request = PendingRequest(event.request_id, event.model_id, None, event.request_id, order, now, stated)
        facts.requests[event.request_id] = request
        model.waiting.append(request)


def _refusal(facts: Facts, model: Model, now: float) -> Failure | None:
    return _unavailable(model, now) or _too_many(facts, model)


def _refused(model: Model, origin: bytes, now: float) -> Failure | None:
    """Of a request that has ended a process of this model a short while ago."""
    if model.refused.get(origin, 0.0) <= now:
        return None
    return ended_its_process(model.model_id, "the same request as before")


def _unavailable(model: Model, now: float) -> Failure | None:
    if model.serving is not None:
        return None
    if model.failure is not None:
        return Failure(Code.MODEL_UNAVAILABLE, f"{model.model_id} has failed: {model.failure}")
    if model.restart_at > now:
        why = f"{model.model_id} is cooling down after {model.deaths} failures: {model.last_reason}"
        return Failure(Code.MODEL_UNAVAILABLE, why, retry_after=model.restart_at - now, retryable=True)
    return None


def _too_many(facts: Facts, model: Model) -> Failure | None:
    load, queued = facts.load_of(model), facts.queued
    if load >= facts.limits.max_requests_per_model:
        why = f"{model.model_id} already has {load} requests, the limit per model"
    elif not facts.serves_at_once(model) and queued >= facts.limits.max_queue:
        why = f"{queued} requests are already waiting for a model, the limit of the queue"
    else:
        return None
    return Failure(Code.RATE_LIMIT_EXCEEDED, why, retry_after=1.0, retryable=True)


def on_request_resumed(facts: Facts, event: RequestResumed) -> None:
    """Nothing waits for a payload that comes twice, or after the end of its request."""
    request = facts.requests.get(event.request_id)
    if request is not None and request.is_lost:
        request.payload, request.is_lost = event.payload, False


def on_gateway_left(facts: Facts, event: GatewayLeft) -> None:
    admin_ids = [w.request_id for m in facts.models.values() for w in m.admin_waits]
    for request_id in [*facts.requests, *admin_ids]:
        if request_id.startswith(event.gateway_id):
            cancel(facts, request_id)


def cancel(facts: Facts, request_id: bytes) -> None:
    request = facts.requests.get(request_id)
    if request is None:
        # What an administrator asked for continues when the client leaves: a load belongs to no client.
        for model in facts.models.values():
            for waits in model.admin_queues:
                for wait in [w for w in waits if w.request_id == request_id]:
                    waits.remove(wait)
                    fail(facts, request_id, CANCELLED)
    elif request.worker_id is None:
        facts.models[request.model_id].waiting.remove(request)
        end(facts, request, CANCELLED)
    elif not request.cancelled:
        request.cancelled = True  # it still holds its place in the worker until that says that it has ended
        facts.actions.append(ForwardCancel(request.worker_id, request_id))
