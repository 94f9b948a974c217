"""The report as people paste it: markdown that reads well as plain text. Pure."""

from collections.abc import Iterable, Sequence

from cli.doctor.facts import Finding, Rating
from cli.text import shown

_SIGNS = {Rating.FACT: "", Rating.OK: "ok", Rating.WARNING: "warning", Rating.FAILED: "failed"}
# A cell beyond this is not padded: one long line must not stretch the others.
_WIDEST = 60


def report(title: str, machine: Sequence[Finding], live: Sequence[Finding]) -> str:
    """Both tables, then what to do. title: what was checked, when, with which version."""
    parts = [f"# mlx-broker doctor\n\n{title}\n\n## Machine\n\n{_table(machine)}"]
    if live:
        parts.append(f"## Live checks\n\n{_table(live)}")
    parts.append(f"## What to do\n\n{_advice([*machine, *live])}")
    return "\n\n".join(parts)


def worst(findings: Iterable[Finding]) -> Rating:
    """FAILED if one has failed, else WARNING if one warns, else OK."""
    ratings = {finding.rating for finding in findings}
    return next((rating for rating in (Rating.FAILED, Rating.WARNING) if rating in ratings), Rating.OK)


def _table(findings: Sequence[Finding]) -> str:
    rows = [("", "what", "found"), *((_SIGNS[f.rating], _cell(f.name), _cell(f.found)) for f in findings)]
    widths = [max(min(len(cell), _WIDEST) for cell in column) for column in zip(*rows, strict=True)]
    lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    lines.insert(1, "| " + " | ".join("-" * max(width, 3) for width in widths) + " |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """One line, in which markdown sees no other cell."""
    return shown(" ".join(text.split())).replace("|", "\\|").replace("<", "&lt;")


def _advice(findings: Sequence[Finding]) -> str:
    told = [finding for finding in findings if finding.advice]
    order = list(_SIGNS)[::-1]
    lines = [
        f"- {f'{_SIGNS[f.rating]}, ' if _SIGNS[f.rating] else ''}{f.name}: {_cell(f.advice)}"
        for f in sorted(told, key=lambda finding: order.index(finding.rating))
    ]
    return "\n".join(lines) if lines else "Nothing: all is well."
