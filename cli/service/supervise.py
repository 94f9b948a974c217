"""Runs broker and gateway, as honcho does for `make run`, and ends both when one of them ends.

Not honcho's Manager: it starts a shell and a helper process for each of the two, reads every line to print it with a
prefix, and looks for news ten times a second. Here both write to this process's own streams, so that a terminal stays a
terminal, and this process sleeps until a child or a signal wakes it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType

from broker.wire.parents import SERVE_PID
from cli.output import note

_KILL_SECONDS = 5.0  # between SIGTERM and SIGKILL, as with honcho
_NAMES = ("broker", "gateway")
_ROOT = Path(__file__).resolve().parents[2]


def environment_of(variables: Mapping[str, str]) -> dict[str, str]:
    """For the processes of an installed command. Safe path: a folder `worker` where somebody types the command must not
    be taken for the package."""
    kept = {name: value for name, value in variables.items() if name != "HONCHO_PROCESS_NAME"}
    path = os.pathsep.join(filter(None, (str(_ROOT), variables.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


class Pair:
    """Two processes and the signals of this one."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = {**environment_of(variables), SERVE_PID: str(os.getpid())}
        self._running: dict[int, str] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._asked = 0

    def run(self) -> int:
        """Until both have ended. 0 after SIGTERM, SIGINT or SIGHUP; else the exit code of the first that ended, which
        is an error."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, lambda _number, _frame: self._send(signal.SIGKILL))
        for name in _NAMES:
            # Sessions of their own: Ctrl-C reaches this process alone, and Linux shares the processor by session.
            command = [sys.executable, "-m", name]
            process = subprocess.Popen(command, env=self._variables, stdin=subprocess.DEVNULL, start_new_session=True)
            self._processes.append(process)
            self._running[process.pid] = name
        code = self._wait()
        return 0 if self._asked else code

    def _wait(self) -> int:
        first: int | None = None
        while self._running:
            pid, status = os.wait()
            if pid not in self._running:
                continue
            name = self._running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if first is None:
                first = code if 0 < code < 126 else 1
                if not self._asked and self._running:
                    note(f"mlx-broker: the {name} has ended ({_ending(code)}), so everything ends")
                self._send(signal.SIGTERM)
                signal.setitimer(signal.ITIMER_REAL, _KILL_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 0)
        return first or 0

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        """The gateway first, which ends its streams while there is a broker to cancel them; a second time kills."""
        self._asked += 1
        if self._asked == 1:
            self._send(signal.SIGTERM, *[pid for pid, name in self._running.items() if name == "gateway"])
        else:
            self._send(signal.SIGKILL)
        signal.setitimer(signal.ITIMER_REAL, _KILL_SECONDS)

    def _send(self, number: signal.Signals, *to: int) -> None:
        """To these, or to all."""
        for pid in to or list(self._running):  # not Popen's own way, which may take the exit away from os.wait
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
