"""Reports of worker processes, and samples of them, while they live. deaths.py has their ends."""

from broker.policy.actions import DropOutputs, ForwardOutputs, SaveMeasured
from broker.policy.answers import restart_waiting
from broker.policy.events import (
    HeartbeatArrived,
    OutputsArrived,
    SystemSampled,
    WorkerBecameReady,
    WorkerConnected,
    WorkerProgressed,
    WorkerSampled,
)
from broker.policy.facts import FOREVER, Facts
from broker.policy.noted import FirstOutput, ModelLoaded
from broker.policy.records import Instance, Model, PendingRequest, Phase, Worker
from broker.policy.succession import take_over

# Whose sizes are kept, by their last load.
REMEMBERED_MODELS = 500


def on_worker_connected(facts: Facts, event: WorkerConnected, now: float) -> None:
    worker = facts.workers.get(event.worker_id)
    if worker is not None and not worker.connected:
        worker.connected = True
        worker.last_seen = worker.progressed_at = now


def on_worker_progressed(facts: Facts, event: WorkerProgressed, now: float) -> None:
    worker = facts.workers.get(event.worker_id)
    if worker is not None:
        worker.last_seen = worker.progressed_at = now
        worker.stage, worker.fraction = event.stage, event.fraction
        if worker.is_spare:
            worker.imported, facts.spare_deaths = True, 0
        _hear_of_metal(facts, event.working_set_bytes)


def _hear_of_metal(facts: Facts, working_set_bytes: int) -> None:
    facts.working_set_bytes = working_set_bytes or facts.working_set_bytes


def loading(facts: Facts, worker_id: str) -> tuple[Worker, Instance] | None:
    """This process and its instance, if it is about to load its part."""
    worker = facts.workers.get(worker_id)
    if worker is None or worker.instance is None or worker.measured_bytes is not None:
        return None
    return (worker, worker.instance) if worker.instance.phase is Phase.LOADING else None


def on_worker_became_ready(facts: Facts, event: WorkerBecameReady, now: float) -> None:
    _hear_of_metal(facts, event.working_set_bytes)
    found = loading(facts, event.worker_id)
    if found is None:
        return
    worker, instance = found
    worker.last_seen = worker.progressed_at = now
    worker.measured_bytes, worker.stage, worker.fraction = event.measured_bytes, None, None
    worker.footprint_bytes, worker.lease.beside_bytes = event.measured_bytes, event.beside_bytes
    if worker is instance.head:
        instance.context_length = event.context_length
    measured = [rank.measured_bytes for rank in instance.ranks if rank.measured_bytes is not None]
    if len(measured) == len(instance.ranks):
        _became_ready(facts, instance, sum(measured), now)


def _became_ready(facts: Facts, instance: Instance, measured_bytes: int, now: float) -> None:
    model = facts.models[instance.model_id]
    instance.ready_at = instance.last_completed = now
    facts.noted.append(ModelLoaded(model.model_id, instance.name))
    _remember(facts, model, instance.spec.fingerprint, measured_bytes)
    if instance is model.incoming:
        take_over(model)
        return  # nobody has waited for it
    # Requests that waited for this load are one group and are served together: A B A B becomes AA BB. Requests that
    # came after an unload wait for the next load.
    last = model.drain.order if model.drain is not None else FOREVER
    for request in model.waiting:
        request.waiting_since = now
        if request.order < last:
            request.order = model.waiting[0].order


def _remember(facts: Facts, model: Model, key: str, measured_bytes: int) -> None:
    if not key:
        model.measured_bytes = measured_bytes
        return
    is_new = facts.measured.pop(key, None) != measured_bytes
    facts.measured[key] = measured_bytes  # the last of all: the oldest are forgotten
    for oldest in list(facts.measured)[:-REMEMBERED_MODELS]:
        del facts.measured[oldest]
    if is_new:
        facts.actions.append(SaveMeasured(dict(facts.measured)))


def on_outputs_arrived(facts: Facts, event: OutputsArrived, now: float) -> bool:
    """Whether there is something to decide: a request has ended, or has its first output and another one waits for
    that. The hot path: other outputs free nothing."""
    worker = facts.workers.get(event.worker_id)
    if worker is None:
        facts.actions.append(DropOutputs(event.worker_id, "the worker has ended"))
        return False
    instance = worker.instance
    in_flight = instance.in_flight if instance is not None and worker.rank == 0 else {}
    ended = [request_id for request_id, end in event.entries if end]
    if not all(request_id in in_flight for request_id, _ in event.entries) or len(set(ended)) != len(ended):
        facts.actions.append(DropOutputs(event.worker_id, "outputs of a request that is not in flight there"))
        return False
    worker.last_seen = worker.progressed_at = now
    frees = False
    for request_id, end in event.entries:
        request = in_flight[request_id]
        if not request.has_output:
            frees |= _begin(facts, request, now, ends=end)
    facts.actions.append(ForwardOutputs(event.worker_id, event.frames))
    if not ended or instance is None:
        return frees
    for request_id in ended:
        del in_flight[request_id], facts.requests[request_id]
    instance.served += len(ended)
    instance.last_completed = facts.models[instance.model_id].last_used = now
    return True


def _begin(facts: Facts, request: PendingRequest, now: float, *, ends: bool) -> bool:
    """The first output of its process. Whether others may have waited for it."""
    model = facts.models[request.model_id]
    if not request.has_begun and not ends:
        facts.noted.append(FirstOutput(request.model_id, now, now - request.arrived_at))
    request.has_output = request.has_begun = True
    request.payload = b""  # it is not sent again: where it may go on, its gateway has more
    if request.is_suspect:
        restart_waiting(model, now)  # those behind it were held back
    request.is_suspect = False
    model.last_blamed = None  # it does take requests in
    return bool(model.waiting)


def on_heartbeat_arrived(facts: Facts, event: HeartbeatArrived, now: float) -> None:
    worker = facts.workers.get(event.worker_id)
    if worker is None:
        return
    worker.last_seen = now
    if event.steps != worker.steps:
        worker.steps, worker.progressed_at = event.steps, now
    worker.mlx_active_bytes = event.mlx_active_bytes
    worker.mlx_cache_bytes = event.mlx_cache_bytes
    worker.mlx_peak_bytes = event.mlx_peak_bytes


def on_worker_sampled(facts: Facts, event: WorkerSampled) -> None:
    worker = facts.workers.get(event.worker_id)
    if worker is None:
        return
    worker.rss_bytes, worker.footprint_bytes = event.rss_bytes, event.footprint_bytes
    worker.cpu_percent = event.cpu_percent
    over = 0 < facts.kill_limit(worker) < event.footprint_bytes
    worker.samples_over_limit = worker.samples_over_limit + 1 if over else 0


def on_system_sampled(facts: Facts, event: SystemSampled, now: float) -> None:
    facts.wired_bytes = event.wired_bytes
    if event.pressure is not facts.pressure:
        facts.pressure, facts.pressure_since = event.pressure, now


def on_pause_ended(facts: Facts, now: float) -> None:
    """Every process gets as much time as it had at first to show a sign of life, to answer, or to exit."""
    for worker in facts.workers.values():
        worker.last_seen = worker.progressed_at = now
        if worker.stop_deadline is not None:
            worker.stop_deadline = now + facts.limits.stop_grace
        if worker.lease.asked_at is not None:
            worker.lease.asked_at = now
