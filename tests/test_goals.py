"""What the benchmarks make of their results: verdicts, medians of runs, and tables that keep what a run leaves out."""

import time
from typing import Any

import psutil
import pytest

from bench.__main__ import PIECES
from bench.__main__ import _run as run_piece
from bench.goals import GOALS, Goal, judge, line, table
from bench.report import DOCUMENT, filled, recovery_table, tables
from bench.turns import Cell, of_runs
from tests.service import ROOT

FILES = ("recovery", "vision", "embeddings", "memory", "prefill", "dialects", "profile", "second_turn")
TTFT = Goal("TTFT p50, ratio to mlx_lm.server, 8 streams", "throughput", ("tiny", "8", "ttft"), 0.5, 0.45, at_most=True)
RATE = Goal("tokens/s", "throughput", ("tiny", "8", "rate"), 40_000)
GAP = Goal("longest gap", "prefill", ("ours", "gaps"), 0.3, unit="s", at_most=True, worst=True)


def results(**figures: Any) -> dict[str, Any]:
    return {"throughput": {"figures": {"tiny": {"8": figures}}, "dates": {"tiny": "2026-11-28"}}}


@pytest.mark.parametrize(
    ("figure", "ends"),
    [
        (0.56, "0.56, goal at most 0.5: missed; second goal at most 0.45: missed"),
        (0.4561, "0.456, goal at most 0.5: reached; second goal at most 0.45: missed"),
        (0.45, "0.45, goal at most 0.5: reached; second goal at most 0.45: reached"),
        ([0.9, 0.4, 0.41], "0.41, goal at most 0.5: reached; second goal at most 0.45: reached"),
    ],
)
def test_a_line_tells_the_figure_and_both_goals(figure: object, ends: str) -> None:
    (verdict,) = judge(results(ttft=figure), [TTFT])
    assert line(verdict, "2026-11-28") == f"TTFT p50, ratio to mlx_lm.server, 8 streams: {ends}"


def test_more_is_better_where_a_goal_does_not_say_at_most() -> None:
    assert line(judge(results(rate=39_999), [RATE])[0], "2026-11-28").endswith("39,999, goal at least 40,000: missed")
    assert line(judge(results(rate=40_000), [RATE])[0], "2026-11-28").endswith("goal at least 40,000: reached")


def test_a_figure_of_another_day_has_its_date_and_a_missing_one_no_verdict() -> None:
    lines = [line(verdict, "2026-11-29") for verdict in judge(results(rate=50_000), [RATE, TTFT, GAP])]
    assert lines[0] == "tokens/s: 50,000 (of 2026-11-28), goal at least 40,000: reached"
    assert lines[1:] == [
        "TTFT p50, ratio to mlx_lm.server, 8 streams: not measured, goal at most 0.5",
        "longest gap: not measured, goal at most 0.3",
    ]


def test_the_worst_value_counts_where_the_goal_is_about_it() -> None:
    found = {"prefill": {"figures": {"ours": {"gaps": [0.1, 0.4, 0.2]}}, "dates": {"ours": "2026-11-29"}}}
    (verdict,) = judge(found, [GAP])
    assert (verdict.value, verdict.goal.is_reached(0.4, 0.3)) == (0.4, False)


def test_the_table_has_what_was_measured() -> None:
    rows = table(judge(results(ttft=0.47, rate=1234.5), [TTFT, RATE, GAP])).splitlines()[2:]
    assert rows == [
        "| TTFT p50, ratio to mlx_lm.server, 8 streams | 0.47 | at most 0.5: reached | at most 0.45: **missed** |",
        "| tokens/s | 1,234 | at least 40,000: **missed** |  |",
    ]
    assert table(judge({}, [TTFT])) == ""


def test_in_the_table_a_figure_older_than_the_newest_has_its_date() -> None:
    gaps = {"prefill": {"figures": {"ours": {"gaps": [0.2]}}, "dates": {"ours": "2026-11-29"}}}
    rows = table(judge(results(rate=50_000) | gaps, [RATE, GAP])).splitlines()[2:]
    assert rows == [
        "| tokens/s | 50,000 (of 2026-11-28) | at least 40,000: reached |  |",
        "| longest gap | 0.2 s | at most 0.3: reached |  |",
    ]


def test_second_goals_are_harder_and_no_goal_comes_twice() -> None:
    for goal in GOALS:
        assert goal.second is None or goal.is_reached(goal.second, goal.first), goal
        assert goal.second is None or not goal.is_reached(goal.first, goal.second), goal
    assert len({goal.name for goal in GOALS}) == len({(goal.file, goal.path) for goal in GOALS}) == len(GOALS)


def test_of_several_runs_each_figure_is_the_median_and_a_range_the_widest() -> None:
    runs = [
        {1: {"ours": {"rate": rate, "ttft_ms": (rate, 9 - rate), "ours_to_this_range": (rate / 2, rate * 2)}}}
        for rate in (1.0, 5.0, 2.0)
    ]
    merged = of_runs(runs)
    assert of_runs([{"in the first run": 7.0, "rate": 1.0}, {"rate": 3.0}]) == {"in the first run": 7.0, "rate": 2.0}
    assert merged == {1: {"ours": {"rate": 2.0, "ttft_ms": [2.0, 7.0], "ours_to_this_range": [0.5, 10.0]}}}


def test_ratios_are_medians_of_the_turns() -> None:
    ours, its = Cell(), Cell()
    for mine, other in ((100, 50), (100, 100), (100, 25)):
        ours.ended(mine, 1.0, [5.0, 1.0, 2.0])
        its.ended(other, 1.0, [4.0])
    assert its.ours_to_this(ours) == {"ours_to_this": 2.0, "ours_to_this_range": (1.0, 4.0), "ttft_to_this": 0.5}


def test_a_table_without_figures_stays_and_the_document_has_a_place_for_each() -> None:
    document = DOCUMENT.read_text()
    names = tables({name: {} for name in ("throughput", *FILES)}, [], document)
    assert not any(names.values())
    assert filled(document, "tiny", "") == document
    for name in names:
        assert filled(document, name, "new rows").count("new rows\n<!-- end -->") == 1
    with pytest.raises(ValueError, match="one place for rows"):
        filled(document, "rows", "new")


def test_rows_that_a_short_run_leaves_out_stay() -> None:
    old = "| killed model answers again, no spare | 1,861 | 1,834 | 1,928 | < 2,000 | ms | 2026-11-25 |"
    of_goals = "| killed model answers again, no spare | 1,861 ms | at most 2,000: reached |  |"
    before = f"<!-- goals -->\n{of_goals}\n<!-- end -->\n\n<!-- recovery -->\n{old}\n<!-- end -->\n"
    dates = {"deaths_warm": "2026-11-29"}
    rows = recovery_table({"deaths_warm": {"again": [50.0, 60.0, 70.0]}}, dates, before).splitlines()[2:]
    assert rows == [
        "| killed model answers again, warm spare | 60 | 50 | 70 | < 250 | ms | 2026-11-29 |",
        old,
    ]


def test_a_piece_that_takes_too_long_is_ended_and_has_failed() -> None:
    before = time.monotonic()
    assert run_piece(["timeit", "-n1", "-r1", "pass"], 30)
    assert not run_piece(["timeit", "-n1", "-r1", "import time; time.sleep(60)"], 0.3)
    assert time.monotonic() - before < 30
    assert not [child for child in psutil.Process().children() if "timeit" in child.cmdline()]


def test_every_piece_is_a_module_and_measures_what_goals_ask_for() -> None:
    names = [piece.name for piece in PIECES]
    assert all((ROOT / "bench" / f"{name}.py").exists() for name in names)
    assert {goal.file for goal in GOALS} <= {*names, "whole"}  # how long all of them take
