"""Runs a client program with an empty home and a clean environment, and watches every connection that it opens."""

import os
import re
import subprocess
from pathlib import Path

_ADDRESS = re.compile(r'(?:sin_addr=inet_addr\("|inet_pton\(AF_INET6, ")([^"]+)"')
_LOOPBACK = re.compile(r"127\.|::1$|::ffff:127\.")


class ConnectionBeyondLoopbackError(AssertionError):
    """The program has tried to reach something that is not this machine."""


def run_confined(
    command: list[str], folder: Path, environment: dict[str, str], text: str = "", seconds: float = 90
) -> str:
    """The program's output, both streams. folder: its home and its working folder are in it. text: for its input.

    Raises CalledProcessError, TimeoutExpired, and ConnectionBeyondLoopbackError: also for names that it looks up.
    """
    home, work, trace = folder / "home", folder / "work", folder / "connections"
    home.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    clean = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "NO_COLOR": "1", **environment}
    watched = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-e", "signal=none"]
    done = subprocess.run(
        [*watched, "-o", str(trace), *command],
        cwd=work,
        env=clean,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    beyond = {a for a in _ADDRESS.findall(trace.read_text(errors="replace")) if not _LOOPBACK.match(a)}
    if beyond:
        raise ConnectionBeyondLoopbackError(f"{command[0]} reached for {', '.join(sorted(beyond))}\n{done.stdout}")
    done.check_returncode()
    return done.stdout
