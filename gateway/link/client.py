"""The gateway's one socket to the broker: calls out, outputs in, each given to the call that waits for it.

All of it runs in the event loop. The sockets are plain ZeroMQ ones whose file descriptors the loop watches. Such a
descriptor is edge-triggered and reports more than messages, so: read until nothing is left, and look again after
sending, which may have eaten the edge.

Every unit of work of a call ends once: with what the broker says, or, when the broker is lost, the gateway stops or
the client reads too slowly, with an ERROR made here. Nothing is queued for a broker that is not there; what was sent
before that was known may reach the next one, which drops what comes before this gateway's HELLO. This file knows no
HTTP.
"""

import asyncio
import contextlib
import logging
import secrets
from pathlib import Path

import zmq
from zmq.utils.monitor import parse_monitor_message

from broker.wire.body import Body, ProtocolError, to_map
from broker.wire.codec import decode, encode
from broker.wire.failure import Code, Failure
from broker.wire.frames import GATEWAY_ID_BYTES, NO_REQUEST, REQUEST_ID_BYTES, receive_frames, send_frames
from broker.wire.from_gateways import Cancel, Goodbye
from broker.wire.from_peers import Ack, Heartbeat, Hello
from broker.wire.outputs import ACK_EVERY, ERROR, PARTIAL, Outputs, decode_outputs
from gateway.link.call import Call

log = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT = 5.0  # seconds without any message; the broker sends at least one a second
STARTUP_GRACE = 2.0  # seconds in which a call waits for the first connection
_READING_SECONDS = 0.005  # of reading before the streams have their turn
_RECONNECT_MS = 50
_GOODBYE_LINGER_MS = 200
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
_MONITORED = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED

_ABSENT = Failure(Code.BROKER_UNAVAILABLE, "the broker is not reachable", retry_after=1, retryable=True)
_LOST = Failure(Code.BROKER_UNAVAILABLE, "the broker has gone", retry_after=1, retryable=True)
_SILENT = Failure(Code.BROKER_UNAVAILABLE, "the broker does not answer", retry_after=5, retryable=True)


class BrokerUnavailableError(Exception):
    """No call is possible now; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class BrokerClient:
    """`open` it within a running loop, `close` it there. `connected` is set while the broker answers."""

    def __init__(self, socket_path: Path) -> None:
        self.identity = secrets.token_hex(GATEWAY_ID_BYTES // 2).encode()
        self.connected = asyncio.Event()
        self._path = socket_path
        self._routes: dict[bytes, tuple[Call, int]] = {}  # of each request id that has not ended
        self._touched: set[Call] = set()  # got outputs in this reading
        self._count = 0
        self._got = 0  # outputs since the last HELLO
        self._confirmed = 0  # of these the broker knows that they have been read
        self._is_linked = False  # what the monitor says; connected needs signs of life too
        self._heard_at = 0.0
        self._refusal: Failure | None = None
        self._is_refused = asyncio.Event()
        self._read_again: asyncio.Handle | None = None
        self._silence_timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin to connect; ZeroMQ keeps trying by itself."""
        self._loop = asyncio.get_running_loop()
        self._grace_ends_at = self._loop.time() + STARTUP_GRACE
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.IDENTITY, self.identity)
        self._socket.set(zmq.LINGER, 0)
        # Not IMMEDIATE: with it a connection that ends takes along what it has brought and nobody has read yet.
        self._socket.set(zmq.RECONNECT_IVL, _RECONNECT_MS)
        # Outputs must not be dropped, and a burst of requests is no reason to refuse any; who may send is bounded by
        # the heartbeat.
        self._socket.set(zmq.RCVHWM, 0)
        self._socket.set(zmq.SNDHWM, 0)
        self._monitor = self._socket.get_monitor_socket(_MONITORED)
        self._loop.add_reader(self._monitor.FD, self._on_monitor)
        self._loop.add_reader(self._socket.FD, self._on_readable)
        self._socket.connect(f"ipc://{self._path}")
        self._on_monitor()

    def close(self) -> None:
        """Say goodbye and disconnect. What has not ended ends with `broker_unavailable`."""
        self._send(Goodbye())
        self.connected.clear()
        self._cancel_all(_ABSENT)
        for handle in (self._read_again, self._silence_timer):
            if handle is not None:
                handle.cancel()
        for socket in (self._monitor, self._socket):
            self._loop.remove_reader(socket.FD)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(_GOODBYE_LINGER_MS)
        self._context.term()

    async def call(self, *bodies: Body) -> Call:
        """Send one unit of work per body. Raises BrokerUnavailableError; at once, but in the first seconds after `open`
        it waits for the broker."""
        if not self.connected.is_set() and self._refusal is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._grace_ends_at):
                    await self.connected.wait()
        if self._refusal is not None or not self.connected.is_set():
            raise BrokerUnavailableError(self._refusal or _ABSENT)
        call = Call(len(bodies), self.cancel)
        for index, body in enumerate(bodies):
            request_id = self._next_id()
            if not self._send(body, request_id):
                call.close()
                raise BrokerUnavailableError(_ABSENT)
            self._routes[request_id] = (call, index)
            call.pending[request_id] = index
        return call

    def cancel(self, call: Call, failure: Failure | None = None) -> None:
        """Let the broker stop what of `call` has not ended, and end that here, with `failure` if anyone still reads."""
        for request_id, index in call.pending.items():
            self._send(Cancel(), request_id)
            del self._routes[request_id]
            if failure is not None:
                call.put((index, ERROR, to_map(failure)))
        call.pending.clear()
        call.flush()

    def refuse(self, failure: Failure) -> None:
        """The gateway stops: end every call with `failure`, those to come as well."""
        self._refusal = failure
        self._is_refused.set()
        self._cancel_all(failure)

    async def refused(self) -> BrokerUnavailableError:
        """Waits until the gateway stops: work that is still prepared is for nobody."""
        await self._is_refused.wait()
        assert self._refusal is not None  # set together
        return BrokerUnavailableError(self._refusal)

    def _cancel_all(self, failure: Failure) -> None:
        for call in {call for call, _ in self._routes.values()}:
            self.cancel(call, failure)

    def _next_id(self) -> bytes:
        self._count += 1
        return self.identity + self._count.to_bytes(REQUEST_ID_BYTES - GATEWAY_ID_BYTES, "big")

    # ---- the socket -----------------------------------------------------------------------------------------------

    def _send(self, body: Body, request_id: bytes = NO_REQUEST) -> bool:
        """False: no broker is connected."""
        if not self._transmit(body, request_id):
            return False
        if self._read_again is None and self._has_more():
            self._read_again = self._loop.call_soon(self._on_readable)
        return True

    def _transmit(self, body: Body, request_id: bytes = NO_REQUEST) -> bool:
        if not self._is_linked:
            return False  # it would be sent to the next broker, which knows nothing of this
        try:
            send_frames(self._socket, encode(body, request_id), wait=False)
        except zmq.Again:
            return False
        return True

    def _has_more(self) -> bool:
        """Whether something can be read. Less work than the exception where nothing can."""
        return bool(int(self._socket.get(_EVENTS)) & _POLLIN)

    def _greet(self) -> None:
        self._got = self._confirmed = 0
        self._send(Hello())

    def _on_readable(self) -> None:
        if self._read_again is not None:
            self._read_again.cancel()
            self._read_again = None
        if not self._read():
            self._read_again = self._loop.call_soon(self._on_readable)
        self._flush()

    def _read(self) -> bool:
        """Read and deliver what waits, for a bounded time; whether nothing is left."""
        began = now = self._loop.time()
        while now - began < _READING_SECONDS:
            try:
                frames = receive_frames(self._socket, wait=False)
            except zmq.Again:
                return True
            try:
                self._on_message(frames)
            except ProtocolError as error:
                log.warning("message from the broker dropped: %s", error)
            now = self._loop.time()
            self._set_heard(now)
            if not self._has_more():
                return True
        return False

    def _flush(self) -> None:
        """Several outputs that one reading brought for a call go on together."""
        touched, self._touched = self._touched, set()
        for call in touched:
            call.flush()

    def _on_message(self, frames: list[bytes]) -> None:
        body = decode(frames).body
        if isinstance(body, Outputs):
            self._got += 1
            if self._got - self._confirmed >= ACK_EVERY:
                self._confirm()
            self._deliver(body)
        elif isinstance(body, Heartbeat):
            if self._got > self._confirmed:
                self._confirm()
        else:
            raise ProtocolError(f"a gateway takes no {body.COMMAND.decode()}")

    def _confirm(self) -> None:
        # While the socket is being read: nothing that arrives meanwhile is overlooked.
        if self._transmit(Ack(self._got)):
            self._confirmed = self._got

    def _deliver(self, outputs: Outputs) -> None:
        try:
            decoded = decode_outputs(outputs)
        except ProtocolError as error:
            # The broker, which reads only the header, takes these for delivered: they must not wait for ever.
            failure = Failure(Code.INTERNAL_ERROR, f"output that cannot be read: {error}")
            for request_id, _kind in outputs.entries:
                if request_id in self._routes:
                    self.cancel(self._routes[request_id][0], failure)
            raise
        for output in decoded:
            route = self._routes.get(output.request_id)
            if route is None:
                continue  # cancelled here, which the broker did not know yet
            call, index = route
            if output.kind != PARTIAL:
                del self._routes[output.request_id]
                del call.pending[output.request_id]
            call.put((index, output.kind, output.body))
            self._touched.add(call)

    # ---- whether the broker is there ------------------------------------------------------------------------------

    def _on_monitor(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))["event"]
                self._is_linked = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
                if self._is_linked:
                    self._greet()
                    self._set_heard(self._loop.time())
                    self._look_for_silence(HEARTBEAT_TIMEOUT)
                else:
                    while not self._read():  # what it still said counts
                        pass
                    self._flush()
                    self._set_lost(_LOST)

    def _set_heard(self, now: float) -> None:
        self._heard_at = now
        if self._is_linked and not self.connected.is_set():
            log.info("connected to the broker")
            self.connected.set()

    def _look_for_silence(self, delay: float) -> None:
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        self._silence_timer = self._loop.call_later(delay, self._on_time)

    def _on_time(self) -> None:
        if not self._is_linked:
            return
        self._on_readable()  # after a stop of this process the broker's signs of life still wait in the socket
        left = self._heard_at + HEARTBEAT_TIMEOUT - self._loop.time()
        if left <= 0:
            self._set_lost(_SILENT)
            self._greet()  # the broker may have given this gateway up, and then sends it nothing
        self._look_for_silence(left if left > 0 else HEARTBEAT_TIMEOUT)

    def _set_lost(self, failure: Failure) -> None:
        if self.connected.is_set():
            log.warning("%s; %d requests end with that", failure.message, len(self._routes))
            self.connected.clear()
        # To a broker that was only silent the cancels still go.
        self._cancel_all(failure)
