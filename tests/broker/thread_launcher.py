"""A launcher of another kind: its workers are threads that play workers, their pids are not known, and a start may fail
late, as with another machine.

A worker answers a request with its payload; the payload `die` ends it while it answers, `wait` gets no answer. `need
MEBIBYTES` asks for that much memory and is answered when it is granted; a worker that is asked to shrink does so.
"""

import select
import socket
import threading
import time
from collections import deque

import zmq

from broker.policy.actions import StartDownload, StartWorker
from broker.policy.specs import Exit
from broker.processes.launcher import Sample
from broker.processes.lines import LogEvent
from broker.wire.codec import decode, encode
from broker.wire.from_gateways import InferenceRequest
from broker.wire.from_peers import Hello
from broker.wire.from_workers import Need, Ready
from broker.wire.outputs import FINAL, PARTIAL, Output, encode_outputs
from broker.wire.to_workers import Assign, Share, Shrink, Shutdown

MIB = 1 << 20


class ThreadLauncher:
    """late_failures: so many starts seem to work and end before their worker says anything. working_set_bytes: what
    workers say that Metal may use."""

    def __init__(self, endpoint: str, late_failures: int = 0) -> None:
        self.started: list[str] = []
        self.working_set_bytes = 0
        self._endpoint = endpoint
        self._late_failures = late_failures
        self._workers: dict[str, _Worker] = {}
        self._exits: deque[tuple[str, Exit]] = deque()
        self._readable, self._told = socket.socketpair()

    def start(self, what: StartWorker | StartDownload) -> int | None:
        self.started.append(what.worker_id)
        worker = self._workers[what.worker_id] = _Worker(what.worker_id, self)
        if len(self.started) <= self._late_failures:
            self.exited(what.worker_id, Exit(1, None, time.time(), "that machine has no room"))
        else:
            worker.begin(self._endpoint)
        return None

    def kill(self, worker_id: str) -> None:
        if worker := self._workers.get(worker_id):
            worker.kill()

    @property
    def worker_ids(self) -> list[str]:
        return list(self._workers)

    def sample(self, worker_id: str) -> Sample | None:
        return Sample(1 << 20, 1 << 20, 0.0)

    @property
    def exits_fd(self) -> int:
        return self._readable.fileno()

    def take_exits(self) -> list[tuple[str, Exit]]:
        exits = [self._exits.popleft() for _ in self._readable.recv(64)]
        for worker_id, _ in exits:
            self._workers.pop(worker_id).close()
        return exits

    @property
    def output_fds(self) -> dict[int, str]:
        return {}

    def read_output(self, worker_id: str) -> None:
        raise AssertionError("there is nothing to read")

    def take_lines(self) -> list[tuple[str, LogEvent]]:
        return []

    def close(self) -> None:
        for worker in self._workers.values():
            worker.kill()
            worker.close()
        self._readable.close()
        self._told.close()

    def exited(self, worker_id: str, how: Exit) -> None:
        self._exits.append((worker_id, how))
        self._told.send(b"x")


class _Worker:
    def __init__(self, worker_id: str, launcher: ThreadLauncher) -> None:
        self._worker_id = worker_id
        self._launcher = launcher
        self._killed, self._kill = socket.socketpair()
        self._asking: dict[bytes, int] = {}  # request id -> the share that it waits for
        self._thread: threading.Thread | None = None

    def begin(self, endpoint: str) -> None:
        self._thread = threading.Thread(target=self._live, args=(endpoint,), name=self._worker_id)
        self._thread.start()

    def kill(self) -> None:
        self._kill.send(b"k")

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._killed.close()
        self._kill.close()

    def _live(self, endpoint: str) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        broker = context.socket(zmq.DEALER)
        broker.identity = self._worker_id.encode()
        broker.connect(endpoint)
        broker.send_multipart(encode(Hello()))
        poller = zmq.Poller()
        poller.register(broker, zmq.POLLIN)
        poller.register(self._killed, select.POLLIN)
        how = None
        while how is None:
            ready = dict(poller.poll())
            is_killed = self._killed.fileno() in ready
            how = Exit(None, "SIGKILL", time.time(), "") if is_killed else self._take(broker)
        broker.close(linger=1000)
        context.term()
        self._launcher.exited(self._worker_id, how)

    def _take(self, broker: "zmq.Socket[bytes]") -> Exit | None:
        message = decode(broker.recv_multipart())
        match message.body:
            case Assign():
                working_set = self._launcher.working_set_bytes
                broker.send_multipart(encode(Ready(mlx_active_bytes=0, working_set_bytes=working_set)))
            case InferenceRequest(payload=payload) if payload.startswith(b"need "):
                wanted = int(payload.removeprefix(b"need ")) * MIB
                self._asking[message.request_id] = wanted
                broker.send_multipart(encode(Need(wanted, 0)))
            case Share(share_bytes=share):
                for request_id in [r for r, wanted in self._asking.items() if wanted <= share]:
                    del self._asking[request_id]
                    broker.send_multipart(encode_outputs([Output(request_id, FINAL, {"share": share})]))
            case Shrink(share_bytes=share):
                broker.send_multipart(encode(Need(share, 0)))
            case InferenceRequest(payload=payload):
                text = {"text": payload.decode()}
                broker.send_multipart(encode_outputs([Output(message.request_id, PARTIAL, text)]))
                if payload == b"die":
                    return Exit(3, None, time.time(), "out of luck")
                if payload != b"wait":
                    broker.send_multipart(encode_outputs([Output(message.request_id, FINAL, text)]))
            case Shutdown():
                return Exit(0, None, time.time(), "")
        return None
