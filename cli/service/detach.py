"""Starts `mlx-broker serve` without a terminal, and waits until it answers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cli.errors import CliError
from cli.gateway import Gateway
from cli.output import note
from cli.service.place import ServicePlace
from cli.service.supervise import environment_of

START_SECONDS = 60.0
_TAIL_LINES = 15
_ASK_SECONDS = 3.0
_PAUSE_SECONDS = 0.05


def detach(place: ServicePlace, variables: Mapping[str, str]) -> int:
    """The process id of a `serve` whose service is healthy. Raises CliError, and leaves nothing running then."""
    process = _start(place.log, variables)
    try:
        _wait_until_healthy(place, process)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return process.pid


def _start(log: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            log.replace(log.with_name(f"{log.name}.1"))
        output = open(log, "xb", opener=_for_its_owner)  # noqa: SIM115 -- closed below
    except OSError as error:
        raise CliError(f"{log} cannot be written: {error.strerror}") from error
    # A session without a terminal, and deaf to the SIGHUP that others may send: what is ignored stays so in a child.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with output:
            return subprocess.Popen(
                [sys.executable, "-m", "cli", "serve", f"--log={log}"],
                env=environment_of(variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    finally:
        signal.signal(signal.SIGHUP, before)


def _for_its_owner(path: str, flags: int) -> int:
    """On the level `debug`, logs may quote requests."""
    return os.open(path, flags, 0o600)


def _wait_until_healthy(place: ServicePlace, process: subprocess.Popen[bytes]) -> None:
    gateway = Gateway(place.url, timeout=_ASK_SECONDS)
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(CliError):
            gateway.get("/health")
            return
        if process.poll() is not None:
            raise _failed(place.log, f"the service has ended with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise _failed(place.log, f"the service does not answer at {place.url} after {START_SECONDS:.0f} s")
        time.sleep(_PAUSE_SECONDS)


def _failed(log: Path, what: str) -> CliError:
    """Shows the end of the log before the line."""
    with suppress(OSError):
        for text in log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]:
            note(text)
    return CliError(f"{what}: the lines above are the end of {log}")
