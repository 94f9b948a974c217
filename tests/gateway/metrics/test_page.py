"""docs/metrics.md tells of every metric, and of no other."""

import re
from collections.abc import Iterator
from itertools import chain

from prometheus_client.metrics_core import Metric

from gateway.core.administration import StatusReport
from gateway.core.answer import Delta, End
from gateway.core.served import Journal
from gateway.metrics.broker import families
from gateway.metrics.requests import RequestMetrics
from gateway.metrics.scrapes import Scrapes
from tests.gateway.metrics.exposed import STATUS
from tests.service import ROOT

PAGE = (ROOT / "docs" / "metrics.md").read_text()
_ROW = re.compile(r"^\| `(mlx_broker_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)


def exposed() -> Iterator[Metric]:
    """Every metric, each with a sample at least."""
    journal = Journal()
    requests = RequestMetrics(journal)
    served = journal.begin("POST", 0.0)
    served.is_inference, served.model, served.is_known = True, "org/tiny", True
    served.hear(1.0, 1)
    served.count([(0, End(Delta("a"), "stop", prompt_tokens=2, completion_tokens=1, cached_tokens=1))])
    journal.end(served, 2.0)
    requests.observe(served)
    return Scrapes(requests, None, 0.0)._metrics(StatusReport.model_validate(STATUS))  # type: ignore[arg-type] # no link


def _row(metric: Metric) -> tuple[str, str, frozenset[str]]:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    labels = set(chain.from_iterable(sample.labels for sample in metric.samples))
    return name, metric.type, frozenset(labels - {"le"})


def test_the_page_has_every_metric_with_its_type_and_labels() -> None:
    metrics = list(exposed())
    assert all(metric.samples for metric in metrics)
    told = [(name, kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in _ROW.findall(PAGE)]
    assert sorted(told) == sorted(map(_row, metrics))


def test_the_page_says_whose_figures_they_are() -> None:
    """Those in its second table are missing where there is no broker."""
    own, _, of_broker = PAGE.partition("\n## Of the broker\n")
    told = {name.removesuffix("_total") for name, _kind, _labels in _ROW.findall(of_broker)}
    assert told == {metric.name for metric in families(None)} - {"mlx_broker_up"}
    assert len(_ROW.findall(own)) == 10
