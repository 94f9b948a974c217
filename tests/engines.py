"""An engine that misbehaves on request: the echo engine plus everything that can go wrong with a real one.

While loading, by the option `on_load`: `crash` (SIGSEGV), `raise`, `hang`, `slow` (ten reports over a second), `hold`
(goes on until the file that the option `hold` names is gone), `gpu` (raises the error of the GPU that the option `gpu`
names, see device_errors.py).

While serving, by what the last user message (or the prompt) says, `VERB [NUMBER] [after N tokens]`, anywhere in it:

    crash            SIGSEGV in a step, as a bug in native code does
    abort            SIGABRT in a step, as a Metal fault does
    exit CODE        leaves with that exit code
    hang             the main thread never comes back; heartbeats go on
    freeze           SIGSTOP: the whole process stands still, heartbeats too
    raise            the step raises, for all requests
    gpu              the step raises the error of the GPU that the option `gpu` names
    reset            `add` raises it
    fail             this request alone ends in ERROR
    refuse           `add` raises FailureError for the field `prompt`
    dawdle           `add` takes 20 ms
    quote            `add` raises an error that quotes the request
    tell             the step raises an error that quotes the request, for all requests
    shout MEGABYTES  prints one line of that length, with terminal escapes, in a step
    poison           SIGSEGV in `add`, as native code does that a request breaks
    clog             `add` never comes back
    lose             this request is forgotten without an end
    repeat           its FINAL is sent twice
    garble           an output that cannot be encoded: a PARTIAL if it is streamed, else its FINAL
    invent           an output of a kind that there is not
    slow             every step takes 50 ms from then on
    leak MEGABYTES   that much memory is taken and never given back
    carry MEGABYTES  that much memory is taken until this request has ended
    ignore sigterm   SIGTERM does nothing from then on

`after N tokens`: once this request has made N tokens; else in its first step. An answer that goes on behind its N
tokens has done it in the process before; with `after N tokens again` it does it in every process. What `add` does,
`count` does too, and `prepare` before it where a request is long. Needs no model; the echo goes on as usual where the
verb leaves it any life. Named in settings or ASSIGN as `tests.engines:Misbehaving`.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from broker.wire.body import to_map
from broker.wire.failure import Code, Failure, invalid
from broker.wire.outputs import ERROR, FINAL, PARTIAL, Output
from broker.wire.packing import unpack
from broker.wire.to_workers import Assign
from broker.wire.work import Generate
from tests.device_errors import DEVICE_ERRORS
from worker.echo.engine import EchoEngine, echoed_text
from worker.engine import Report

_ORDER = re.compile(
    r"\b(?P<verb>crash|abort|exit|hang|freeze|raise|fail|refuse|dawdle|poison|clog|lose|repeat|garble|invent|slow|leak|carry"
    r"|gpu|reset|quote|tell|shout|ignore sigterm)\b"
    r"(?: (?P<number>\d+))?(?:.*?\bafter (?P<after>\d+) tokens(?P<again> again)?)?"
)


@dataclass(slots=True)
class _Order:
    verb: str
    number: int
    after: int
    text: str


class Misbehaving(EchoEngine):
    """See the top of this file."""

    def __init__(self, assign: Assign, report: Report) -> None:
        super().__init__(assign, report)
        self._orders: dict[bytes, _Order] = {}
        self._leaked: list[bytearray] = []
        self._carried: dict[bytes, bytes] = {}
        self._device_error = DEVICE_ERRORS[assign.options.get("gpu", "victim")]
        match assign.options.get("on_load"):
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "raise":
                raise ValueError("model.safetensors: broken on request")
            case "gpu":
                raise RuntimeError(self._device_error)
            case "hang":
                _hang()
            case "slow":
                for tenth in range(1, 11):
                    time.sleep(0.1)
                    report("weights", tenth / 10)
            case "hold":
                while Path(assign.options["hold"]).exists():
                    report("weights", None)
                    time.sleep(0.01)

    def add(self, request_id: bytes, payload: bytes) -> None:
        order = self._take_in(payload)
        super().add(request_id, payload)
        if order:
            after = int(order["after"] or 0)
            is_done = 0 < after <= self._live[request_id].sent
            if order["again"] or not is_done:
                self._orders[request_id] = _Order(order["verb"], int(order["number"] or 0), after, order.string)

    def prepare(self, payload: bytes) -> None:
        """Does first what `add` does."""
        self._take_in(payload)

    def count(self, payload: bytes) -> Iterator[int | None]:
        self._take_in(payload)
        yield from super().count(payload)

    def _take_in(self, payload: bytes) -> re.Match[str] | None:
        order = _ORDER.search(echoed_text(unpack(Generate, payload)))
        if order and order["verb"] == "refuse":
            raise invalid("refused on request", param="prompt")
        if order and order["verb"] == "dawdle":
            time.sleep(0.02)
        if order and order["verb"] == "poison":
            os.kill(os.getpid(), signal.SIGSEGV)
        if order and order["verb"] == "clog":
            _hang()
        if order and order["verb"] == "quote":
            raise ValueError(f"cannot read {order.string}")
        if order and order["verb"] == "reset":
            raise RuntimeError(self._device_error)
        return order

    def step(self) -> list[Output]:
        extra: list[Output] = []
        for request_id, order in list(self._orders.items()):
            if request_id not in self._live:
                del self._orders[request_id]
            elif self._live[request_id].sent >= order.after:
                del self._orders[request_id]
                extra += self._obey(request_id, order)
        outputs = super().step()
        for request_id in self._carried.keys() - self._live.keys():
            del self._carried[request_id]
        return outputs + extra

    def _obey(self, request_id: bytes, order: _Order) -> list[Output]:
        match order.verb:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "abort":
                os.abort()
            case "exit":
                os._exit(order.number)
            case "hang":
                _hang()
            case "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "raise":
                raise RuntimeError("the step breaks on request")
            case "gpu":
                raise RuntimeError(self._device_error)
            case "tell":
                raise ValueError(f"the step breaks on {order.text}")
            case "shout":
                os.write(2, b"\x1b]0;owned\x07\x1b[31m")
                for _ in range(order.number):
                    _print(b"x" * 2**20)
                os.write(2, b"\n")
            case "fail":
                self.cancel(request_id)
                return [Output(request_id, ERROR, to_map(Failure(Code.INTERNAL_ERROR, "failed on request")))]
            case "lose":
                self.cancel(request_id)
            case "repeat":
                return [Output(request_id, FINAL, {"text": "", "finish_reason": "stop"})] * 2
            case "garble":
                return [Output(request_id, PARTIAL if self._live[request_id].stream else FINAL, {"text": "\ud83d"})]
            case "invent":
                return [Output(request_id, 7, {"text": "!"})]
            case "slow":
                self._delay_seconds = 0.05
            case "leak":
                # Filled with ones: untouched zero pages would not count as resident.
                self._leaked.append(bytearray(b"\x01" * (order.number * 2**20)))
            case "carry":
                self._carried[request_id] = b"\x01" * (order.number * 2**20)
            case "ignore sigterm":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return []


def _print(data: bytes) -> None:
    while data:
        data = data[os.write(2, data) :]


def _hang() -> None:
    threading.Event().wait()
