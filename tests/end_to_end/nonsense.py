"""A worker that cannot be trusted: its engine sends invalid outputs, and also speaks to the broker itself.

The prompt chooses the nonsense; anything else is echoed. In settings: `tests.end_to_end.nonsense:Nonsense`.
"""

import sys
import threading
from collections.abc import Iterator
from typing import Any

import zmq

from broker.wire.codec import encode
from broker.wire.frames import VERSION
from broker.wire.from_workers import Progress
from broker.wire.outputs import ERROR, FINAL, PARTIAL, Output, encode_outputs
from broker.wire.packing import unpack
from broker.wire.to_workers import Assign
from broker.wire.work import Generate
from worker.echo.engine import EchoEngine, echoed_text
from worker.engine import Report

STRANGER = b"12345678" + bytes(8)  # a request id of a gateway that does not exist

BODIES: dict[str, tuple[int, dict[str, Any]]] = {
    "a partial without text": (PARTIAL, {}),
    "a partial of a number": (PARTIAL, {"text": 7}),
    "an empty final": (FINAL, {}),
    "a final of wrong types": (FINAL, {"text": None, "finish_reason": 1, "prompt_tokens": "many"}),
    "an error without code": (ERROR, {"message": "guess"}),
    "an unknown error": (ERROR, {"code": "no_such_code", "message": "odd"}),
}


class Nonsense(EchoEngine):
    """See the top of this file."""

    def __init__(self, assign: Assign, report: Report) -> None:
        super().__init__(assign, report)
        self._odd: list[Output] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        # The broker takes `<worker id>/...` for this worker.
        self._socket.identity = f"{_argument('--worker-id')}/second".encode()
        self._socket.linger = 0
        self._socket.connect(_argument("--endpoint"))

    def add(self, request_id: bytes, payload: bytes) -> None:
        super().add(request_id, payload)
        text = echoed_text(unpack(Generate, payload))
        if text in BODIES:
            self._odd.append(Output(request_id, *BODIES[text]))
            if BODIES[text][0] != PARTIAL:
                self.cancel(request_id)
        if text == "shout":
            for frames in _shouts(request_id):
                self._socket.send_multipart(frames)

    @property
    def has_work(self) -> bool:
        return bool(self._odd) or super().has_work

    def step(self) -> list[Output]:
        odd, self._odd = self._odd, []
        return odd or super().step()


def _shouts(request_id: bytes) -> Iterator[list[bytes]]:
    header, bodies = encode_outputs([Output(request_id, PARTIAL, {"text": "!"})])[2:]
    yield [VERSION, b"OUTPUTS", header, b"\xc1 no msgpack"]
    yield [VERSION, b"OUTPUTS", header, bodies + bodies]
    yield [VERSION, b"OUTPUTS", header[:-1], bodies]
    yield [VERSION, b"OUTPUTS", header[:-1] + b"\x07", bodies]
    yield [VERSION, b"OUTPUTS", b"", bodies]
    yield encode_outputs([Output(STRANGER, FINAL, {"text": "for a stranger"})])
    yield [VERSION, b"OUTPUTS", header + STRANGER + bytes((PARTIAL,)), bodies]
    yield [VERSION, b"READY", b"", b"\x80"]
    yield [VERSION, b"ASSIGN", b"", b"\x80"]
    yield [b"MB0", b"HEARTBEAT", b"", b"\x80"]
    yield [b""]


def _argument(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


class Flooding(EchoEngine):
    """From its first request on, reports progress as fast as it can, from a thread with its own socket."""

    def __init__(self, assign: Assign, report: Report) -> None:
        super().__init__(assign, report)
        self._flood = threading.Thread(target=self._report_for_ever, daemon=True)

    def add(self, request_id: bytes, payload: bytes) -> None:
        super().add(request_id, payload)
        if not self._flood.is_alive():
            self._flood.start()

    @staticmethod
    def _report_for_ever() -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.identity = f"{_argument('--worker-id')}/flood".encode()
        socket.connect(_argument("--endpoint"))
        frames = encode(Progress("weights", 0.5))
        while True:
            socket.send_multipart(frames)
