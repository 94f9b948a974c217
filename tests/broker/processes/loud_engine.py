"""An engine that never gets to serve: while it loads it does what its options say, as a broken library would.

lines N             prints N lines to stderr
text STRING         prints this, without an end of line
mute                closes stdout and stderr
child FILE          starts a process that sleeps and holds the pipe; its pid goes into FILE
detached            the child leads a session of its own, out of reach of a kill of the group
exit CODE           ends the process at once, without any cleaning up

Without `exit` it hangs afterwards. Named in ASSIGN as `tests.broker.processes.loud_engine:LoudEngine`.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

from broker.wire.to_workers import Assign
from worker.echo.engine import EchoEngine
from worker.engine import Report


class LoudEngine(EchoEngine):
    """See the top of this file."""

    def __init__(self, assign: Assign, report: Report) -> None:
        super().__init__(assign, report)
        options = assign.options
        for n in range(options.get("lines", 0)):
            sys.stderr.write(f"line {n}\n")
        sys.stderr.write(options.get("text", ""))
        sys.stderr.flush()
        if path := options.get("child"):
            child = subprocess.Popen(
                [sys.executable, "-S", "-c", "import time; time.sleep(600)"],
                start_new_session=options.get("detached", False),
            )
            Path(path).with_suffix(".new").write_text(str(child.pid))
            Path(path).with_suffix(".new").rename(path)
        if options.get("mute"):
            os.close(1)
            os.close(2)
        if "exit" in options:
            os._exit(options["exit"])
        threading.Event().wait()
