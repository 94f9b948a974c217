"""Keeps a Mac from falling asleep while the broker has work: by a process of the system's own `caffeinate`, which lives
as long as the work and no longer than the broker.
"""

import logging
import subprocess
from collections.abc import Sequence

logger = logging.getLogger(__name__)


def caffeinate(platform: str, broker_pid: int) -> list[str] | None:
    """The command that prevents idle sleep until this process has gone, where there is one. The display may sleep."""
    return ["/usr/bin/caffeinate", "-i", "-w", str(broker_pid)] if platform == "darwin" else None


class Awake:
    """command: its process keeps the machine awake while it lives; None: nothing does."""

    def __init__(self, command: Sequence[str] | None) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def keep(self, is_busy: bool) -> None:
        """Call it about once a second."""
        if not is_busy:
            self.close()
        elif self._command is not None and (self._process is None or self._process.poll() is not None):
            try:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            except OSError as error:
                logger.warning("nothing keeps this machine awake: %s", error)
                self._command = None

    def close(self) -> None:
        """Let the machine sleep."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
