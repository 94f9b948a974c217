"""The broker's STATUS as metrics. Every gateway says the same: a dashboard takes the `max` of them, never the sum."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from broker.wire.states import State
from gateway.core.administration import ModelReport, StatusReport
from gateway.metrics.series import PREFIX, Durations, label

# Beyond so many the idle ones are left out: a scrape is no list of models.
MAX_MODELS = 200

# Of the whole system.
PRESSURES = ("normal", "warning", "critical")
_IDLE = (State.UNLOADED, State.FAILED, State.COOLDOWN)

Source = TypeVar("Source")


@dataclass(slots=True, frozen=True)
class _Fact(Generic[Source]):
    """One number. of: None where there is none. is_counter: it never falls but with a new broker."""

    name: str
    meaning: str
    of: Callable[[Source], float | None]
    is_counter: bool = False

    def family(self, labels: Sequence[str] = ()) -> CounterMetricFamily | GaugeMetricFamily:
        """Without samples."""
        kind = CounterMetricFamily if self.is_counter else GaugeMetricFamily
        return kind(PREFIX + self.name, self.meaning, labels=labels)


_BROKER: tuple[_Fact[StatusReport], ...] = (
    _Fact("start_time_seconds", "When the broker started, in Unix seconds.", lambda r: r.started_at),
    _Fact("memory_budget_bytes", "What all models together may take.", lambda r: r.max_memory_bytes),
    _Fact("memory_reserved_bytes", "How much of the budget is taken.", lambda r: r.reserved_bytes),
    _Fact("memory_missing_bytes", "How much of the budget is wired, and by no model.", lambda r: r.missing_bytes),
    _Fact("memory_working_set_bytes", "What Metal may use on this machine.", lambda r: r.working_set_bytes),
    _Fact("machine_memory_bytes", "Memory of the machine.", lambda r: r.machine_total_bytes),
    _Fact(
        "machine_memory_available_bytes",
        "What processes can get without swapping.",
        lambda r: r.machine_available_bytes,
    ),
    _Fact(
        "memory_pressure",
        "Memory pressure of the system: 0 normal, 1 warning, 2 critical.",
        lambda r: PRESSURES.index(r.pressure) if r.pressure in PRESSURES else None,
    ),
    _Fact("max_models", "How many models may be loaded.", lambda r: r.max_models),
    _Fact("worker_processes", "Worker processes, spares included.", lambda r: r.workers),
    _Fact(
        "spare_resident_bytes",
        "Resident memory of all spares.",
        lambda r: sum(spare.get("rss_bytes") or 0 for spare in r.spares),
    ),
)

_MODELS: tuple[_Fact[ModelReport], ...] = (
    _Fact("model_pinned", "1 if the model is pinned.", lambda m: m.pinned),
    _Fact("model_reserved_bytes", "What the model counts against the budget.", lambda m: m.size_bytes),
    _Fact("num_requests_running", "Requests that the model's engine computes.", lambda m: m.live - m.waiting),
    _Fact(
        "num_requests_waiting",
        "Requests that wait for the model, in the broker or in its engine.",
        lambda m: m.queued + m.waiting,
    ),
    _Fact("num_requests_prefilling", "Requests whose prompt is being computed.", lambda m: m.prefilling),
    _Fact("num_requests_in_flight", "Requests that the worker has.", lambda m: m.in_flight),
    _Fact("num_requests_queued", "Requests that wait in the broker.", lambda m: m.queued),
    _Fact("worker_footprint_bytes", "Physical footprint of the model's process.", lambda m: m.footprint_bytes),
    _Fact("worker_resident_bytes", "Resident memory of the model's process.", lambda m: m.rss_bytes),
    _Fact("worker_share_bytes", "Share of the budget that the process has.", lambda m: m.share_bytes),
    _Fact(
        "worker_memory_limit_bytes", "Footprint at which the process is killed.", lambda m: m.memory_limit_bytes or None
    ),
    _Fact("worker_mlx_active_bytes", "Memory in use as MLX counts it.", lambda m: m.mlx_active_bytes),
    _Fact("worker_mlx_cache_bytes", "Memory that MLX keeps for reuse.", lambda m: m.mlx_cache_bytes),
    _Fact("worker_mlx_peak_bytes", "The most memory that MLX has used.", lambda m: m.mlx_peak_bytes),
    _Fact(
        "worker_cpu_ratio", "Processor time per second of the process; 1 is one core.", lambda m: m.cpu_percent / 100
    ),
    _Fact(
        "worker_heartbeat_age_seconds", "Since the last heartbeat of the process.", lambda m: m.heartbeat_age_seconds
    ),
    _Fact(
        "worker_prompt_tokens",
        "Tokens of prompts in the engine, cached included.",
        lambda m: m.prompt_tokens,
        is_counter=True,
    ),
    _Fact(
        "worker_prompt_tokens_cached",
        "Tokens of prompts that the engine found in its prompt cache.",
        lambda m: m.cached_prompt_tokens,
        is_counter=True,
    ),
    _Fact(
        "worker_generation_tokens", "Tokens that the engine generated.", lambda m: m.generation_tokens, is_counter=True
    ),
    _Fact("model_loads", "Completed loads.", lambda m: m.loads, is_counter=True),
    _Fact("model_restarts", "Starts after a death.", lambda m: m.restarts, is_counter=True),
    _Fact("model_replays", "Requests that were sent to a process again.", lambda m: m.replays, is_counter=True),
    _Fact("model_resumes", "Requests that went on in another process.", lambda m: m.resumes, is_counter=True),
    _Fact("model_evictions", "Evictions.", lambda m: m.evictions, is_counter=True),
)


def families(report: StatusReport | None) -> Iterator[Metric]:
    """All metrics, each of them made when it is asked for. report: None if the broker does not answer."""
    yield GaugeMetricFamily(f"{PREFIX}up", "1 if the broker answers this gateway, 0 if not.", value=report is not None)
    for fact in _BROKER:
        family = fact.family()
        if report is not None and (value := fact.of(report)) is not None:
            family.add_metric((), value)
        yield family
    yield _build(report)
    yield _spares(report)
    models = [] if report is None else _shown(report.models)
    for of_model in _MODELS:
        family = of_model.family(("model",))
        for model in models:
            if (value := of_model.of(model)) is not None:
                family.add_metric((label(model.model_id),), value)
        yield family
    yield _states(models)
    yield _exits(models)
    yield _stages(models)
    yield _queue(models)


def _shown(models: Sequence[ModelReport]) -> list[ModelReport]:
    """Those that do something first."""
    return sorted(models, key=lambda model: model.state in _IDLE)[:MAX_MODELS]


def _build(report: StatusReport | None) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}build_info", "Always 1; the version of the broker.", labels=("version",))
    if report is not None:
        family.add_metric((label(report.version),), 1)
    return family


def _spares(report: StatusReport | None) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}spares", "Warm spares by state.", labels=("state",))
    if report is not None:
        counts = Counter({"starting": 0, "imported": 0})
        counts.update(str(spare.get("state")) for spare in report.spares)
        for state, count in counts.items():
            family.add_metric((label(state),), count)
    return family


def _states(models: Sequence[ModelReport]) -> Metric:
    """Every state has its sample: a series that ends would go on in a query for minutes."""
    family = GaugeMetricFamily(
        f"{PREFIX}model_state", "1 for the state that the model is in, 0 for the others.", labels=("model", "state")
    )
    for model in models:
        for state in State:
            family.add_metric((label(model.model_id), state), state == model.state)
    return family


def _exits(models: Sequence[ModelReport]) -> Metric:
    family = CounterMetricFamily(
        f"{PREFIX}model_exits", "Ends of the model's processes by signal or exit code.", labels=("model", "exit")
    )
    for model in models:
        for how, count in model.exits.items():
            family.add_metric((label(model.model_id), label(how)), count)
    return family


def _stages(models: Sequence[ModelReport]) -> Metric:
    family = GaugeMetricFamily(
        f"{PREFIX}model_load_seconds", "How long each stage of the last load took.", labels=("model", "stage")
    )
    for model in models:
        for stage, seconds in model.load_seconds.items():
            family.add_metric((label(model.model_id), label(stage)), seconds)
    return family


def _queue(models: Sequence[ModelReport]) -> Metric:
    family = HistogramMetricFamily(
        f"{PREFIX}request_queue_time_seconds",
        "From a request's arrival in the broker until it is sent to a process.",
        labels=("model",),
    )
    for model in models:
        if (times := model.queue_times) is not None:
            durations = Durations(times.bounds)
            durations.merge(times.counts, times.seconds)
            durations.write(family, label(model.model_id))
    return family
