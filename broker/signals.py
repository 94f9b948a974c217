"""SIGTERM and SIGINT as a readable descriptor, so that the loop waits for them as for everything else."""

import signal
import socket
from types import FrameType


class Signals:
    """Takes both signals over until `close`."""

    def __init__(self) -> None:
        self._wakeup, self._readable = socket.socketpair()
        self._wakeup.setblocking(False)
        self._readable.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, _ignore) for number in (signal.SIGTERM, signal.SIGINT)}

    def fileno(self) -> int:
        """Readable when a signal has arrived: call `take`."""
        return self._readable.fileno()

    def take(self) -> None:
        """Forget the signals that have arrived."""
        self._readable.recv(64)

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._wakeup.close()
        self._readable.close()


def _ignore(number: int, frame: FrameType | None) -> None:
    """The byte that Python writes to the wakeup descriptor is enough."""
