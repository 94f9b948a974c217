"""The gateway's one socket to the broker, and whether the broker is there.

All of it runs in the event loop. The sockets are plain ZeroMQ ones whose file descriptors the loop watches. Such a
descriptor is edge-triggered and reports more than messages, so read until nothing is left, and look again after
sending, which can consume the edge.

Nothing is queued for a broker that is not there; what was sent before that was known may reach the next one, which
drops what comes before this gateway's HELLO. This file knows neither calls nor HTTP.
"""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

from broker.wire.body import Body, ProtocolError
from broker.wire.clock import Clock
from broker.wire.codec import decode, encode
from broker.wire.failure import Code, Failure
from broker.wire.frames import NO_REQUEST, receive_frames, send_frames
from broker.wire.from_gateways import Goodbye
from broker.wire.from_peers import Ack, Heartbeat, Hello
from broker.wire.outputs import ACK_EVERY, Outputs

log = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT = 5.0  # seconds without any message; the broker sends at least one a second
_LOOK_SECONDS = 1.0  # between two looks at the clock
_READING_SECONDS = 0.005  # of reading before the streams have their turn
_RECONNECT_MS = 50
_GOODBYE_LINGER_MS = 200
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
_MONITORED = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED

_LOST = Failure(Code.BROKER_UNAVAILABLE, "the broker has gone", retry_after=1, retryable=True)
_SILENT = Failure(Code.BROKER_UNAVAILABLE, "the broker does not answer", retry_after=5, retryable=True)


class Listener(Protocol):
    """Gets the events of a connection."""

    def on_outputs(self, outputs: Outputs) -> None:
        """Outputs came. Raises ProtocolError if they cannot be read."""

    def on_pause(self) -> None:
        """All messages that had arrived have been passed on."""

    def on_lost(self, failure: Failure) -> None:
        """The broker has gone or is silent."""


class Connection:
    """`open` it within a running loop, `close` it there. `connected` is set while the broker answers.

    clock: judges the broker's silence. The loop's own clock counts the time in which the machine slept.
    """

    def __init__(self, socket_path: Path, identity: bytes, listener: Listener, clock: Clock | None = None) -> None:
        self.connected = asyncio.Event()
        self._identity = identity
        self._path = socket_path
        self._listener = listener
        self._got = 0  # outputs since the last HELLO
        self._acknowledged = 0  # of these, how many the broker knows to have been read
        self._is_linked = False  # what the monitor says; connected needs signs of life too
        self._clock = clock or Clock()
        self._has_heard = False  # since the last look at the clock
        self._heard_at = 0.0
        self._read_again: asyncio.Handle | None = None
        self._silence_timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin to connect; ZeroMQ keeps trying by itself."""
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.IDENTITY, self._identity)
        self._socket.set(zmq.LINGER, 0)
        # Not IMMEDIATE: with it a connection that ends takes along what it has brought and this side has not read yet.
        self._socket.set(zmq.RECONNECT_IVL, _RECONNECT_MS)
        # Outputs must not be dropped, nor requests refused because many come at once; the heartbeat limits for how long
        # messages can pile up.
        self._socket.set(zmq.RCVHWM, 0)
        self._socket.set(zmq.SNDHWM, 0)
        self._monitor = self._socket.get_monitor_socket(_MONITORED)
        self._loop.add_reader(self._monitor.FD, self._on_monitor)
        self._loop.add_reader(self._socket.FD, self._on_readable)
        self._socket.connect(f"ipc://{self._path}")
        self._on_monitor()

    def say_goodbye(self) -> None:
        """The last message; `close` follows."""
        self.send(Goodbye())
        self.connected.clear()

    def close(self) -> None:
        """Disconnect."""
        for handle in (self._read_again, self._silence_timer):
            if handle is not None:
                handle.cancel()
        for socket in (self._monitor, self._socket):
            self._loop.remove_reader(socket.FD)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(_GOODBYE_LINGER_MS)
        self._context.term()

    # ---- sending and reading ----------------------------------------------------------------------------------------

    def send(self, body: Body, request_id: bytes = NO_REQUEST) -> bool:
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
        self._got = self._acknowledged = 0
        self._transmit(Hello())

    def _on_readable(self) -> None:
        if self._read_again is not None:
            self._read_again.cancel()
            self._read_again = None
        if not self._read():
            self._read_again = self._loop.call_soon(self._on_readable)
        self._listener.on_pause()

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
            self._set_heard()
            if not self._has_more():
                return True
        return False

    def _on_message(self, frames: list[bytes]) -> None:
        body = decode(frames).body
        if isinstance(body, Outputs):
            self._got += 1
            if self._got - self._acknowledged >= ACK_EVERY:
                self._acknowledge()
            self._listener.on_outputs(body)
        elif isinstance(body, Heartbeat):
            if self._got > self._acknowledged:
                self._acknowledge()
        else:
            raise ProtocolError(f"a gateway takes no {body.COMMAND.decode()}")

    def _acknowledge(self) -> None:
        # While the socket is being read: nothing that arrives meanwhile is overlooked.
        if self._transmit(Ack(self._got)):
            self._acknowledged = self._got

    # ---- whether the broker is there --------------------------------------------------------------------------------

    def _on_monitor(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))["event"]
                self._is_linked = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
                if self._is_linked:
                    self._greet()
                    self._set_heard()
                    self._look_for_silence(0.0)
                else:
                    while not self._read():  # messages that came before still count
                        pass
                    self._listener.on_pause()
                    self._set_lost(_LOST)

    def _set_heard(self) -> None:
        self._has_heard = True
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
        now, pause = self._clock.now(), self._clock.take_pause()
        left = self._heard_at + HEARTBEAT_TIMEOUT - now
        if self._has_heard or pause:
            left = HEARTBEAT_TIMEOUT
        elif left <= 0:
            self._set_lost(_SILENT)
            self._greet()  # the broker may have given this gateway up, and then sends it nothing
            left = HEARTBEAT_TIMEOUT
        self._has_heard, self._heard_at = False, now + left - HEARTBEAT_TIMEOUT
        self._look_for_silence(min(left, _LOOK_SECONDS))

    def _set_lost(self, failure: Failure) -> None:
        if self.connected.is_set():
            log.warning("%s", failure.message)
            self.connected.clear()
        self._listener.on_lost(failure)
