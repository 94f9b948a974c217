"""The whole examination: asks the probes, runs the live checks in a service of its own, and leaves nothing behind."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from broker.wire.listening import holder_of
from cli.doctor.bounded import TooLongError, within
from cli.doctor.facts import Finding, FolderFacts, MachineReport, MlxFacts, Rating, ServiceFacts, SocketFacts
from cli.doctor.live import CHECKS, Check, Lab
from cli.doctor.own_service import OwnService, OwnServiceError, orderly_end, own_directory
from cli.doctor.probes import (
    Asks,
    limit_facts,
    memory_facts,
    port_user,
    power_facts,
    python_facts,
    socket_facts,
    system_facts,
    wired_bytes,
)
from cli.doctor.programs import ProgramError, ask_inside
from cli.doctor.subject import DEMO, TINY, choose
from cli.errors import CliError, ExitCode

PORTS = (8080, 11434)

_MLX_SECONDS = 60.0
_SETTINGS_SECONDS = 60.0
_BROKEN = "the check itself failed"

# Without these, no check of the service can run.
STARTS = ("start of the service", "start of a worker")

Say = Callable[[str], None]


@dataclass(slots=True, frozen=True)
class Examined:
    """What was found. names: of models that the texts may hold. told: what the live checks worked on."""

    machine: MachineReport
    live: list[Finding]
    names: list[str]
    told: str


def examine(*, checks: tuple[Check, ...], model: str, say: Say, asks: Asks | None = None) -> Examined:
    """checks: the live ones, which may be none. model: for these. say: tells what is being done."""
    asks = asks or Asks()
    with orderly_end():
        say("looking at this machine")
        machine = machine_report(asks)
        names = [name for name, _ in machine.service.broken]
        if model not in (DEMO, TINY):
            names.append(model)
        if not checks:
            return Examined(machine, [], names, "without live checks")
        live, told = _live(machine, checks, model, asks, say)
        return Examined(machine, live, names, told)


def machine_report(asks: Asks) -> MachineReport:
    """Whatever fails is a fact of its own."""
    mlx = _mlx()
    service, path_bytes, max_bytes = _service(mlx.working_set)
    sockets = (
        socket_facts(asks, Path(service.runtime_dir), path_bytes, max_bytes, time.time())
        if service.error is None
        else SocketFacts(0, 0)
    )
    return MachineReport(
        system=system_facts(asks),
        memory=memory_facts(asks),
        power=power_facts(asks),
        python=python_facts(),
        mlx=mlx,
        service=service,
        sockets=sockets,
        limits=limit_facts(),
        ports={port: port_user(asks, port, _calls_itself) for port in PORTS},
    )


def _mlx() -> MlxFacts:
    try:
        return MlxFacts(**ask_inside("metal", seconds=_MLX_SECONDS))
    except ProgramError as error:
        return MlxFacts(error=str(error))


def _service(working_set: int | None) -> tuple[ServiceFacts, int, int]:
    """With the length of the longest socket path, and the longest that is possible."""
    try:
        answer = ask_inside("settings", *([] if working_set is None else [str(working_set)]), seconds=_SETTINGS_SECONDS)
    except ProgramError as error:
        return ServiceFacts(error=str(error)), 0, 0
    if "error" in answer:
        return ServiceFacts(error=answer["error"], version=answer["version"]), 0, 0
    service = ServiceFacts(**answer["service"], version=answer["version"])
    folders = tuple(FolderFacts(**folder) for folder in answer["service"]["folders"])
    broken = tuple((name, reason) for name, reason in answer["service"]["broken"])
    return replace(service, folders=folders, broken=broken), answer["path_bytes"], answer["max_path_bytes"]


def _calls_itself(port: int) -> str | None:
    """What answers over HTTP on this port of this machine."""
    holder = holder_of("127.0.0.1", port)
    return None if holder is None else holder.removeprefix("another ")


# ---- live ------------------------------------------------------------------------------------------------------------


def chosen(only: str) -> tuple[Check, ...]:
    """The checks of these names, separated by commas, and the starts that they need; all for an empty text. Raises
    CliError."""
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    for name in wanted:
        if name not in {check.name for check in CHECKS}:
            names = "; ".join(check.name for check in CHECKS)
            raise CliError(f"--only must name live checks, and {name!r} is none. These are: {names}", ExitCode.USAGE)
    if not wanted:
        return CHECKS
    named = [check for check in CHECKS if check.name in wanted]
    starts = STARTS if any(check.needs_service for check in named) else ()
    return tuple(check for check in CHECKS if check in named or check.name in starts)


def _live(
    machine: MachineReport, checks: tuple[Check, ...], model: str, asks: Asks, say: Say
) -> tuple[list[Finding], str]:
    """The findings, and on what they were made."""
    if machine.service.error is not None or machine.mlx.error is not None:
        why = machine.service.error or machine.mlx.error or ""
        advice = "correct this first, and run doctor again"
        return [Finding("live checks", f"left out: {why}", Rating.FAILED, advice)], "without live checks"
    with own_directory() as directory:
        try:
            # Without a start nothing is asked of it: the demo model need not be prepared.
            starts = any(check.name in STARTS for check in checks)
            subject = choose(model if starts else TINY, machine.service, directory, say)
        except ProgramError as error:
            raise CliError(str(error), ExitCode.NO_MODEL) from error
        service = OwnService(directory, subject.models, subject.hub, _settings_for(machine.service))
        lab = Lab(service, subject.model, bool(machine.mlx.metal), lambda: wired_bytes(asks))
        try:
            return run_checks(lab, checks, say), subject.told if starts else "without a model"
        finally:
            service.stop()


def _settings_for(user: ServiceFacts) -> dict[str, Any]:
    """Of the broker; what the user has chosen about the machine holds for it, too."""
    chosen = {"warm_spares": 1, "wired_memory": user.wired_memory, "prefill_in_turns": user.prefill_in_turns}
    return chosen | ({"blas_library": user.blas_library} if user.blas_library else {})


def run_checks(lab: Lab, checks: tuple[Check, ...], say: Say) -> list[Finding]:
    """One after the other. After a failed start, what needs the service is left out."""
    findings, is_up = list[Finding](), True
    for check in checks:
        if check.needs_service and not is_up:
            continue
        began = time.monotonic()
        finding = _one(lab, check)
        if finding is None:
            continue
        say(f"{check.name}: {finding.rating}, {time.monotonic() - began:.1f} s")
        findings.append(finding)
        if check.name in STARTS and finding.rating is Rating.FAILED:
            is_up = False
    return findings


def _one(lab: Lab, check: Check) -> Finding | None:
    try:
        with within(check.seconds):
            return check.run(lab)
    except (TooLongError, CliError, ProgramError, OwnServiceError) as error:
        return Finding(check.name, str(error), Rating.FAILED, "please report this with the lines above")
    except (OSError, LookupError, TypeError, ValueError) as error:  # a check must not end the others
        return Finding(check.name, f"{_BROKEN}: {type(error).__name__}: {error}", Rating.FAILED, "please report this")


def home() -> str:
    """Of the user who runs this."""
    return os.path.expanduser("~")  # noqa: PTH111 # Path's own raises for a user without one
