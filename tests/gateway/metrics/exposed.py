"""What a gateway exposes, read as scrapers read it."""

import shutil
import subprocess
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_plain

OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"

MODEL: dict[str, Any] = {
    "model_id": "org/tiny",
    "model_type": "text-gen",
    "state": "ready",
    "reason": None,
    "pinned": True,
    "since": 1700000000.0,
    "size_bytes": 3000,
    "context_length": 2048,
    "stage": None,
    "fraction": None,
    "loaded_at": 1700000000.0,
    "last_used": None,
    "idle_until": None,
    "pid": 7,
    "rss_bytes": 1000,
    "footprint_bytes": 2000,
    "share_bytes": 3000,
    "wanted_bytes": 3000,
    "memory_limit_bytes": 4000,
    "mlx_active_bytes": 500,
    "mlx_cache_bytes": 100,
    "mlx_peak_bytes": 700,
    "cpu_percent": 50.0,
    "in_flight": 5,
    "queued": 2,
    "restarts": 1,
    "last_exit": None,
    "tokens_per_second": 10.0,
    "prompt_tokens_per_second": 0.0,
    "ttft_seconds": 0.5,
    "prompt_tokens": 100,
    "cached_prompt_tokens": 40,
    "generation_tokens": 60,
    "queue_times": {"bounds": [0.1, 1.0], "counts": [3, 2, 1], "seconds": 9.5},
    "loads": 3,
    "load_seconds": {"process": 0.25, "weights": 1.5},
    "replays": 4,
    "resumes": 5,
    "evictions": 2,
    "exits": {"SIGKILL": 2, "0": 1},
    "heartbeat_age_seconds": 0.25,
    "live": 4,
    "waiting": 1,
    "prefilling": 1,
}
STATUS: dict[str, Any] = {
    "models": [MODEL],
    "spares": [{"pid": 9, "state": "imported", "rss_bytes": 50}],
    "workers": 2,
    "queued": 2,
    "uptime_seconds": 10.0,
    "max_models": 4,
    "max_memory_bytes": 10_000,
    "budget_origin": "setting",
    "working_set_bytes": 8000,
    "reserved_bytes": 3000,
    "missing_bytes": 10,
    "pressure": "warning",
    "machine_total_bytes": 16_000,
    "machine_available_bytes": 9000,
    "started_at": 1700000000.0,
    "version": "1.2.3",
}


class Exposed:
    """Metrics by name, without the prefix."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.metrics = {metric.name.removeprefix("mlx_broker_"): metric for metric in metrics}

    def value(self, name: str, **labels: str) -> float | None:
        """Of the sample with exactly these labels; name: of the sample, without the prefix."""
        for metric in self.metrics.values():
            for sample in metric.samples:
                if sample.name == f"mlx_broker_{name}" and sample.labels == labels:
                    return float(sample.value)
        return None

    def labels(self, name: str, label: str) -> set[str]:
        """All values that this label of this metric has."""
        return {sample.labels[label] for sample in self.metrics[name].samples}


def read(text: str, kind: str) -> Exposed:
    """Raises ValueError for what is not valid. kind: its content type."""
    parse: Callable[[str], Iterable[Metric]] = parse_open if "openmetrics" in kind else parse_plain
    return Exposed(parse(text))


def complaints(text: str) -> str:
    """Of promtool, if it is there, about this text; else of the client's parser."""
    if (promtool := shutil.which("promtool")) is None:
        list(parse_plain(text))
        return ""
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text.encode(), capture_output=True, timeout=30, check=False
    )
    return (done.stdout + done.stderr).decode()
