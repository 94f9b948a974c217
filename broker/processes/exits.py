"""Tells when child processes exit: a pidfd in an epoll set on Linux, a kqueue on macOS. Never by polling.

Both have the same four methods. Reaping is left to the caller.
"""

import os
import select
import sys

if sys.platform == "darwin":

    class ExitWatcher:
        """A kqueue that becomes readable when a child exits."""

        def __init__(self) -> None:
            self._kqueue = select.kqueue()

        def fileno(self) -> int:
            return self._kqueue.fileno()

        def add(self, pid: int) -> None:
            flags = select.KQ_EV_ADD | select.KQ_EV_ONESHOT
            try:
                self._kqueue.control([select.kevent(pid, select.KQ_FILTER_PROC, flags, select.KQ_NOTE_EXIT)], 0)
            except ProcessLookupError:
                # Dead already, and a zombie cannot be registered: a timer of 0 ms under the same ident reports it.
                self._kqueue.control([select.kevent(pid, select.KQ_FILTER_TIMER, flags, 0, 0)], 0)

        def take(self) -> list[int]:
            return [event.ident for event in self._kqueue.control([], 64, 0)]

        def close(self) -> None:
            self._kqueue.close()

else:

    class ExitWatcher:
        """An epoll set of pidfds: readable when a child exits."""

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
