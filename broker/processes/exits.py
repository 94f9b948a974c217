"""Tells when child processes exit: a pidfd in an epoll set on Linux, a kqueue on macOS. Never by polling.

Reaping is left to the caller.
"""

import os
import select
import sys
from typing import Any, Protocol


class ExitWatcher(Protocol):
    """Readable when a child exits."""

    def fileno(self) -> int: ...

    def add(self, pid: int) -> None:
        """Watch this child, which may have exited already. Raises OSError."""

    def take(self) -> list[int]:
        """The pids of children that have exited since the last call."""

    def close(self) -> None: ...


class KqueueWatcher:
    """system: the module `select` of macOS."""

    def __init__(self, system: Any) -> None:
        self._system = system
        self._kqueue = system.kqueue()

    def fileno(self) -> int:
        return int(self._kqueue.fileno())

    def add(self, pid: int) -> None:
        system = self._system
        flags = system.KQ_EV_ADD | system.KQ_EV_ONESHOT
        try:
            self._kqueue.control([system.kevent(pid, system.KQ_FILTER_PROC, flags, system.KQ_NOTE_EXIT)], 0)
        except ProcessLookupError:
            # Dead already, and a zombie cannot be registered: a timer of 0 ms under the same ident reports it.
            self._kqueue.control([system.kevent(pid, system.KQ_FILTER_TIMER, flags, 0, 0)], 0)

    def take(self) -> list[int]:
        return [event.ident for event in self._kqueue.control([], 64, 0)]

    def close(self) -> None:
        self._kqueue.close()


if sys.platform != "darwin":

    class PidfdWatcher:
        """An epoll set of pidfds."""

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self._pids: dict[int, int] = {}

        def fileno(self) -> int:
            return self._epoll.fileno()

        def add(self, pid: int) -> None:
            pidfd = os.pidfd_open(pid)
            self._pids[pidfd] = pid
            self._epoll.register(pidfd, select.EPOLLIN)

        def take(self) -> list[int]:
            pids = []
            for pidfd, _ in self._epoll.poll(0):
                self._epoll.unregister(pidfd)
                os.close(pidfd)
                pids.append(self._pids.pop(pidfd))
            return pids

        def close(self) -> None:
            for pidfd in self._pids:
                os.close(pidfd)
            self._epoll.close()


def exit_watcher() -> ExitWatcher:
    """The one for this system."""
    if sys.platform == "darwin":
        return KqueueWatcher(select)
    else:  # noqa: RET505 # mypy checks one branch for each system
        return PidfdWatcher()
