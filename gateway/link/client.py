"""The link to one broker: calls out, outputs in, each decoded once and given to the call that waits for it.

Every unit of work of a call ends once: with what the broker says, or, when the broker is lost, the gateway stops or
the client reads too slowly, with a Failure made here. This file knows no HTTP.
"""

import asyncio
import contextlib
import logging
import secrets
from pathlib import Path
from typing import Any

from broker.wire.body import Body, ProtocolError, from_map
from broker.wire.clock import Clock
from broker.wire.failure import Code, Failure, FailureError
from broker.wire.frames import GATEWAY_ID_BYTES, REQUEST_ID_BYTES
from broker.wire.from_gateways import Cancel, InferenceRequest, InferenceRequests, Resume
from broker.wire.outputs import FINAL, LOST, PARTIAL, Outputs, decode_bodies
from gateway.core.ask import Ask
from gateway.link.call import Call, T
from gateway.link.connection import Connection
from gateway.trace import current_trace

log = logging.getLogger(__name__)

STARTUP_GRACE = 2.0  # seconds in which a call waits for the first connection

_ABSENT = Failure(Code.BROKER_UNAVAILABLE, "the broker is not reachable", retry_after=1, retryable=True)

_TOO_LONG = Failure(Code.WORKER_DIED, "the process has ended, and the answer is too long to go on", retryable=True)


class BrokerClient:
    """A Link. `connected` is set while the broker answers. clock: judges its silence."""

    def __init__(self, socket_path: Path, clock: Clock | None = None) -> None:
        self.identity = secrets.token_hex(GATEWAY_ID_BYTES // 2).encode()
        self._connection = Connection(socket_path, self.identity, self, clock)
        # Of each request id that has not ended. Every call has a type of its own, which its asks give.
        self._routes: dict[bytes, tuple[Call[Any], int, Ask[Any]]] = {}
        self._touched: set[Call[Any]] = set()  # got outputs in this reading
        self._count = 0
        self._refusal: Failure | None = None
        self._is_refused = asyncio.Event()

    @property
    def connected(self) -> asyncio.Event:
        """Set while the broker answers."""
        return self._connection.connected

    def open(self) -> None:
        """Begin to connect; this goes on until `close`."""
        self._grace_ends_at = asyncio.get_running_loop().time() + STARTUP_GRACE
        self._connection.open()

    def close(self) -> None:
        """Say goodbye and disconnect. What has not ended ends with `broker_unavailable`."""
        self._connection.say_goodbye()
        self._cancel_all(_ABSENT)
        self._connection.close()

    async def call(self, *asks: Ask[T]) -> Call[T]:
        """Send these units of work. Raises FailureError `broker_unavailable`: in the first seconds after `open` it
        waits for the broker, later it raises at once."""
        if not self.connected.is_set() and self._refusal is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._grace_ends_at):
                    await self.connected.wait()
        if self._refusal is not None or not self.connected.is_set():
            raise FailureError(self._refusal or _ABSENT)
        trace = current_trace()
        call: Call[T] = Call(len(asks), self.cancel, trace)
        request_ids = [self._next_id() for _ in asks]
        for index, (request_id, ask) in enumerate(zip(request_ids, asks, strict=True)):
            self._routes[request_id] = (call, index, ask)
            call.pending[request_id] = index
        if not self._send(request_ids, [ask.body for ask in asks], trace):
            call.close()
            raise FailureError(_ABSENT)
        return call

    def _send(self, request_ids: list[bytes], bodies: list[Body], trace: str) -> bool:
        """False: no broker is connected."""
        requests = [body for body in bodies if isinstance(body, InferenceRequest)]
        for request in requests:
            request.trace = trace
        if len(requests) == len(bodies) > 1 and len(set(map(_in_common, requests))) == 1:
            return self._connection.send(InferenceRequests.joined(request_ids, requests))
        return all(map(self._connection.send, bodies, request_ids))

    def cancel(self, call: Call[Any], failure: Failure | None = None) -> None:
        """Let the broker stop what of `call` has not ended, and end that here, with `failure` for its reader."""
        for request_id, index in call.pending.items():
            self._connection.send(Cancel(), request_id)
            del self._routes[request_id]
            if failure is not None:
                call.end(index, failure)
        call.pending.clear()
        call.flush()

    def refuse(self, failure: Failure) -> None:
        """The gateway stops: end every call with `failure`, later ones too."""
        self._refusal = failure
        self._is_refused.set()
        self._cancel_all(failure)

    async def refused(self) -> FailureError:
        """Waits until the gateway stops."""
        await self._is_refused.wait()
        assert self._refusal is not None  # set together
        return FailureError(self._refusal)

    def _cancel_all(self, failure: Failure) -> None:
        for call in {call for call, _index, _ask in self._routes.values()}:
            self.cancel(call, failure)

    def _next_id(self) -> bytes:
        self._count += 1
        return self.identity + self._count.to_bytes(REQUEST_ID_BYTES - GATEWAY_ID_BYTES, "big")

    # ---- for the connection -----------------------------------------------------------------------------------------

    def on_outputs(self, outputs: Outputs) -> None:
        """Decode them and put them into their calls."""
        try:
            bodies = decode_bodies(outputs)
        except ProtocolError as error:
            # The broker reads only the header and counts these as delivered: their requests must end here.
            for request_id, _kind in outputs.entries:
                self._fail(request_id, error)
            raise
        routes = self._routes
        for (request_id, kind), body in zip(outputs.entries, bodies, strict=True):
            route = routes.get(request_id)
            if route is None:
                continue  # cancelled here, which the broker did not know yet
            call, index, ask = route
            try:
                if kind == PARTIAL:
                    if (output := ask.partial(body)) is not None:
                        call.put(index, output)
                elif kind == LOST:
                    self._go_on(request_id, call, index, ask)
                else:
                    del routes[request_id]
                    del call.pending[request_id]
                    call.end(index, ask.final(body) if kind == FINAL else from_map(Failure, body))
            except ProtocolError as error:
                # The error may quote the answer.
                log.warning("an output for a request is dropped: it cannot be read", extra={"request_id": call.trace})
                log.debug("output dropped: %s", error, extra={"request_id": call.trace})
                if kind == PARTIAL:
                    self._fail(request_id, error)
                else:
                    call.end(index, _unreadable(error))
            self._touched.add(call)

    def _go_on(self, request_id: bytes, call: Call[Any], index: int, ask: Ask[Any]) -> None:
        """The process of this request has ended: say what the next one needs to go on."""
        assert isinstance(ask.body, InferenceRequest)  # the broker tells no other
        if ask.progress is not None and ask.progress.can_go_on:
            log.info("the answer goes on in another process", extra={"request_id": call.trace})
            self._connection.send(Resume(ask.progress.begun(ask.body.payload)), request_id)
        else:
            self._connection.send(Cancel(), request_id)
            del self._routes[request_id], call.pending[request_id]
            call.end(index, _TOO_LONG)

    def on_pause(self) -> None:
        """Several outputs that one reading brought for a call go on together."""
        touched, self._touched = self._touched, set()
        for call in touched:
            call.flush()

    def on_lost(self, failure: Failure) -> None:
        """End every call. To a broker that was only silent the cancels still go."""
        if self._routes:
            log.warning("%d requests end: %s", len(self._routes), failure.message)
        self._cancel_all(failure)

    def _fail(self, request_id: bytes, error: ProtocolError) -> None:
        if request_id in self._routes:
            self.cancel(self._routes[request_id][0], _unreadable(error))


def _in_common(request: InferenceRequest) -> tuple[object, ...]:
    """What requests must have in common to travel in one message."""
    return request.model, request.task, request.keep_alive, request.trace, request.resume_limit


def _unreadable(error: ProtocolError) -> Failure:
    return Failure(Code.INTERNAL_ERROR, f"output that cannot be read: {error}")
