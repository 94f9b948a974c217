"""What the benchmarks must reach, as data, and the verdict on each goal. Pure: knows no files and measures nothing.

A figure is found in the results by the name of its file and a path in it; of several values the median counts, or the
greatest where the goal is about the worst. The first goal is the one to reach. docs/benchmarks.md says what is left
before the second.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

_LM, _VLM = "mlx_lm.server", "mlx_vlm.server"
_REQUEST = ("tiny, 1 at once, a connection each", "now", "sum")


@dataclass(slots=True, frozen=True)
class Goal:
    """first, second: the goals. file: bench/results/<file>.json; path: the keys of the figure in it. at_most: whether
    less is better; worst: whether the greatest of several values counts."""

    name: str
    file: str
    path: tuple[str, ...]
    first: float
    second: float | None = None
    unit: str = ""
    at_most: bool = False
    worst: bool = False

    def is_reached(self, value: float, goal: float) -> bool:
        """Whether this value is good enough for this goal, which is `first` or `second`."""
        return value <= goal if self.at_most else value >= goal


@dataclass(slots=True, frozen=True)
class Verdict:
    """value: the measured figure, None if there is none; date: of the measurement."""

    goal: Goal
    value: float | None
    date: str


def _by_streams(name: str, key: str, server: str, firsts: str, seconds: str, *, at_most: bool = False) -> list[Goal]:
    """The goals at 1, 8 and 32 streams."""
    return [
        Goal(f"{name}, {_streams(count)}", "throughput", ("tiny", count, server, key), first, second, at_most=at_most)
        for count, first, second in zip(
            ("1", "8", "32"), map(float, firsts.split()), map(float, seconds.split()), strict=True
        )
    ]


def _streams(count: str) -> str:
    return f"{count} stream" if count == "1" else f"{count} streams"


def _below(name: str, file: str, path: str, first: float, unit: str, *, worst: bool = False) -> Goal:
    return Goal(name, file, tuple(path.split()), first, unit=unit, at_most=True, worst=worst)


GOALS: tuple[Goal, ...] = (
    *_by_streams("tokens/s, as a share of the limit's", "ours_to_this", "limit", "0.92 0.72 0.85", "0.95 0.8 0.9"),
    *_by_streams("tokens/s, ratio to mlx_lm.server", "ours_to_this", _LM, "1.2 2.7 3.7", "1.25 3.0 4.0"),
    *_by_streams("TTFT p50, ratio to mlx_lm.server", "ttft_to_this", _LM, "0.62 0.5 0.33", "0.6 .45 .3", at_most=True),
    _below("CPU outside the worker for 1,000 tokens", "throughput", "tiny 32 mlx-broker cpu_outside_worker", 0.06, "s"),
    Goal("tokens/s about images, ratio to mlx_vlm.server, 1 stream", "vision", ("1", _VLM, "ours_to_this"), 1.2),
    Goal("tokens/s about images, ratio to mlx_vlm.server, 8 streams", "vision", ("8", _VLM, "ours_to_this"), 1.2),
    Goal("embeddings/s, ratio to mlx_vlm.server, 1 client", "embeddings", ("1", "ours_to_this"), 1.2),
    Goal("embeddings/s, ratio to mlx_vlm.server, 8 clients", "embeddings", ("8", "ours_to_this"), 1.2),
    _below("first bytes of speech, as a share of twelve sentences", "speech", "soprano first_share", 0.15, ""),
    _below("processor time of speech, ratio to mlx-audio alone", "speech", "soprano cost", 1.05, ""),
    _below("time of a transcription, ratio to mlx-audio alone", "audio", "whisper ratio", 1.05, ""),
    Goal("CPU of a request in gateway, broker and worker", "request", _REQUEST, 500, unit="µs", at_most=True),
    _below("longest gap of a stream whose worker is killed", "recovery", "pauses_warm killed", 150, "ms"),
    _below("CPU of a token for answers that can go on", "going_on", "tiny sum", 1, "µs"),
    _below("CPU of a token for the prompt cache on disk", "disk_cache", "extra_us", 2, "µs"),
    _below("first token after a kill, ratio to a live cache plus reading", "second_turn", "ratio", 1.3, ""),
    _below("error reaches the client of a killed worker", "recovery", "deaths_warm error", 50, "ms"),
    _below("killed model answers again, warm spare", "recovery", "deaths_warm again", 250, "ms"),
    _below("killed model answers again, the spare still imports", "recovery", "deaths_twice again", 800, "ms"),
    _below("killed model answers again, no spare", "recovery", "deaths_cold again", 2000, "ms"),
    _below("first answer of a model not loaded, warm spare", "recovery", "loads_warm first", 150, "ms"),
    _below("SmolLM2 not loaded: over a process with imports done", "recovery", "smol over", 150, "ms"),
    _below("SmolLM2 killed: pause over loading and prefill", "recovery", "smol_pause over", 200, "ms"),
    _below("B's longest gap while A dies and reloads", "recovery", "neighbour_warm death", 60, "ms"),
    _below("B's longest gap while C is loaded", "recovery", "neighbour_warm load", 60, "ms"),
    _below("memory samples of 8 idle workers", "recovery", "sampling cost", 0.5, "% of a core"),
    _below("PSS of an idle worker over its weights", "memory", "worker_over_weights", 45, "MiB"),
    _below("PSS of broker and gateway together", "memory", "broker_and_gateway", 65, "MiB"),
    Goal("rate that streams keep beside a long prompt", "prefill", ("mlx-broker", "rate_kept"), 0.4),
    _below("longest gap of a stream beside a long prompt", "prefill", "mlx-broker gap", 0.3, "s", worst=True),
    _below("TTFT of a long prompt beside streams, ratio to alone", "prefill", "mlx-broker slower", 2.2, ""),
    Goal("tokens/s of the echo engine, 32 streams", "throughput", ("echo", "32", "tokens_per_second"), 40_000),
    Goal("tokens/s of the echo engine, 256 streams", "throughput", ("echo", "256", "tokens_per_second"), 40_000),
    _below("make bench as a whole", "whole", "seconds", 720, "s"),
)  # fmt: skip


def judge(results: Mapping[str, Mapping[str, Any]], goals: Iterable[Goal] = GOALS) -> list[Verdict]:
    """The verdict on each goal. results: by name, what bench/results has, as far as it was measured."""
    verdicts = []
    for goal in goals:
        result = results.get(goal.file, {})
        value = _figure(result.get("figures", {}), goal)
        date = result.get("dates", {}).get(goal.path[0], "") if value is not None else ""
        verdicts.append(Verdict(goal, value, date))
    return verdicts


def _figure(figures: Any, goal: Goal) -> float | None:
    for key in goal.path:
        if not isinstance(figures, Mapping) or key not in figures:
            return None
        figures = figures[key]
    if isinstance(figures, list):
        return float(max(figures) if goal.worst else median(figures)) if figures else None
    return float(figures)


def line(verdict: Verdict, today: str) -> str:
    """One line for people; a figure that is not of today has its date."""
    goal, value = verdict.goal, verdict.value
    if value is None:
        return f"{goal.name}: not measured, goal {_bound(goal, goal.first)}"
    date = f" (of {verdict.date})" if verdict.date != today else ""
    measured = f"{goal.name}: {_measured(goal, value)}{date}, goal {_bound(goal, goal.first)}: "
    measured += "reached" if goal.is_reached(value, goal.first) else "missed"
    if goal.second is None:
        return measured
    reached = "reached" if goal.is_reached(value, goal.second) else "missed"
    return f"{measured}; second goal {_bound(goal, goal.second)}: {reached}"


def table(verdicts: Iterable[Verdict]) -> str:
    """The same in Markdown, for those that have been measured; empty if none has. A figure that is not of the newest
    day has its date."""
    verdicts = [*verdicts]
    newest = max((verdict.date for verdict in verdicts), default="")
    rows = []
    for verdict in verdicts:
        goal, value = verdict.goal, verdict.value
        if value is not None:
            measured = _measured(goal, value) + (f" (of {verdict.date})" if verdict.date != newest else "")
            second = "" if goal.second is None else _cell(goal, value, goal.second)
            rows.append(f"| {goal.name} | {measured} | {_cell(goal, value, goal.first)} | {second} |")
    return "\n".join(["| | measured | goal | second goal |", "| --- | --- | --- | --- |", *rows]) if rows else ""


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _measured(goal: Goal, value: float) -> str:
    return number(value) + (f" {goal.unit}" if goal.unit else "")


def _bound(goal: Goal, limit: float) -> str:
    return f"at {'most' if goal.at_most else 'least'} {f'{limit:,.0f}' if limit >= 100 else f'{limit:g}'}"


def _cell(goal: Goal, value: float, limit: float) -> str:
    return f"{_bound(goal, limit)}: {'reached' if goal.is_reached(value, limit) else '**missed**'}"
