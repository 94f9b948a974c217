"""Results -> docs/benchmarks.md (its tables, between marks) and docs/benchmarks.svg. `python -m bench.report`.

The prose of the document is written by hand and stays. This file measures nothing and judges nothing.
"""

import re
from statistics import median
from typing import Any

from bench.results import read
from bench.servers import OURS
from tests.service import ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"
CHART = ROOT / "docs" / "benchmarks.svg"

_LIMIT = "limit"
_CHART_LINK = f"![tokens per second as a share of the limit]({CHART.name})"
_COLOURS = {_LIMIT: "#b0b0b0", OURS: "#1f6feb", "mlx_lm.server": "#d98c00", "mlx_vlm.server": "#8a63d2"}
_RECOVERY_ROWS = (
    ("deaths_warm", "error", "error reaches the client of a killed worker", "ms", "50"),
    ("deaths_warm", "again", "killed model answers again, warm spare", "ms", "250"),
    ("deaths_cold", "again", "killed model answers again, no spare", "ms", "2,000"),
    ("pauses_warm", "quiet", "longest gap of a stream of 128 tokens whose worker lives", "ms", ""),
    ("pauses_warm", "killed", "the same, its worker is killed in the middle, warm spare", "ms", "150"),
    ("pauses_cold", "killed", "the same, no spare", "ms", ""),
    ("hangs", "stopped", "the same, its worker is stopped: found after 10 s without heartbeat", "ms", ""),
    ("loads_warm", "first", "first answer of a model not loaded, warm spare", "ms", "150"),
    ("loads_cold", "first", "first answer of a model not loaded, no spare", "ms", ""),
    ("smol", "over", "SmolLM2 not loaded: over loading and answering with imports done", "ms", "300"),
    ("neighbour_warm", "median", "B's median gap", "ms", ""),
    ("neighbour_warm", "quiet", "B's longest gap in a second in which nothing happens", "ms", ""),
    ("neighbour_warm", "death", "B's longest gap while A dies and reloads, spare refilled", "ms", "60"),
    ("neighbour_warm", "load", "B's longest gap while C is loaded, spare refilled", "ms", "60"),
    ("neighbour_cold", "death", "the same without a spare, A dies", "ms", ""),
    ("neighbour_cold", "load", "the same without a spare, C is loaded", "ms", ""),
    ("sampling", "cost", "memory samples of 8 idle workers", "% of a core", "0.5"),
    ("sampling", "with", "the broker as a whole meanwhile", "% of a core", ""),
)


def main() -> None:
    recovery, throughput = read("recovery"), read("throughput")
    document = DOCUMENT.read_text()
    tables = {
        "machine": machine(throughput | {"began_busy": recovery["began_busy"] + throughput["began_busy"]}),
        "recovery": recovery_table(recovery["figures"]),
        "tiny": f"{comparison(throughput['figures']['tiny'])}\n\n{_CHART_LINK}",
        "connected": comparison(throughput["figures"]["connected"]),
        "two_models": comparison(throughput["figures"]["two_models"]),
        "smol": comparison(throughput["figures"]["smol"]),
        "echo": echo_table(throughput["figures"]["echo"]),
        "memory": memory_table(throughput["figures"]),
        "prefill": prefill_table(read("prefill")["figures"]),
        "dialects": dialects_table(read("dialects")["figures"]),
        "profile": profile_table(read("profile")["figures"]),
    }
    for name, table in tables.items():
        if table:  # a table without new figures stays as it was
            pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
            filled = rf"\g<1>{table}\n\g<2>"
            document, found = re.subn(pattern, filled, document, flags=re.DOTALL)
            assert found == 1, f"{DOCUMENT} has no place for {name}"
    DOCUMENT.write_text(document)
    CHART.write_text(chart(throughput["figures"]["tiny"]))
    print(f"{DOCUMENT}\n{CHART}")


def machine(result: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in result["packages"].items())
    busy = result["began_busy"]
    beside = f" {busy} measurements began beside other work: not to be trusted." if busy else ""
    return f"{result['date']}; {result['machine']}, no GPU; Python {result['python']}; {packages}.{beside}"


def recovery_table(figures: dict[str, Any]) -> str:
    smol, sampling = figures["smol"], figures["sampling"]
    smol["over"] = [ours - least for ours, least in zip(smol["whole"], smol["least_whole"], strict=True)]
    sampling["cost"] = [w - wo for w, wo in zip(sampling["with"], sampling["without"], strict=True)]
    rows = ["| | median | from | to | target | |", "| --- | --- | --- | --- | --- | --- |"]
    for name, what, label, unit, target in _RECOVERY_ROWS:
        if name not in figures:  # measured before there was such a row
            continue
        values = figures[name][what]
        numbers = " | ".join(_number(value) for value in (median(values), min(values), max(values)))
        rows.append(f"| {label} | {numbers} | {f'< {target}' if target else ''} | {unit} |")
    return "\n".join(rows)


def comparison(by_streams: dict[str, dict[str, dict[str, Any]]]) -> str:
    """One row per number of streams and server; empty without figures."""
    rows = [
        "| streams | | tok/s | ours / its | TTFT p50 / p99, ms | gap p50 / p99, ms | CPU s per 1,000 tokens |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for streams, result in by_streams.items():
        for name, row in sorted(result.items(), key=lambda item: [*_COLOURS].index(item[0])):
            times = [" / ".join(_number(value) for value in row[key]) if key in row else "" for key in _TIMES]
            cpu = row.get("cpu_seconds_per_1000_tokens", {})
            total = _number(sum(cpu.values())) if cpu else ""
            if name == OURS:
                total += f", outside the worker {row['cpu_outside_worker']:.3f}"
            lowest, highest = row["ours_to_this_range"]
            ratio = "" if name == OURS else f"{row['ours_to_this']:.2f} ({lowest:.2f} to {highest:.2f})"
            rate = f"{row['tokens_per_second']:,.0f}"
            rows.append(f"| {streams} | {name} | {rate} | {ratio} | {times[0]} | {times[1]} | {total} |")
    return "\n".join(rows) if by_streams else ""


_TIMES = ("ttft_ms", "gap_ms")


def echo_table(by_streams: dict[str, dict[str, Any]]) -> str:
    roles = ("gateway", "broker", "worker")
    rows = [
        "| streams | tok/s | requests/s | gap p50 / p99, ms | µs of CPU per token: gateway, broker, worker |",
        "| --- | --- | --- | --- | --- |",
    ]
    for streams, row in by_streams.items():
        gaps = " / ".join(_number(value) for value in row["gap_ms"])
        cpu = ", ".join(_number(row["cpu_seconds_per_1000_tokens"][role] * 1000) for role in roles)
        rates = f"{row['tokens_per_second']:,.0f} | {row['requests_per_second']:,.0f}"
        rows.append(f"| {streams} | {rates} | {gaps} | {cpu} |")
    return "\n".join(rows)


def prefill_table(by_server: dict[str, dict[str, list[float]]]) -> str:
    rows = [
        "| | streams, tok/s | kept beside the prompt | longest gap, s | TTFT alone, s | beside, s | times |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in by_server.items():
        rate, alone, beside, slower = (
            _number(median(row[key])) for key in ("rate", "ttft_alone", "ttft_beside", "slower")
        )
        kept, gap = f"{median(row['rate_kept']) * 100:.0f} %", _number(max(row["gap"]))
        rows.append(f"| {name} | {rate} | {kept} | {gap} | {alone} | {beside} | {slower} |")
    return "\n".join(rows)


def dialects_table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
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


def memory_table(figures: dict[str, Any]) -> str:
    rows = ["| process | RSS after the tables above, MiB | more with 1,000 idle clients, MiB |", "| --- | --- | --- |"]
    for role, more in figures["idle_clients_mib"].items():
        rows.append(f"| {role} | {figures['rss_mib'][role]:.0f} | {more:.1f} |")
    return "\n".join(rows)


def profile_table(by_role: dict[str, dict[str, float]]) -> str:
    rows = ["| process | what its main thread does | µs per token |", "| --- | --- | --- |"]
    for role in ("worker", "broker", "gateway"):
        rows += [f"| {role} | {hop} | {_number(value)} |" for hop, value in by_role[role].items()]
        rows.append(f"| {role} | all | {_number(sum(by_role[role].values()))} |")
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


def _number(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
