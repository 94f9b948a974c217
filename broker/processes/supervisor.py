"""Starts and kills worker processes, reads what they print, and reports each exit once. Decides nothing.

Every worker leads a process group of its own: a kill takes its children along, and a terminal's Ctrl-C does not reach
it. No session of its own: Linux may share out processor time by session, and then the I/O threads of a worker would pay
for its compute threads (worker/process/priority.py). Its stdin is a pipe that is never written: end of file there tells
the worker that the broker has died. Its stdout and stderr are one pipe, read here, so that no orphan can
hold a pipe of whoever started the broker.

Exits come from the kernel (a pidfd in an epoll set, or a kqueue), never from polling; reading to the end of the pipe is
no exit notice, because a grandchild may hold it open.
"""

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from broker.policy.specs import Exit

logger = logging.getLogger(__name__)

TAIL_LINES = 20
_TAIL_LINE_CHARS = 500
_READ_BYTES = 65536
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class _Child:
    worker_id: str
    process: subprocess.Popen[bytes]
    output_fd: int
    partial_line: bytes = b""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    output_open: bool = True


class Supervisor:
    """Worker processes by worker id. `exits_fd` and `output_fds` are to be polled; each says what to call then."""

    def __init__(self, endpoint: str, heartbeat_interval: float) -> None:
        self._endpoint = endpoint
        self._heartbeat_interval = heartbeat_interval
        self._children: dict[str, _Child] = {}
        self._exits = _ExitWatcher()

    def start(self, worker_id: str, *options: str) -> int:
        """Start one worker with these options of its command line; its pid. Raises OSError when the system refuses."""
        command = [sys.executable, "-m", "worker", "--endpoint", self._endpoint, "--worker-id", worker_id]
        command += ["--parent-pid", str(os.getpid()), "--heartbeat-interval", str(self._heartbeat_interval)]
        process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_python_path()), "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        output_fd = process.stdout.fileno()
        os.set_blocking(output_fd, False)
        child = self._children[worker_id] = _Child(worker_id, process, output_fd)
        try:
            self._exits.add(process.pid)
        except OSError:  # no descriptor is left for it: what cannot be watched must not run
            self.kill(worker_id)
            process.wait()
            self._close(child)
            del self._children[worker_id]
            raise
        return process.pid

    def kill(self, worker_id: str) -> None:
        """SIGKILL to the worker's process group. Does nothing if it has exited already."""
        child = self._children.get(worker_id)
        if child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)

    def pids(self) -> dict[str, int]:
        """The pid of every worker that has not been reported as exited."""
        return {worker_id: child.process.pid for worker_id, child in self._children.items()}

    @property
    def exits_fd(self) -> int:
        """Readable when a worker has exited: call `take_exits`."""
        return self._exits.fileno()

    @property
    def output_fds(self) -> dict[int, str]:
        """Readable when a worker has printed something: call `read_output` with its worker id."""
        return {child.output_fd: child.worker_id for child in self._children.values() if child.output_open}

    def take_exits(self) -> list[tuple[str, Exit]]:
        """Reap what has exited: (worker id, how), each worker once."""
        exits = []
        for pid in self._exits.take():
            child = next(c for c in self._children.values() if c.process.pid == pid)
            # While the leader is a zombie its group id cannot be taken by a stranger; afterwards it can.
            self.kill(child.worker_id)
            code = child.process.wait()
            self.read_output(child.worker_id)
            _keep(child, child.partial_line)  # last words may lack their end of line
            self._close(child)
            del self._children[child.worker_id]
            exits.append((child.worker_id, _exit_of(code, "\n".join(child.tail))))
        return exits

    def read_output(self, worker_id: str) -> None:
        """Log what the worker has printed and keep the last lines."""
        child = self._children[worker_id]
        try:
            data = os.read(child.output_fd, _READ_BYTES)
        except BlockingIOError:
            return
        child.output_open = bool(data)
        *lines, partial_line = (child.partial_line + data).split(b"\n")
        # A progress bar is one line without end: of that the last part is enough.
        child.partial_line = partial_line[-_TAIL_LINE_CHARS:]
        for line in lines:
            _keep(child, line)

    def close(self) -> None:
        """Kill and reap whatever is left."""
        for child in self._children.values():
            self.kill(child.worker_id)
            child.process.wait()
            self._close(child)
        self._children.clear()
        self._exits.close()

    @staticmethod
    def _close(child: _Child) -> None:
        for pipe in (child.process.stdin, child.process.stdout):
            if pipe is not None:
                pipe.close()


def _keep(child: _Child, line: bytes) -> None:
    """Log one line, as a terminal would show it after its carriage returns, and keep it."""
    text = line.decode(errors="replace").rstrip().rpartition("\r")[2][:_TAIL_LINE_CHARS]
    if text:
        child.tail.append(text)
        logger.info("%s: %s", child.worker_id, text)


def _exit_of(code: int, tail: str) -> Exit:
    """Popen's return code as code or signal name."""
    if code >= 0:
        return Exit(code, None, time.time(), tail)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"SIG{-code}"
    return Exit(None, name, time.time(), tail)


def _python_path() -> list[str]:
    """The checkout first, so that `-m worker` finds the package wherever the broker was started."""
    inherited = os.environ.get("PYTHONPATH")
    return [str(_ROOT), *([inherited] if inherited else [])]


if sys.platform == "darwin":

    class _ExitWatcher:
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

    class _ExitWatcher:
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
