"""Runs the programs that `doctor` asks: those of the system, and its own in cli/doctor/inside/, which import what this
process must not. Each has so many seconds, and nothing that it started is left afterwards.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

_SYSTEM_SECONDS = 5.0


class ProgramError(Exception):
    """A program did not answer. The message says what it said last."""


def output_of(command: Sequence[str]) -> str | None:
    """What a program of the system prints, in English; None if it is missing, fails or takes too long."""
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SYSTEM_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None


def own_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """In which this project's packages are found, wherever the command was started."""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, "PYTHONPATH": path, **(extra or {})}


def ask_inside(
    module: str, *arguments: str, seconds: float, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The JSON object that `cli.doctor.inside.<module>` prints. Raises ProgramError."""
    return last_json(
        [sys.executable, "-m", f"cli.doctor.inside.{module}", *arguments],
        seconds=seconds,
        environment=own_environment() if environment is None else environment,
    )


def last_json(command: Sequence[str], *, seconds: float, environment: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object in the last line that a program prints. Raises ProgramError."""
    code, out, err = run_in_group(command, seconds=seconds, environment=environment)
    with contextlib.suppress(ValueError, IndexError):
        answer = json.loads(out.splitlines()[-1])
        if isinstance(answer, dict):
            return answer
    raise ProgramError(last_line(err) or f"it ended with exit code {code} and said nothing")


def run_in_group(command: Sequence[str], *, seconds: float, environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr. The program leads a group of its own, all of which has ended afterwards, also after
    Ctrl-C. Raises ProgramError if it takes too long."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=dict(environment),
        process_group=0,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ProgramError(f"it did not end within {seconds:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, out, err


def last_line(text: str) -> str:
    """The last line that says something, in one line of a report."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
