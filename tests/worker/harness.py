"""The broker's side of the worker's socket, for tests: starts real workers and talks to them over a real ROUTER.

Every wait has a bound. Must stay as dumb as a wire: it decides nothing that a broker decides.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import zmq

from broker.wire.body import Body, from_map
from broker.wire.codec import Message, decode, encode
from broker.wire.failure import Failure
from broker.wire.from_gateways import InferenceRequest
from broker.wire.from_peers import Ack, Heartbeat, Hello
from broker.wire.from_workers import Ready
from broker.wire.outputs import PARTIAL, Output, Outputs, decode_outputs
from broker.wire.packing import pack
from broker.wire.paths import LOCK_FILE, WORKER_SOCKET
from broker.wire.to_workers import Assign
from broker.wire.work import Generate

ROOT = Path(__file__).parents[2]

# Seconds. Importing mlx-lm on a busy machine is what takes longest.
PATIENCE = 60.0

GATEWAY = b"gateway1"

B = TypeVar("B", bound=Body)


class WorkerHarness:
    """A bound ROUTER and the workers started against it."""

    def __init__(self, runtime_dir: Path) -> None:
        self.endpoint = f"ipc://{runtime_dir / WORKER_SOCKET}"
        (runtime_dir / LOCK_FILE).touch()
        self._logs = runtime_dir
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        # As the broker has it. A ROUTER with a receive limit that is behind loses what a peer said before it left.
        self._router.sndhwm = self._router.rcvhwm = 0
        self._router.router_mandatory = True
        self._router.bind(self.endpoint)
        self._workers: dict[bytes, Worker] = {}

    def start(
        self,
        *,
        spare: bool = False,
        heartbeat_interval: float = 0.05,
        parent_pid: int | None = None,
        arguments: tuple[str, ...] = (),
    ) -> "Worker":
        """A new worker process, in a process group of its own as the broker starts them; not yet connected."""
        worker_id = f"w{len(self._workers)}-{os.getpid():x}"
        command = worker_command(self.endpoint, worker_id, parent_pid or os.getpid(), heartbeat_interval)
        log = self._logs / f"{worker_id}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *(["--spare"] if spare else []), *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                process_group=0,
            )
        worker = Worker(self, worker_id.encode(), process, log)
        self._workers[worker.identity] = worker
        return worker

    def send_frames(self, identity: bytes, frames: list[bytes]) -> None:
        self._router.send_multipart([identity, *frames])

    def wait_for_contact(self, timeout: float) -> None:
        """Until any worker, also one that was not started here, says something. Raises TimeoutError."""
        if not self._router.poll(max(0, int(timeout * 1000))):
            raise TimeoutError(f"no worker said anything for {timeout:.1f} s")

    def pump(self, timeout: float) -> None:
        """Take one message within `timeout` seconds and give it to its worker. Raises TimeoutError."""
        self.wait_for_contact(timeout)
        identity, *frames = self._router.recv_multipart()
        worker_id, _, suffix = identity.partition(b"/")
        message = decode(frames)
        worker = self._workers[worker_id]
        if isinstance(message.body, Outputs):
            worker.outputs_got += 1
            if worker.is_told:
                with contextlib.suppress(zmq.ZMQError):  # it may have gone
                    worker.send(Ack(worker.outputs_got))
        (worker.heartbeats if suffix == b"heartbeat" else worker.inbox).append(message)

    def close(self) -> None:
        for worker in self._workers.values():
            worker.kill()
        self._router.close()
        self._context.term()


class Worker:
    """One worker process as its broker sees it. `is_told`: that its outputs are read, as soon as they are."""

    def __init__(self, harness: WorkerHarness, identity: bytes, process: subprocess.Popen[bytes], log: Path) -> None:
        self.identity = identity
        self.process = process
        self.inbox: list[Message] = []
        self.heartbeats: list[Message] = []
        self.outputs_got = 0
        self.is_told = True
        self._harness = harness
        self._log = log
        self._counter = count(1)

    @property
    def stderr(self) -> str:
        return self._log.read_text()

    def send(self, body: Body, request_id: bytes = b"") -> None:
        self.send_frames(encode(body, request_id))

    def send_frames(self, frames: list[bytes]) -> None:
        self._harness.send_frames(self.identity, frames)

    def request(self, gateway: bytes = GATEWAY, **fields: Any) -> bytes:
        """Send a Generate and return its request id."""
        return self.request_payload(pack(Generate(**fields)), gateway)

    def request_payload(self, payload: bytes, gateway: bytes = GATEWAY) -> bytes:
        request_id = gateway + next(self._counter).to_bytes(8, "big")
        self.send(InferenceRequest("model", payload), request_id)
        return request_id

    def next_message(self, timeout: float = PATIENCE) -> Message:
        """The next message that is no heartbeat."""
        deadline = monotonic() + timeout
        while not self.inbox:
            self._pump(deadline)
        return self.inbox.pop(0)

    def expect(self, kind: type[B], timeout: float = PATIENCE) -> B:
        """The next message of this kind; those before it are dropped."""
        deadline = monotonic() + timeout
        while True:
            body = self.next_message(deadline - monotonic()).body
            if isinstance(body, kind):
                return body

    def next_heartbeat(self, timeout: float = PATIENCE) -> Heartbeat:
        """The next heartbeat that has not been read."""
        deadline = monotonic() + timeout
        while not self.heartbeats:
            self._pump(deadline)
        body = self.heartbeats.pop(0).body
        assert isinstance(body, Heartbeat)
        return body

    def assign(
        self,
        engine: str | None,
        model: Path = Path("/nowhere"),
        model_type: str = "text-gen",
        *,
        share: int = 0,
        limit: int = 0,
        wires: bool = False,
        **options: Any,
    ) -> None:
        """Wait until the worker is there and assign it a model. share, limit: of memory, 0 for no bound."""
        self.expect(Hello)
        self.send(Assign(model.name, str(model), model_type, engine, options, share, limit, wires_memory=wires))

    def serve(self, engine: str | None, model: Path = Path("/nowhere"), **options: Any) -> Ready:
        """Assign a model and wait until it is loaded."""
        self.assign(engine, model, **options)
        return self.expect(Ready)

    def until_ended(self, *request_ids: bytes, timeout: float = PATIENCE) -> dict[bytes, list[Output]]:
        """The outputs of these requests until each has ended; fails for any output after an end."""
        deadline = monotonic() + timeout
        outputs: dict[bytes, list[Output]] = {request_id: [] for request_id in request_ids}
        waiting = set(request_ids)
        while waiting:
            for output in decode_outputs(self.expect(Outputs, deadline - monotonic())):
                assert output.request_id in waiting, f"an output after the end, or of an unknown request: {output}"
                outputs[output.request_id].append(output)
                if output.kind != PARTIAL:
                    waiting.remove(output.request_id)
        return outputs

    def answer(self, request_id: bytes, timeout: float = PATIENCE) -> dict[str, Any]:
        """The body of the end of a request, with all its text."""
        outputs = self.until_ended(request_id, timeout=timeout)[request_id]
        body = outputs[-1].body
        return {**body, "text": text_of(outputs)} if "text" in body else body

    def failure(self, request_id: bytes) -> Failure:
        return from_map(Failure, self.answer(request_id))

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """What is sent meanwhile comes to it at once, however busy the machine is."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def exit_code(self, timeout: float = PATIENCE) -> int:
        return self.process.wait(timeout)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        if self.process.stdin:
            self.process.stdin.close()

    def _pump(self, deadline: float) -> None:
        try:
            self._harness.pump(deadline - monotonic())
        except TimeoutError as error:
            state = self.process.poll()
            raise TimeoutError(f"{error}; exit code {state}, stderr: {self.stderr[-2000:]}") from None


def worker_command(endpoint: str, worker_id: str, parent_pid: int, heartbeat_interval: float = 0.05) -> list[str]:
    return [
        *(sys.executable, "-m", "worker", "--endpoint", endpoint, "--worker-id", worker_id),
        *("--parent-pid", str(parent_pid), "--heartbeat-interval", str(heartbeat_interval)),
    ]


def text_of(outputs: list[Output]) -> str:
    return "".join(output.body.get("text", "") for output in outputs)
