"""The requests of this gateway as metrics, counted from their records (gateway/core/served.py)."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from gateway.core.served import GAP_BOUNDS, OK, Journal, Served
from gateway.metrics.series import PREFIX, Durations, label

# Names of models become labels, and every label costs memory in scrapers: names that clients invent share one, and so
# do those beyond a number that no machine serves.
UNKNOWN = "(unknown)"
OTHER = "(other)"
MAX_MODELS = 64

FIRST_BOUNDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
)  # fmt: skip
WHOLE_BOUNDS = (
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0,
)  # fmt: skip


@dataclass(slots=True)
class _Model:
    """The requests to one model that have ended. prompt, cached, generated: tokens."""

    outcomes: Counter[str] = field(default_factory=Counter)
    first: Durations = field(default_factory=lambda: Durations(FIRST_BOUNDS))
    gaps: Durations = field(default_factory=lambda: Durations(GAP_BOUNDS))
    whole: Durations = field(default_factory=lambda: Durations(WHOLE_BOUNDS))
    prompt: int = 0
    cached: int = 0
    generated: int = 0


class RequestMetrics:
    """Those of one gateway. `observe` is an Observer of its journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._models: dict[str, _Model] = {}

    def observe(self, served: Served) -> None:
        """A request has ended."""
        if not served.is_inference or served.outcome is None or served.ended is None:
            return
        model, tokens = self._model(served), served.tokens
        model.outcomes[served.outcome] += 1
        model.prompt += tokens.prompt
        model.cached += tokens.cached
        model.generated += tokens.generated
        if (first := served.first_seconds) is not None:
            model.first.add(first)
        if served.first_output is not None and served.is_by_token:
            model.gaps.merge(served.gaps, served.last_output - served.first_output)
        if served.outcome == OK and (tokens.prompt or tokens.generated):
            model.whole.add(served.ended - served.started)

    def families(self) -> Iterator[Metric]:
        """All metrics, each of them made when it is asked for."""
        yield self._outcomes()
        yield self._running()
        yield self._durations(
            "time_to_first_token_seconds",
            "From the request, or the end of its upload, to the first output of a streamed answer.",
            lambda model: model.first,
        )
        yield self._gaps()
        yield self._durations(
            "e2e_request_latency_seconds",
            "From the request to the end of its answer, of requests that succeed.",
            lambda model: model.whole,
        )
        yield self._tokens(
            "prompt_tokens", "Tokens of prompts, those from the prompt cache included.", lambda model: model.prompt
        )
        yield self._tokens(
            "prompt_tokens_cached", "Tokens of prompts that came from the prompt cache.", lambda model: model.cached
        )
        yield self._tokens("generation_tokens", "Tokens of answers.", lambda model: model.generated)

    def _model(self, served: Served) -> _Model:
        name = self._name(served)
        if (known := self._models.get(name)) is not None:
            return known
        return self._models.setdefault(name if len(self._models) < MAX_MODELS else OTHER, _Model())

    def _name(self, served: Served) -> str:
        """A name that is not known is one that the broker may still find, until it has answered."""
        has_answered = served.first_output is not None or (served.outcome == OK and served.tokens.prompt > 0)
        return served.model if served.model is not None and (served.is_known or has_answered) else UNKNOWN

    def _running_now(self) -> Iterable[Served]:
        return [served for served in self._journal.running if served.model is not None]

    def _outcomes(self) -> Metric:
        family = CounterMetricFamily(
            f"{PREFIX}requests", "Requests that have ended, by how they ended.", labels=("model", "outcome")
        )
        for name, model in self._models.items():
            for outcome, count in model.outcomes.items():
                family.add_metric((label(name), outcome), count)
        return family

    def _running(self) -> Metric:
        family = GaugeMetricFamily(
            f"{PREFIX}requests_in_progress", "Requests of this gateway that have not ended.", labels=("model",)
        )
        counts = Counter(map(self._name, self._running_now()))
        shown = dict.fromkeys(self._models, 0)
        for name, count in counts.items():
            known = name if name in shown or len(shown) < MAX_MODELS else OTHER
            shown[known] = shown.get(known, 0) + count
        for name, count in shown.items():
            family.add_metric((label(name),), count)
        return family

    def _gaps(self) -> Metric:
        """Those of streams that still run included: an answer may take minutes."""
        gaps: dict[str, Durations] = {}
        for name, model in self._models.items():
            gaps[name] = Durations(GAP_BOUNDS)
            gaps[name].merge(model.gaps.counts, model.gaps.total)
        for served in self._running_now():
            if served.first_output is not None and served.is_by_token:
                name = self._name(served)
                known = name if name in gaps or len(gaps) < MAX_MODELS else OTHER
                total = served.last_output - served.first_output
                gaps.setdefault(known, Durations(GAP_BOUNDS)).merge(served.gaps, total)
        return _histogram(
            "inter_token_latency_seconds", "Between two outputs of a streamed answer, nearly always of one token.", gaps
        )

    def _durations(self, name: str, meaning: str, of: Callable[[_Model], Durations]) -> Metric:
        return _histogram(name, meaning, {key: of(model) for key, model in self._models.items()})

    def _tokens(self, name: str, meaning: str, of: Callable[[_Model], int]) -> Metric:
        family = CounterMetricFamily(PREFIX + name, meaning, labels=("model",))
        for key, model in self._models.items():
            family.add_metric((label(key),), of(model))
        return family


def _histogram(name: str, meaning: str, models: dict[str, Durations]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, meaning, labels=("model",))
    for key, durations in models.items():
        durations.write(family, label(key))
    return family
