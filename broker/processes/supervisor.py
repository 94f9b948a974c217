"""The launcher for this machine: starts and kills worker processes, reads their output, reports each exit once. Decides
nothing.

Every worker leads its own process group: a kill ends its children too, and Ctrl-C in a terminal does not reach it. It
has no session of its own: Linux may share processor time by session, and then a worker's I/O threads would pay for its
compute threads (worker/process/priority.py). Its stdin is a pipe that is never written: end of file tells the worker
that the broker has died. Its stdout and stderr are one pipe, read here, so that no orphan holds a pipe of the process
that started the broker.

Exits come from the kernel (exits.py). The end of the output pipe is not an exit: a grandchild may hold the pipe open.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from broker.policy.actions import StartDownload, StartWorker
from broker.policy.specs import Exit
from broker.processes.exits import ExitWatcher, exit_watcher
from broker.processes.launcher import Sample
from broker.processes.lines import LogEvent, Printed
from broker.processes.memory import Sampler
from broker.wire.intake import IntakeMark, intake_file

logger = logging.getLogger(__name__)

_READ_BYTES = 65536
_ROOT = Path(__file__).resolve().parents[2]

# For Apple's driver, which reads it when a process makes its device: work that keeps the display from being drawn, as a
# long prompt does, is then ended later. A maintainer of MLX names it in ml-explore/mlx#3267, and llama.cpp sets it
# (ggml-metal.cpp). Other systems ignore it.
_DRIVER = {"AGX_RELAX_CDM_CTXSTORE_TIMEOUT": "1"}


@dataclass(slots=True)
class _Child:
    worker_id: str
    process: subprocess.Popen[bytes]
    output_fd: int
    intake: IntakeMark
    output: Printed = field(default_factory=Printed)
    output_open: bool = True


class Supervisor:
    """Worker processes by worker id.

    endpoint: the broker's socket for workers. hub_dir: the cache that downloads fill. blas_library: a shared library
    that workers load before MLX, None for MLX's own. log_level: of workers. exits: tells of exits, the system's way if
    None.
    """

    def __init__(
        self,
        endpoint: str,
        heartbeat_interval: float,
        hub_dir: Path,
        blas_library: str | None = None,
        *,
        log_level: str = "info",
        exits: ExitWatcher | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._heartbeat_interval = heartbeat_interval
        self._hub_dir = hub_dir
        self._blas_library = blas_library
        self._log_level = log_level
        self._children: dict[str, _Child] = {}
        self._last_lines: list[tuple[str, LogEvent]] = []  # of processes that have ended
        self._exits = exits or exit_watcher()
        self._sampler = Sampler()
        if blas_library:
            logger.info("workers load %s before MLX", blas_library)

    def start(self, what: StartWorker | StartDownload) -> int:
        """Start one process; its pid. Raises OSError if the system refuses."""
        worker_id = what.worker_id
        with intake_file() as intake_fd:
            process = subprocess.Popen(
                [*self._command(what), f"--intake-fd={intake_fd}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,
                pass_fds=(intake_fd,),
                env={**_DRIVER, **os.environ, "PYTHONPATH": os.pathsep.join(_python_path()), "PYTHONUNBUFFERED": "1"},
            )
            intake = IntakeMark(intake_fd)
        assert process.stdout is not None
        output_fd = process.stdout.fileno()
        os.set_blocking(output_fd, False)
        child = self._children[worker_id] = _Child(worker_id, process, output_fd, intake)
        try:
            self._exits.add(process.pid)
        except OSError:  # no descriptor is left: a process that cannot be watched must not run
            self.kill(worker_id)
            process.wait()
            self._close(child)
            del self._children[worker_id]
            raise
        return process.pid

    def _command(self, what: StartWorker | StartDownload) -> list[str]:
        command = [sys.executable, "-m", "worker", "--endpoint", self._endpoint, "--worker-id", what.worker_id]
        command += ["--parent-pid", str(os.getpid()), "--heartbeat-interval", str(self._heartbeat_interval)]
        command.append(f"--log-level={self._log_level}")
        if isinstance(what, StartDownload):
            return [*command, f"--download={what.model_id}", f"--cache-dir={self._hub_dir}"]
        if what.spare:
            command.append("--spare")
        if self._blas_library:
            command.append(f"--blas-library={self._blas_library}")
        return command

    def kill(self, worker_id: str) -> None:
        """SIGKILL to the worker's process group. Does nothing if it has exited already."""
        child = self._children.get(worker_id)
        if child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)

    @property
    def worker_ids(self) -> list[str]:
        """The workers whose exits have not been reported."""
        return list(self._children)

    def sample(self, worker_id: str) -> Sample | None:
        """What the process takes now; None if it has exited."""
        child = self._children.get(worker_id)
        return self._sampler.sample(child.process.pid) if child is not None else None

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
            child = next((c for c in self._children.values() if c.process.pid == pid), None)
            if child is None:  # told twice, or no child of ours
                continue
            # While the leader is a zombie, no other process can get its group id; afterwards one can.
            self.kill(child.worker_id)
            code = child.process.wait()
            self.read_output(child.worker_id)
            last = [*child.output.take(time.monotonic()), *child.output.take_rest()]
            self._last_lines += [(child.worker_id, said) for said in last]
            how = _exit_of(code, child.output.tail, child.intake.request_id)
            self._close(child)
            self._sampler.forget(pid)
            del self._children[child.worker_id]
            exits.append((child.worker_id, how))
        return exits

    def read_output(self, worker_id: str) -> None:
        """Read what the worker has printed, one buffer of it: `take_lines` has it then."""
        child = self._children[worker_id]
        try:
            data = os.read(child.output_fd, _READ_BYTES)
        except BlockingIOError:
            return
        child.output_open = bool(data)
        child.output.feed(data)

    def take_lines(self) -> list[tuple[str, LogEvent]]:
        """What the workers have said, in order."""
        lines, self._last_lines = self._last_lines, []
        now = time.monotonic()
        for child in self._children.values():
            if child.output.waits:
                lines += [(child.worker_id, said) for said in child.output.take(now)]
        return lines

    def close(self) -> None:
        """Kill and reap all workers that are left."""
        for child in self._children.values():
            self.kill(child.worker_id)
            child.process.wait()
            self._close(child)
        self._children.clear()
        self._exits.close()

    @staticmethod
    def _close(child: _Child) -> None:
        child.intake.close()
        for pipe in (child.process.stdin, child.process.stdout):
            if pipe is not None:
                pipe.close()


def _exit_of(code: int, tail: str, intake: bytes | None) -> Exit:
    """Popen's return code as code or signal name. intake: the request that was being taken in."""
    if code >= 0:
        return Exit(code, None, time.time(), tail, intake)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"SIG{-code}"
    return Exit(None, name, time.time(), tail, intake)


def _python_path() -> list[str]:
    """The checkout first, so that `-m worker` finds the package wherever the broker was started."""
    inherited = os.environ.get("PYTHONPATH")
    return [str(_ROOT), *([inherited] if inherited else [])]
