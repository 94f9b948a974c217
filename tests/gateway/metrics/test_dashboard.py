"""The dashboard and the alerts ask for metrics that are exposed, and aggregate them as docs/metrics.md says."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from broker.wire.failure import Code
from gateway.core.failure import STATUS
from gateway.metrics.broker import families
from tests.gateway.metrics.test_page import exposed
from tests.service import ROOT

DASHBOARD: dict[str, Any] = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
ALERTS = ROOT / "docs" / "alerts.yml"
PROMTOOL = shutil.which("promtool")

# Sample name -> labels, of everything that a gateway can expose.
SAMPLES: dict[str, set[str]] = {}
for _metric in exposed():
    for _sample in _metric.samples:
        SAMPLES.setdefault(_sample.name, set()).update(_sample.labels)
OF_BROKER = {metric.name for metric in families(None)} - {"mlx_broker_up"}

_NAME = re.compile(r"mlx_broker_\w+")
_SELECTOR = re.compile(r"(mlx_broker_\w+)\{([^}]*)\}")
_AGGREGATION = re.compile(r"(\w+)(?: by \([^)]*\))? ?$")


def panels() -> list[dict[str, Any]]:
    return list(DASHBOARD["panels"])


def expressions() -> Iterator[str]:
    for panel in panels():
        for target in panel.get("targets", ()):
            yield target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["expr"]


def alert_expressions() -> list[str]:
    """Each `expr:` with its lines."""
    return re.findall(
        r"^        expr: (?:>-\n)?(.*?)\n        (?:for|labels):", ALERTS.read_text(), re.DOTALL | re.MULTILINE
    )


EXPRESSIONS = [*expressions(), *alert_expressions()]


def enclosing(text: str) -> Iterator[str]:
    """The functions and aggregations around the end of `text`, from the inside."""
    depth = 0
    for place in range(len(text) - 1, -1, -1):
        if text[place] == ")":
            depth += 1
        elif text[place] == "(" and depth:
            depth -= 1
        elif text[place] == "(":
            found = _AGGREGATION.search(text[:place])
            yield found[1] if found else ""


def test_there_are_enough() -> None:
    assert len(EXPRESSIONS) > 40
    assert len(alert_expressions()) == 4


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_and_label_exists(expression: str) -> None:
    names = _NAME.findall(expression)
    assert names, expression
    assert set(names) <= SAMPLES.keys()
    for name, matchers in _SELECTOR.findall(expression):
        assert set(re.findall(r"(\w+)=", matchers)) <= SAMPLES[name]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_of_the_brokers_facts_it_takes_the_max_and_of_requests_the_sum(expression: str) -> None:
    for found in _NAME.finditer(expression):
        base = re.sub(r"_(total|bucket|sum|count)$", "", found[0])
        around = [name for name in enclosing(expression[: found.start()]) if name in ("max", "sum", "count", "absent")]
        wanted = ("max", "absent") if base in OF_BROKER or base == "mlx_broker_up" else ("sum", "count")
        assert around, expression
        assert around[0] in wanted, expression


def test_the_variable_lists_models_and_the_panels_use_it() -> None:
    source, model = DASHBOARD["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    assert model["query"]["query"] == "label_values(mlx_broker_model_state, model)"
    assert sum('model=~"$model"' in expression for expression in expressions()) > 20


def test_panels_have_ids_and_places_of_their_own() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    for one, other in combinations([panel["gridPos"] for panel in panels()], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert is_beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels())


def test_the_failures_that_wake_somebody_are_codes() -> None:
    [codes] = re.findall(r'outcome=~"([^"]*)"', ALERTS.read_text())
    ours = {str(code) for code, status in STATUS.items() if status >= 499 or status in (422, 429)}
    assert set(codes.split("|")) == ours - {Code.NOT_IMPLEMENTED}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_reads_every_query(tmp_path: Path) -> None:
    """As recording rules, with Grafana's variables filled in."""
    filled = [one.replace("$__rate_interval", "5m").replace("$model", ".*") for one in expressions()]
    rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(filled)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    assert promtool("check", "rules", file) == ""
    file.write_text(file.read_text().replace("rate(", "rat(", 1))
    assert "unknown function" in promtool("check", "rules", file)


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_every_alert_comes_when_it_should_and_only_then() -> None:
    assert promtool("check", "rules", ALERTS) == ""
    assert promtool("test", "rules", Path(__file__).with_name("alerts_test.yml")) == ""


def promtool(*arguments: str | Path) -> str:
    """What it complains about; empty if it does not."""
    command = [str(PROMTOOL), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr if done.returncode else ""
