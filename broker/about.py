"""What this broker is, for people who look after it: its version, machine and settings. Decides nothing."""

import os
import time
from collections.abc import Callable
from typing import Any

from broker.processes.system import System
from broker.settings import BrokerSettings
from broker.wire.version import VERSION


class About:
    """settings: says those in force; none of them is a secret."""

    def __init__(self, settings: Callable[[], BrokerSettings], system: System) -> None:
        self._settings = settings
        self._system = system
        self._started_at = time.time()

    def status(self) -> dict[str, Any]:
        """Its part of the FINAL of STATUS."""
        return {
            "machine_total_bytes": self._system.total_bytes,
            "machine_available_bytes": self._system.available_bytes,
            "started_at": self._started_at,
            "version": VERSION,
        }

    def whole(self, working_set_bytes: int | None) -> dict[str, Any]:
        """The FINAL of DESCRIBE. working_set_bytes: what Metal may use, None while no process has said it."""
        has_metal = None if self._system.has_metal and not working_set_bytes else self._system.has_metal
        return {
            "version": VERSION,
            "pid": os.getpid(),
            "started_at": self._started_at,
            "has_metal": has_metal,
            "settings": self._settings().shown(),
        }
