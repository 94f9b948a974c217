"""Results -> docs/benchmarks.md (its tables, between marks) and docs/benchmarks.svg, and a verdict on each goal on
standard output. `python -m bench.report`.

The prose of the document is written by hand and stays, and so does a table without figures. This file measures nothing;
bench/goals.py judges.
"""

import re
from statistics import median
from typing import Any

from bench.goals import GOALS, Verdict, judge, line, number, table
from bench.results import read, today
from bench.servers import OURS
from tests.service import ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"
CHART = ROOT / "docs" / "benchmarks.svg"

_LIMIT = "limit"
_CHART_LINK = f"![tokens per second as a share of the limit]({CHART.name})"
_COLOURS = {_LIMIT: "#b0b0b0", OURS: "#1f6feb", "mlx_lm.server": "#d98c00", "mlx_vlm.server": "#8a63d2"}
_RECOVERY_ROWS = (
    ("deaths_warm", "error", "error reaches the client of a killed worker", "ms"),
    ("deaths_warm", "again", "killed model answers again, warm spare", "ms"),
    ("deaths_twice", "again", "the same while the spare still imports, after a second death", "ms"),
    ("deaths_cold", "again", "killed model answers again, no spare", "ms"),
    ("pauses_warm", "quiet", "longest gap of a stream of 128 tokens whose worker lives", "ms"),
    ("pauses_warm", "killed", "the same, its worker is killed in the middle, warm spare", "ms"),
    ("pauses_cold", "killed", "the same, no spare", "ms"),
    ("hangs", "stopped", "the same, its worker is stopped: found after 10 s without heartbeat", "ms"),
    ("loads_warm", "first", "first answer of a model not loaded, warm spare", "ms"),
    ("loads_cold", "first", "first answer of a model not loaded, no spare", "ms"),
    ("smol", "over", "SmolLM2 not loaded: over loading and answering with imports done", "ms"),
    ("smol_pause", "gap", "longest gap of a stream of SmolLM2 whose worker is killed, warm spare", "ms"),
    ("smol_pause", "over", "the same, over loading and reading its prompt and what was said with imports done", "ms"),
    ("neighbour_warm", "median", "B's median gap", "ms"),
    ("neighbour_warm", "quiet", "B's longest gap in a second in which nothing happens", "ms"),
    ("neighbour_warm", "death", "B's longest gap while A dies and reloads, spare refilled", "ms"),
    ("neighbour_warm", "load", "B's longest gap while C is loaded, spare refilled", "ms"),
    ("neighbour_cold", "death", "the same without a spare, A dies", "ms"),
    ("neighbour_cold", "load", "the same without a spare, C is loaded", "ms"),
    ("sampling", "cost", "memory samples of 8 idle workers", "% of a core"),
    ("sampling", "with", "the broker as a whole meanwhile", "% of a core"),
)
_FILES = sorted({goal.file for goal in GOALS} | {"dialects", "profile"})


def main() -> None:
    results = {name: read(name) for name in _FILES}
    verdicts = judge(results)
    document = DOCUMENT.read_text()
    for name, content in tables(results, verdicts, document).items():
        document = filled(document, name, content)
    if measured := [result for result in results.values() if result]:
        newest = max(measured, key=lambda result: result["date"])
        busy = sum(result["began_busy"] for result in measured)
        document = filled(document, "machine", machine(newest | {"began_busy": busy}))
    DOCUMENT.write_text(document)
    if tiny := results["throughput"].get("figures", {}).get("tiny"):
        CHART.write_text(chart(tiny))
    print(f"{DOCUMENT}\n{CHART}\n")
    for verdict in verdicts:
        print(line(verdict, today()))


def tables(results: dict[str, dict[str, Any]], verdicts: list[Verdict], before: str) -> dict[str, str]:
    """Each table by its mark; empty without figures. before: the document, whose rows stay where there are no newer
    ones."""
    figures = {name: result.get("figures", {}) for name, result in results.items()}
    throughput = figures["throughput"]
    tiny = comparison(throughput.get("tiny"))
    return {
        "goals": table(verdicts),
        "recovery": recovery_table(figures["recovery"], results["recovery"].get("dates", {}), before),
        "tiny": f"{tiny}\n\n{_CHART_LINK}" if tiny else "",
        "connected": comparison(throughput.get("connected")),
        "two_models": comparison(throughput.get("two_models")),
        "smol": comparison(throughput.get("smol")),
        "vision": comparison(figures["vision"]),
        "embeddings": embeddings_table(figures["embeddings"]),
        "echo": echo_table(throughput.get("echo")),
        "memory": memory_table(throughput),
        "pss": pss_table(figures["memory"]),
        "prefill": prefill_table(figures["prefill"]),
        "dialects": dialects_table(figures["dialects"]),
        "profile": profile_table(figures["profile"]),
        "second_turn": second_turn_table(figures["second_turn"]),
    }


def filled(document: str, name: str, content: str) -> str:
    """The document with this table in its place; as it was without a table. Raises ValueError if it has no place."""
    if not content:
        return document
    document, found = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{content}\n{match[2]}",
        document,
        flags=re.DOTALL,
    )
    if found != 1:
        raise ValueError(f"{DOCUMENT} must have one place for {name}")
    return document


def machine(result: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in result["packages"].items())
    busy = result["began_busy"]
    beside = f" {busy} measurements began beside other work: not to be trusted." if busy else ""
    return f"{result['date']}; {result['machine']}, no GPU; Python {result['python']}; {packages}.{beside}"


def recovery_table(figures: dict[str, Any], dates: dict[str, str], before: str) -> str:
    """dates: of the figures. Each row has its date, because a short run measures some of them."""
    if not figures:
        return ""
    goals = {goal.path: goal.first for goal in GOALS if goal.file == "recovery"}
    old = before.partition("<!-- recovery -->\n")[2].partition("<!-- end -->")[0].splitlines()
    rows = []
    for name, what, label, unit in _RECOVERY_ROWS:
        if what not in figures.get(name, {}):
            rows += [row for row in old if row.startswith(f"| {label} |")][:1]
            continue
        values = figures[name][what]
        numbers = " | ".join(number(value) for value in (median(values), min(values), max(values)))
        goal = goals.get((name, what))
        rows.append(f"| {label} | {numbers} | {'' if goal is None else f'< {goal:,g}'} | {unit} | {dates[name]} |")
    head = ["| | median | from | to | goal | | measured on |", "| --- | --- | --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])


def comparison(by_streams: dict[str, dict[str, dict[str, Any]]] | None) -> str:
    """One row per number of streams and server."""
    if not by_streams:
        return ""
    rows = [
        "| streams | | tok/s | ours / its | TTFT p50 / p99, ms | gap p50 / p99, ms | CPU s per 1,000 tokens |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for streams, result in by_streams.items():
        for name, row in sorted(result.items(), key=lambda item: [*_COLOURS].index(item[0])):
            times = [" / ".join(number(value) for value in row[key]) if key in row else "" for key in _TIMES]
            cpu = row.get("cpu_seconds_per_1000_tokens", {})
            total = number(sum(cpu.values())) if cpu else ""
            if name == OURS:
                total += f", outside the worker {row['cpu_outside_worker']:.3f}"
            lowest, highest = row["ours_to_this_range"]
            ratio = "" if name == OURS else f"{row['ours_to_this']:.2f} ({lowest:.2f} to {highest:.2f})"
            rate = f"{row['tokens_per_second']:,.0f}"
            rows.append(f"| {streams} | {name} | {rate} | {ratio} | {times[0]} | {times[1]} | {total} |")
    return "\n".join(rows)


_TIMES = ("ttft_ms", "gap_ms")


def embeddings_table(by_clients: dict[str, Any]) -> str:
    rows = [f"| clients | {OURS}, vectors/s | mlx_vlm.server | ours / its |", "| --- | --- | --- | --- |"]
    for clients, row in by_clients.items():
        rates = " | ".join(number(row["per_second"][name]) for name in (OURS, "mlx_vlm.server"))
        lowest, highest = row["ours_to_this_range"]
        rows.append(f"| {clients} | {rates} | {row['ours_to_this']:.2f} ({lowest:.2f} to {highest:.2f}) |")
    return "\n".join(rows) if by_clients else ""


def echo_table(by_streams: dict[str, dict[str, Any]] | None) -> str:
    if not by_streams:
        return ""
    roles = ("gateway", "broker", "worker")
    rows = [
        "| streams | tok/s | requests/s | gap p50 / p99, ms | µs of CPU per token: gateway, broker, worker |",
        "| --- | --- | --- | --- | --- |",
    ]
    for streams, row in by_streams.items():
        gaps = " / ".join(number(value) for value in row["gap_ms"])
        cpu = ", ".join(number(row["cpu_seconds_per_1000_tokens"][role] * 1000) for role in roles)
        rates = f"{row['tokens_per_second']:,.0f} | {row['requests_per_second']:,.0f}"
        rows.append(f"| {streams} | {rates} | {gaps} | {cpu} |")
    return "\n".join(rows)


def prefill_table(by_server: dict[str, dict[str, list[float]]]) -> str:
    if not by_server:
        return ""
    rows = [
        "| | streams, tok/s | kept beside the prompt | longest gap, s | TTFT alone, s | beside, s | times |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in by_server.items():
        rate, alone, beside, slower = (
            number(median(row[key])) for key in ("rate", "ttft_alone", "ttft_beside", "slower")
        )
        kept, gap = f"{median(row['rate_kept']) * 100:.0f} %", number(max(row["gap"]))
        rows.append(f"| {name} | {rate} | {kept} | {gap} | {alone} | {beside} | {slower} |")
    return "\n".join(rows)


def second_turn_table(figures: dict[str, list[float]]) -> str:
    labels = {
        "live": f"{OURS}, the process lives",
        "reading": "its files, read once in another process",
        "disk": f"{OURS}, killed, the prompt cache on disk",
        "without": f"{OURS}, killed, no cache on disk",
        "mlx_lm.server": "mlx_lm.server, started anew",
    }
    rows = ["| | first token, ms | from | to |", "| --- | --- | --- | --- |"]
    for what, label in labels.items():
        if values := figures.get(what):
            rows.append(f"| {label} | {number(median(values))} | {number(min(values))} | {number(max(values))} |")
    return "\n".join(rows) if figures else ""


def dialects_table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    if not figures:
        return ""
    rows = [
        "| dialect and streams | tok/s, its / chat's (quartiles) | TTFT, its - chat's, ms (quartiles) |",
        "| --- | --- | --- |",
    ]
    for name, figure in figures.items():
        ratio, first = (
            f"{spread['median']:.2f} ({spread['low']:.2f} to {spread['high']:.2f})"
            for spread in (figure["ratio"], figure["first_ms"])
        )
        rows.append(f"| {name} | {ratio} | {first} |")
    return "\n".join(rows)


def pss_table(figures: dict[str, float]) -> str:
    if not figures:
        return ""
    rows = ["| process | PSS after a minute, MiB |", "| --- | --- |"]
    parts = {"broker": "broker", "gateway": "gateway", "worker_over_weights": "a worker over its weights"}
    rows += [f"| {label} | {figures[name]:.0f} |" for name, label in parts.items()]
    return "\n".join(rows)


def memory_table(figures: dict[str, Any]) -> str:
    if "idle_clients_mib" not in figures:
        return ""
    rows = ["| process | RSS after the tables above, MiB | more with 1,000 idle clients, MiB |", "| --- | --- | --- |"]
    for role, more in figures["idle_clients_mib"].items():
        rows.append(f"| {role} | {figures['rss_mib'][role]:.0f} | {more:.1f} |")
    return "\n".join(rows)


def profile_table(by_role: dict[str, dict[str, float]]) -> str:
    if not by_role:
        return ""
    rows = ["| process | what its main thread does | µs per token |", "| --- | --- | --- |"]
    for role in ("worker", "broker", "gateway"):
        rows += [f"| {role} | {hop} | {number(value)} |" for hop, value in by_role[role].items()]
        rows.append(f"| {role} | all | {number(sum(by_role[role].values()))} |")
    return "\n".join(rows)


def chart(by_streams: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Bars of tokens per second as a share of the limit, by number of streams."""
    width, height, left, top, bar = 720, 300, 50, 40, 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 60}" font-family="sans-serif"',
        'font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="20" font-size="14">tokens per second, 100 % = BatchGenerator alone (tiny model)</text>',
    ]
    for percent in (0, 25, 50, 75, 100):
        y = top + (height - top) * (1 - percent / 110)
        parts.append(f'<path d="M{left} {y:.0f}H{width - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{percent} %</text>')
    for group, (streams, result) in enumerate(by_streams.items()):
        x = left + 20 + group * (bar * len(_COLOURS) + 40)
        for position, (name, colour) in enumerate(_COLOURS.items()):
            rate = result[name]["tokens_per_second"]
            size = (height - top) * rate / result[_LIMIT]["tokens_per_second"] / 1.1
            at = x + position * bar
            parts.append(
                f'<rect x="{at}" y="{height - size:.0f}" width="{bar - 4}" height="{size:.0f}" fill="{colour}"/>'
            )
            parts.append(
                f'<text x="{at + bar / 2 - 2}" y="{height - size - 4:.0f}" text-anchor="middle">{rate:,.0f}</text>'
            )
        label = f"{streams} stream{'s' if streams != '1' else ''}"
        parts.append(f'<text x="{x + bar * 2}" y="{height + 18}" text-anchor="middle">{label}</text>')
    for position, (name, colour) in enumerate(_COLOURS.items()):
        x = left + 20 + position * 150
        parts.append(f'<rect x="{x}" y="{height + 34}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{height + 45}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    main()
