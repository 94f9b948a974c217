"""A thread that does the slow part of taking requests in while the engine steps: their templates and tokens.

A long chat takes milliseconds, and every stream of the model would wait for it between two steps. One request at a
time, in the order in which they came; then `add` of the engine finds that part done. The requests stay with the
service (worker/service.py). Must stay free of mlx.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from itertools import islice
from queue import SimpleQueue
from sys import setswitchinterval
from threading import Thread
from time import monotonic

from broker.wire.from_gateways import InferenceRequest
from broker.wire.kinds import Task
from worker.process.intake import taking_in

# Bytes of a payload that is taken in within a step's time.
LONG = 4096

# How long a thread may keep the interpreter while another wants it: ten times that would be a gap in every stream.
_SWITCH_SECONDS = 0.0005

# Longer than any request takes. Then the steps of the others are no progress of this process.
_STUCK_SECONDS = 20.0

# How long a process that cannot step waits for the thread, before it looks for messages.
_LOOK_SECONDS = 0.05

# Requests that are done ahead: fewer than the engine keeps until they are added (worker/text/written.py).
_MOST_AHEAD = 8

# A request, or what is left of a count.
Work = InferenceRequest | Iterator[int | None]

# From the payload of a Generate. Called from one thread, which is not that of the engine.
Prepare = Callable[[bytes], None]


class Ahead:
    """Mutable state: what has been done or is to be done for each request, and the last of it; how often the thread has
    been asked, and is done; since when it is at one."""

    def __init__(self, prepare: Prepare | None) -> None:
        """prepare: what it raises, the engine raises again when the request is added; None for an engine that takes
        requests in as a whole."""
        self._prepare = prepare
        self._queue: SimpleQueue[tuple[bytes, bytes, Future[None]]] = SimpleQueue()
        self._futures: dict[bytes, Future[None]] = {}
        self._last: Future[None] | None = None
        self._began: float | None = None
        self._asked = self._done = 0

    @property
    def is_stuck(self) -> bool:
        """Whether one request takes so long that something must be wrong."""
        began = self._began
        return began is not None and monotonic() - began > _STUCK_SECONDS

    def lets_in(self, arrived: Mapping[bytes, Work], *, steps: bool, waits: bool) -> bool:
        """Whether the first of these requests may be added now. arrived: in their order. steps: the engine has some to
        do; then the thread does what is slow about a long request, and about the next ones. waits: the service has
        nothing else to do."""
        if not arrived:
            return False
        first, work = next(iter(arrived.items()))
        if self._prepare is None or not (self._is_busy or (steps and len(_payload_of(work)) >= LONG)):
            return True
        for request_id, one in islice(arrived.items(), _MOST_AHEAD):
            if not (payload := _payload_of(one)):
                break
            self._begin(request_id, payload, self._prepare)
        own = self._futures.get(first)  # None for what cannot be done ahead: it comes when all is done
        if waits and (future := own or self._last) is not None:
            wait([future], _LOOK_SECONDS)
        return not self._is_busy if own is None else own.done()

    def drop(self, request_id: bytes) -> None:
        """The request is taken in, or has gone."""
        future = self._futures.pop(request_id, None)
        if future is not None:
            future.cancel()

    @property
    def _is_busy(self) -> bool:
        """Whether anything is not done, also for a request that has gone."""
        return self._asked != self._done

    def _begin(self, request_id: bytes, payload: bytes, prepare: Prepare) -> None:
        """Do this request after the others, unless that has been asked for."""
        if request_id in self._futures:
            return
        if self._last is None:
            setswitchinterval(_SWITCH_SECONDS)
            Thread(target=self._run, args=(prepare,), name="intake", daemon=True).start()
        self._last = self._futures[request_id] = Future()
        self._asked += 1
        self._queue.put((request_id, payload, self._last))

    def _run(self, prepare: Prepare) -> None:
        while True:
            request_id, payload, future = self._queue.get()
            if future.set_running_or_notify_cancel():
                self._began = monotonic()
                with suppress(Exception), taking_in(request_id):
                    prepare(payload)
                self._began = None
                future.set_result(None)
            self._done += 1


def _payload_of(work: Work) -> bytes:
    """Of a request for an answer; empty for others, whose prompts are not written ahead."""
    return work.payload if isinstance(work, InferenceRequest) and work.task == Task.GENERATE else b""
