"""What the broker looks after besides its peers: its place in the file system, whoever has started it, and that the
machine stays awake while there is work. Decides only whether the broker can go on.
"""

import logging
from collections.abc import Callable

from broker.processes.awake import Awake
from broker.runtime import RuntimeDir, RuntimeDirError

logger = logging.getLogger(__name__)


class Upkeep:
    """rebind: binds the socket of this endpoint again, raises OSError. has_lost_starter: whether the broker would run
    on without anybody who can see it. awake: keeps the machine awake. is_busy: whether there is work."""

    def __init__(
        self,
        runtime: RuntimeDir,
        rebind: Callable[[str], None],
        has_lost_starter: Callable[[], bool],
        awake: Awake,
        is_busy: Callable[[], bool],
    ) -> None:
        self._runtime = runtime
        self._rebind = rebind
        self._has_lost_starter = has_lost_starter
        self._awake = awake
        self._is_busy = is_busy
        self.failure: str | None = None

    def must_end(self) -> bool:
        """Whether the broker must end now; `failure` then says why, except after its starter. Call it about once a
        second."""
        self._awake.keep(self._is_busy())
        if self._has_lost_starter():
            logger.warning("what started it has gone: the broker ends")
            return True
        try:
            for endpoint in self._runtime.repair():
                # Peers that are connected go on by the old one.
                logger.warning("the socket %s has gone, and is made anew", endpoint.removeprefix("ipc://"))
                self._rebind(endpoint)
        except (RuntimeDirError, OSError) as error:
            self.failure = str(error)
            logger.error("the broker ends: %s", error)
            return True
        return False
