"""`doctor`: checks this machine, and prints a report to paste into an issue."""

import time
from dataclasses import asdict, replace
from typing import Annotated

import typer

from cli.doctor.examine import Examined, chosen, examine, home
from cli.doctor.facts import Finding, MachineReport, Rating
from cli.doctor.privacy import Privacy
from cli.doctor.report import report, worst
from cli.doctor.subject import DEMO, TINY
from cli.doctor.verdicts import findings_of
from cli.errors import ExitCode
from cli.options import AsJson
from cli.output import line, note, print_json

Quick = Annotated[bool, typer.Option("--quick", help="Leave out the live checks, which take about a minute.")]
Only = Annotated[str, typer.Option("--only", metavar="CHECKS", help="Live checks by their names, separated by commas.")]
Named = Annotated[bool, typer.Option("--models", help="Tell the names of models.")]
Checked = Annotated[
    str,
    typer.Option(
        "--model", metavar="MODEL", help=f"With which the live checks run; {TINY!r} is one that doctor makes."
    ),
]


def command(
    quick: Quick = False, only: Only = "", models: Named = False, model: Checked = DEMO, as_json: AsJson = False
) -> None:
    """Check this machine and print a report to paste into an issue. Touches no model that runs."""
    began = time.monotonic()
    examined = examine(checks=() if quick else chosen(only), model=model, say=note)
    seconds = time.monotonic() - began
    privacy = Privacy(home(), [] if models else examined.names, paths_of(examined.machine))
    machine = [private(privacy, finding) for finding in findings_of(examined.machine)]
    live = [private(privacy, finding) for finding in examined.live]
    result = worst([*machine, *live])
    at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    if as_json:
        told = {
            "version": examined.machine.service.version,
            "at": at,
            "seconds": seconds,
            "result": result,
            "checked": examined.told,
            "facts": asdict(examined.machine),
            "findings": [asdict(finding) for finding in machine],
            "live": [asdict(finding) for finding in live],
        }
        print_json(privacy.value(told))
    else:
        line(report(privacy.text(title(examined, at, seconds)), machine, live))
    if result is Rating.FAILED:
        raise typer.Exit(ExitCode.FAILED)


def title(examined: Examined, at: str, seconds: float) -> str:
    """What was checked, when, and with what."""
    return f"mlx-broker {examined.machine.service.version}, {at}, {seconds:.0f} s, {examined.told}"


def private(privacy: Privacy, finding: Finding) -> Finding:
    """Without what concerns nobody else."""
    return replace(finding, found=privacy.text(finding.found), advice=privacy.text(finding.advice))


def paths_of(machine: MachineReport) -> list[str]:
    """Those that the report names."""
    folders = [folder.path for folder in machine.service.folders]
    return [path for path in (*folders, machine.service.runtime_dir, machine.python.path) if path]
