"""`python -m cli.doctor.inside.exits`: whether this system tells of exits as broker/processes/exits.py needs it, as
one line of JSON: milliseconds from the exit to the notice, None if none came.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

from broker.processes.exits import exit_watcher

_NOTICE_SECONDS = 3.0
_STATE = ("/bin/ps", "-o", "stat=", "-p")


def before_registration() -> float | None:
    """Of a child that has exited before it is watched."""
    child = subprocess.Popen(["/bin/sh", "-c", "exit 3"])
    _wait_for_zombie(child.pid)
    return _noticed(child, lambda: None)


def after_registration() -> float | None:
    """Of a child that is killed while it is watched."""
    child = subprocess.Popen(["/bin/sh", "-c", "exec sleep 5"])
    return _noticed(child, child.kill)


def _noticed(child: "subprocess.Popen[bytes]", end: Any) -> float | None:
    watcher = exit_watcher()
    try:
        watcher.add(child.pid)
        began = time.monotonic()
        end()
        while (left := began + _NOTICE_SECONDS - time.monotonic()) > 0:
            if select.select([watcher], [], [], left)[0] and child.pid in watcher.take():
                return (time.monotonic() - began) * 1000
        return None
    finally:
        child.kill()
        child.wait()
        watcher.close()


def _wait_for_zombie(pid: int) -> None:
    """Returns when this child has exited; it is not reaped."""
    deadline = time.monotonic() + _NOTICE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # a system without ps waits in vain, which is as good
            state = subprocess.run([*_STATE, str(pid)], capture_output=True, text=True, check=False)
            if state.stdout.strip().startswith("Z"):
                return
        time.sleep(0.005)


def group_kill() -> float | None:
    """From the kill of a group until the child of the child has gone, too: it holds the other end of a pipe."""
    reader, writer = os.pipe()
    script = "sleep 5 & echo started; wait"
    child = subprocess.Popen(["/bin/sh", "-c", script], process_group=0, pass_fds=(writer,), stdout=subprocess.PIPE)
    os.close(writer)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        began = time.monotonic()
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if not select.select([reader], [], [], _NOTICE_SECONDS)[0]:
            return None
        return (time.monotonic() - began) * 1000 if os.read(reader, 1) == b"" else None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        os.close(reader)


if __name__ == "__main__":
    answer = {"before": before_registration(), "after": after_registration(), "group": group_kill()}
    sys.stdout.write(json.dumps(answer) + "\n")
