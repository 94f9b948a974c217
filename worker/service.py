"""The worker's loop: commands of the broker into the engine, outputs of the engine to the broker.

The main thread owns the engine and this socket. A heartbeat thread has its own socket, so that a long step does not
look like a dead process. The service guarantees exactly one FINAL or ERROR for each REQUEST, whatever the engine does.
Knows nothing about models and must never import mlx.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from time import monotonic

import zmq

from broker.wire.body import Body, ProtocolError
from broker.wire.codec import Message, decode, encode
from broker.wire.failure import DEVICE_EXIT_CODE, Code, Failure, FailureError, named_line, one_line
from broker.wire.frames import gateway_of, receive_frames, send_frames
from broker.wire.from_gateways import Cancel, InferenceRequest
from broker.wire.from_peers import Ack, Hello
from broker.wire.from_workers import LoadFailed, Need, Prefill, Progress, Ready
from broker.wire.kinds import Task
from broker.wire.outputs import FINAL, PARTIAL, WINDOW, Output, encode_outputs, error_output
from broker.wire.paths import LOCK_FILE
from broker.wire.to_workers import Assign, DropPrompts, MayPrefill, Share, Shrink, Shutdown
from worker.ahead import Ahead, Work
from worker.engine import (
    Engine,
    MemoryShare,
    closer_of,
    counter_of,
    forgetter_of,
    holder_of,
    import_engine,
    import_for_spare,
    load_engine,
    preparer_of,
    share_of,
    working_set_bytes,
)
from worker.heartbeat import beat, connect
from worker.prefill_lease import PrefillLease
from worker.process.device_errors import is_device_error
from worker.process.garbage import without_collections
from worker.process.intake import taking_in
from worker.process.log_events import begins, ends
from worker.process.one_core import OneCore, ThreadCores
from worker.process.priority import lower_priority
from worker.vitals import Vitals, heartbeat_of

log = logging.getLogger("worker")

# How long the last messages of a process may take to leave it.
_FLUSH_MILLISECONDS = 1000

# How long a process that has failed waits for the broker to end it.
_FAREWELL_MILLISECONDS = 5000

# How long new requests are added before the next step: enough for about twenty. The first after a step takes twice as
# long as the others.
_ADDING_SECONDS = 0.004

_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)


def run(
    endpoint: str,
    worker_id: str,
    *,
    spare: bool,
    heartbeat_interval: float,
    download: str | None = None,
    cache_dir: Path | None = None,
) -> int:
    """Serve until the broker sends SHUTDOWN or the engine fails, or download a repository into a cache and end. Returns
    the exit code of the process."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = connect(context, endpoint, worker_id)
    vitals = Vitals()
    heart = (endpoint, f"{worker_id}/heartbeat", vitals, heartbeat_interval)
    Thread(target=beat, args=heart, name="heartbeat", daemon=True).start()
    lower_priority()  # of this thread and those of the engine, not of sockets and heartbeat
    try:
        service = Service(socket, vitals, Path(endpoint.removeprefix("ipc://")).with_name(LOCK_FILE))
        if download is not None and cache_dir is not None:
            return service.download(download, cache_dir)
        return service.run(spare)
    except Exception as error:
        if not is_device_error(error):
            raise
        # No word to the broker: it replays requests without output when it sees the exit. The last line of the log is
        # what it tells people.
        log.exception("the GPU fails", extra={"shows_errors": True})
        return DEVICE_EXIT_CODE
    finally:
        socket.close(linger=_FLUSH_MILLISECONDS)
        context.term()


class Service:
    """One model's life: wait for ASSIGN, load, then commands in and outputs out.

    Mutable state: `_live`, the ids of the requests that have not ended; `_arrived`, those that the engine does not have
    yet, and what is left of the counts, which it never has; `_ahead`, what a thread does for them; `_sent` and
    `_acked`, how many OUTPUTS have been sent, and acknowledged by gateways.
    """

    def __init__(self, socket: "zmq.Socket[bytes]", vitals: Vitals, lock: Path) -> None:
        """lock: a file that all workers of this broker have."""
        self._socket = socket
        self._lock = lock
        self._vitals = vitals
        self._live: set[bytes] = set()
        self._arrived: dict[bytes, Work] = {}
        self._ahead = Ahead(None)
        self._sent = self._acked = 0
        self._send(Hello())

    def run(self, spare: bool) -> int:
        """The exit code of the process: 0 after SHUTDOWN, 1 if the engine cannot load or fails. Raises errors of the
        GPU."""
        if spare:
            with without_collections():
                import_for_spare()
            self._vitals.steps += 1
            self._send(Progress("imported", None, working_set_bytes()))
        assign = self._wait_for_assignment()
        if assign is None:
            return 0
        try:
            engine = self._load(assign)
        except Exception as error:
            if is_device_error(error):
                raise
            log.exception("cannot load %s", assign.model, extra={"shows_errors": True})
            return self._end_with(LoadFailed(_describe(error)))
        try:
            self._serve(engine, assign)
        except Exception as error:
            if is_device_error(error):
                raise
            # The engine's state is unknown now. The broker starts the model again in a fresh process.
            log.exception("the engine of %s fails", assign.model)
            self._fail(list(self._live), f"the engine failed: {_describe(error)}")
            return 1
        closer_of(engine)()
        # What the engine has counted since the last beat must not be lost with this process.
        self._send(heartbeat_of(engine, self._vitals.steps))
        return 0

    def download(self, repository: str, cache_dir: Path) -> int:
        """The exit code of a process that downloads a repository and serves no model."""
        from worker.hub import download  # noqa: PLC0415 # takes a third of a second, and only this needs it

        try:
            download.download(repository, cache_dir, self._report_download)
        except FailureError as error:
            return self._end_with(LoadFailed(str(error), error.failure.code))
        return 0

    def _end_with(self, last_words: LoadFailed) -> int:
        """The exit code. Waits for the broker: it would notice the exit before it reads the message."""
        self._send(last_words)
        self._socket.poll(_FAREWELL_MILLISECONDS)  # SHUTDOWN, if it does not kill
        return 1

    def _wait_for_assignment(self) -> Assign | None:
        while True:
            for message in self._receive(wait=True):
                match message.body:
                    case Assign() as assign:
                        return assign
                    case Shutdown():
                        return None
                    case body:
                        log.warning("%s before ASSIGN is dropped", body.COMMAND.decode())

    def _load(self, assign: Assign) -> Engine:
        with without_collections():
            import_engine(assign)
        engine = load_engine(assign, self._report)
        self._vitals.engine = engine
        facts = engine.facts
        active = engine.memory().active_bytes
        self._send(Ready(active, facts.context_length, working_set_bytes()))
        return engine

    def _report(self, stage: str, fraction: float | None) -> None:
        self._vitals.steps += 1
        self._send(Progress(stage, fraction))

    def _report_download(self, done_bytes: int, total_bytes: int) -> None:
        self._vitals.steps += 1
        fraction = min(done_bytes / max(total_bytes, 1), 1.0)
        self._send(Progress("download", fraction, done_bytes=done_bytes, total_bytes=total_bytes))

    def _serve(self, engine: Engine, assign: Assign) -> None:
        room = share_of(engine)
        lease = PrefillLease(engine.stats, holder_of(engine)) if assign.lends_prefill else None
        self._ahead = Ahead(preparer_of(engine))
        step = OneCore(engine.step, ThreadCores(self._lock if engine.facts.one_cpu_thread else None))
        while True:
            if room is not None:
                self._tell(room)
            is_held = self._is_held(lease)
            is_idle = not self._arrived and (is_held or not engine.has_work)
            self._vitals.waits_for_broker = is_idle and (is_held or (room is not None and room.waiting > 0))
            blocks = is_idle or self._window_is_full
            if blocks:
                step.rest()
            for message in self._receive(wait=blocks):
                self._vitals.waits_for_broker = False
                match message.body:
                    case Ack(total=total):
                        self._acked = total
                    case Share(share_bytes=share_bytes, limit_bytes=limit_bytes):
                        if room is not None:
                            room.granted(share_bytes, limit_bytes)
                    case Shrink(share_bytes=share_bytes):
                        if room is not None:
                            room.shrink(share_bytes)
                    case MayPrefill(seconds=seconds):
                        if lease is not None:
                            lease.lent(seconds)
                    case InferenceRequest() as request:
                        self._take(message.request_id, request)
                    case Cancel():
                        self._cancel(engine, message.request_id)
                    case DropPrompts():
                        forgetter_of(engine)()
                    case Shutdown():
                        while self._arrived:  # a refusal must still be sent
                            self._add_arrived(engine)
                        return
                    case body:
                        log.warning("%s to a loaded worker is dropped", body.COMMAND.decode())
            self._add_arrived(engine, waits=is_held or self._window_is_full or not engine.has_work)
            if engine.has_work and not (self._is_held(lease) or self._window_is_full):
                outputs = step()
                self._vitals.steps += not self._ahead.is_stuck
                self._send_outputs(outputs)
            waits = room is not None and room.waiting > 0
            if len(self._live) > len(self._arrived) and not engine.has_work and not waits:
                self._fail(list(self._live - self._arrived.keys()), "the engine lost this request")

    def _tell(self, room: MemoryShare) -> None:
        if (wish := room.wish()) is not None:
            self._send(Need(wish.wanted, wish.least, wish.must))

    def _is_held(self, lease: PrefillLease | None) -> bool:
        """Whether the engine can do nothing before the broker lends prefill, which is asked for here."""
        if lease is None:
            return False
        if (wants := lease.news()) is not None:
            self._send(Prefill(wants))
        return lease.blocks

    @property
    def _window_is_full(self) -> bool:
        """Whether gateways are slower than the engine: more outputs would only queue, before those of other models."""
        return self._sent - self._acked >= WINDOW

    def _take(self, request_id: bytes, request: InferenceRequest) -> None:
        if not request_id or request_id in self._live:
            log.warning("REQUEST with an id that is %s is dropped", "in use" if request_id else "empty")
            return
        self._live.add(request_id)
        self._arrived[request_id] = request
        begins(request_id, request.trace)

    def _add_arrived(self, engine: Engine, *, waits: bool = True) -> None:
        """Add new requests in their order, for a bounded time: live requests must go on. waits: there is nothing else
        to do."""
        until = monotonic() + _ADDING_SECONDS
        while self._ahead.lets_in(self._arrived, steps=engine.has_work, waits=waits):
            request_id = next(iter(self._arrived))
            self._ahead.drop(request_id)
            self._take_in(engine, request_id, self._arrived.pop(request_id))
            if monotonic() >= until:
                return

    def _take_in(self, engine: Engine, request_id: bytes, work: Work) -> None:
        """Give a request to the engine, or do the next piece of a count."""
        try:
            with taking_in(request_id):
                if not isinstance(work, InferenceRequest):
                    self._count(request_id, work)
                elif work.task == Task.COUNT:
                    self._count(request_id, counter_of(engine)(work.payload))
                else:
                    engine.add(request_id, work.payload)
        except FailureError as error:
            self._end(request_id, error.failure)
        except ProtocolError as error:
            self._end(request_id, Failure(Code.INVALID_REQUEST, str(error)))
        except Exception as error:
            if is_device_error(error):  # and the request is not to blame, see device_errors.py
                raise
            log.exception("a request fails while it is added", extra={"about": request_id})
            self._fail([request_id], f"the engine cannot take this request: {_describe(error)}")

    def _count(self, request_id: bytes, pieces: Iterator[int | None]) -> None:
        """The next piece. A count needs no memory for caches and no turn to prefill."""
        tokens = next(pieces)
        self._vitals.steps += 1
        if tokens is None:
            self._arrived[request_id] = pieces  # behind the others
        else:
            self._send_outputs([Output(request_id, FINAL, {"prompt_tokens": tokens})])

    def _cancel(self, engine: Engine, request_id: bytes) -> None:
        # An unknown id is not an error: the request's FINAL and the CANCEL have crossed.
        if request_id in self._live:
            if self._arrived.pop(request_id, None) is None:
                engine.cancel(request_id)
            self._ahead.drop(request_id)
            self._end(request_id, Failure(Code.CANCELLED, "the client has gone"))

    def _fail(self, request_ids: list[bytes], message: str) -> None:
        failure = Failure(Code.INTERNAL_ERROR, message)
        self._send_outputs([error_output(request_id, failure) for request_id in request_ids])

    def _end(self, request_id: bytes, failure: Failure) -> None:
        self._send_outputs([error_output(request_id, failure)])

    def _send_outputs(self, outputs: list[Output]) -> None:
        by_gateway: dict[bytes, list[Output]] = defaultdict(list)
        ended: set[bytes] = set()
        for output in outputs:
            request_id = output.request_id
            if request_id not in self._live or request_id in ended:
                log.warning("an output of the engine for a request that has ended is dropped")
                continue
            if output.kind != PARTIAL:
                ended.add(request_id)
            by_gateway[gateway_of(request_id)].append(output)
        try:
            messages = [encode_outputs(group) for group in by_gateway.values()]
        except Exception:
            log.exception("an output of the engine cannot be encoded")
            self._send_outputs(self._encodable(outputs))
            return
        # Only now: an output that cannot be encoded ends nothing.
        self._live -= ended
        for request_id in ended:
            ends(request_id)
        for frames in messages:
            send_frames(self._socket, frames)
        self._sent += len(messages)

    def _encodable(self, outputs: list[Output]) -> list[Output]:
        """The outputs, with an ERROR in place of the first one of a request that cannot be encoded; its later ones are
        dropped. Such requests end in the engine too."""
        kept: list[Output] = []
        failed: set[bytes] = set()
        for output in outputs:
            if output.request_id in failed:
                continue
            try:
                encode_outputs([output])
                kept.append(output)
            except Exception as error:  # noqa: BLE001 # logged by the caller; concerns this request alone
                failed.add(output.request_id)
                failure = Failure(Code.INTERNAL_ERROR, f"the answer cannot be sent: {_describe(error)}")
                kept.append(error_output(output.request_id, failure))
        if self._vitals.engine is not None:
            for request_id in failed:
                self._vitals.engine.cancel(request_id)
        return kept

    def _send(self, body: Body) -> None:
        send_frames(self._socket, encode(body))

    def _receive(self, *, wait: bool) -> Iterator[Message]:
        """All messages that have arrived; if the caller stops, the rest stay in the socket. wait: block for at least
        one set of frames."""
        # Asked directly after every step: poll() would make a poller for every call.
        while wait or int(self._socket.get(_EVENTS)) & _POLLIN:
            wait = False
            try:
                yield decode(receive_frames(self._socket))
            except ProtocolError as error:
                log.warning("dropped a malformed message: %s", error)


def _describe(error: Exception) -> str:
    """One line for people. The message of a ValueError is enough; any other error is named too."""
    text = one_line(error)
    return text if text and isinstance(error, ValueError) else named_line(error)
