"""The gateways' socket: who has said HELLO, who watches, what gateways ask for, and what is sent to them.

Requests become events; STATUS, DESCRIBE, MODELS, RESOLVE, WATCH and LOGS only look and are answered at once. Decides
nothing about models.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol, assert_never

from broker.about import About
from broker.logs.process_logs import ProcessLogs
from broker.lookup import Lookup
from broker.policy.actions import AnnounceModel, Fail
from broker.policy.answers import CANCELLED
from broker.policy.events import (
    CancelPullRequested,
    Event,
    ForgetRequested,
    GatewayLeft,
    KillRequested,
    RequestCancelled,
    RequestResumed,
    UnloadRequested,
    UnpinRequested,
)
from broker.policy.flow_events import FlowEvent, LinkClosed, LinkOpened, OutputsRead, OutputsSent
from broker.policy.specs import Shown
from broker.sockets import Router, Undelivered
from broker.wire.body import ProtocolError
from broker.wire.clock import Clock
from broker.wire.codec import Message, decode, encode
from broker.wire.failure import Code, Failure, FailureError
from broker.wire.frames import gateway_of
from broker.wire.from_gateways import (
    Cancel,
    CancelPull,
    Describe,
    Forget,
    FromGateway,
    Goodbye,
    InferenceRequest,
    InferenceRequests,
    Keep,
    Kill,
    Load,
    Logs,
    Models,
    Pin,
    Pull,
    Reload,
    ReloadSettings,
    Remove,
    Resolve,
    Resume,
    Status,
    Unload,
    Unpin,
    Watch,
)
from broker.wire.from_peers import Ack, Heartbeat, Hello
from broker.wire.outputs import FINAL, LOST, PARTIAL, Output, encode_outputs, error_output
from broker.wire.states import State

logger = logging.getLogger(__name__)

# Outputs that may wait for one gateway that does not read; past it the gateway counts as gone.
BACKLOG = 20_000


class View(Protocol):
    """What gateways may see of the policies."""

    def announced(self) -> dict[str, Shown]: ...

    def pinned(self) -> set[str]: ...

    def status(self, now: float, started_at: float, wall_offset: float) -> dict[str, Any]: ...

    @property
    def working_set_bytes(self) -> int | None: ...


class Gateways:
    """put: takes the events that follow from messages. tell: takes those about what gateways read, and acts at once.
    about: this broker and its machine. reread: reads the settings again, and applies them or not;
    raises FailureError."""

    def __init__(
        self,
        router: Router,
        *,
        put: Callable[[Event], None],
        lookup: Lookup,
        logs: ProcessLogs,
        view: View,
        about: About,
        reread: Callable[[bool], dict[str, Any]],
        tell: Callable[[FlowEvent], None],
        clock: Clock,
    ) -> None:
        self.router = router
        self._put = put
        self._lookup = lookup
        self._logs = logs
        logs.send = self.tell
        self._view = view
        self._about = about
        self._reread_settings = reread
        self._tell = tell
        self._greeted: set[bytes] = set()
        self._watchers: dict[bytes, str | None] = {}  # request id -> model id, None for all models
        self._clock = clock
        self._started_at = clock.now()

    def receive(self, limit: int) -> None:
        """Take up to `limit` messages that are here now."""
        for gateway, frames in self.router.receive(limit):
            try:
                self._take(gateway, decode(frames))
            except ProtocolError as error:
                logger.warning("dropped a message of gateway %r: %s", gateway[:32], error)

    def keep_time(self, now: float) -> None:
        """Call it about once a second."""
        for gateway in list(self._greeted):
            self._send(gateway, encode(Heartbeat()))

    # ---- messages in ----------------------------------------------------------------------------------------------

    def _take(self, gateway: bytes, message: Message) -> None:
        request_id, body = message.request_id, message.body
        if not isinstance(body, FromGateway):
            raise ProtocolError(f"a gateway does not send {body.COMMAND.decode()}")
        if request_id and gateway_of(request_id) != gateway:
            raise ProtocolError("a request id of another gateway")
        if not request_id and not isinstance(body, Hello | Goodbye | Ack | InferenceRequests):
            raise ProtocolError(f"{body.COMMAND.decode()} without a request id")
        if gateway not in self._greeted and not isinstance(body, Hello):
            if isinstance(body, Ack):
                return  # it reads what it was sent before it was given up
            # Given up, or of a broker before this one: it may have missed ends. Without an answer it ends its calls
            # and says HELLO.
            raise ProtocolError(f"{body.COMMAND.decode()} of a gateway that has not said HELLO")
        match body:
            case Ack():
                self._tell(OutputsRead(gateway, body.total))
            case InferenceRequest():
                self._put(self._lookup.request(request_id, body))
            case InferenceRequests():
                self._take_several(gateway, body)
            case Resume() | Cancel():
                self._go_on(request_id, body)
            case Load():
                self._put(self._lookup.load(request_id, body.model))
            case Keep():
                self._put(self._lookup.keep(request_id, body.model, body.seconds))
            case Pull():
                self._put(self._lookup.pull(request_id, body.model, stream=body.stream))
            case CancelPull() | Forget() | Unload() | Kill() | Unpin():
                self._put(self._asked(request_id, body))
            case Remove():
                self._put(self._lookup.remove(request_id, body.model))
            case Pin() | Reload() | ReloadSettings():
                self._change(request_id, body)
            case Status() | Describe() | Models() | Resolve():
                self.reply(request_id, self._seen(body))
            case Watch():
                self._watch(request_id, body.model and self._lookup.id_of(body.model))
            case Logs():
                self._read_log(request_id, body)
            case Hello():
                self._leave(gateway, "it starts again")  # and has ended all calls that it had
                self._greeted.add(gateway)
                self._tell(LinkOpened(gateway))
            case Goodbye():
                self._leave(gateway, "said goodbye")
            case _:
                assert_never(body)

    def _take_several(self, gateway: bytes, body: InferenceRequests) -> None:
        requests = list(body.each())
        if any(gateway_of(request_id) != gateway for request_id, _ in requests):
            raise ProtocolError("a request id of another gateway")
        for request_id, request in requests:
            self._put(self._lookup.request(request_id, request))

    def _asked(self, request_id: bytes, body: CancelPull | Forget | Unload | Kill | Unpin) -> Event:
        """What needs a model's name and not its files."""
        model_id = self._lookup.id_of(body.model or "")
        match body:
            case CancelPull():
                return CancelPullRequested(request_id, model_id)
            case Forget():
                return ForgetRequested(request_id, model_id or None)
            case Unload():
                return UnloadRequested(request_id, model_id, body.timeout, body.force)
            case Kill():
                return KillRequested(request_id, model_id, body.resume)
            case Unpin():
                return UnpinRequested(request_id, model_id)

    def _seen(self, looks: Status | Describe | Models | Resolve) -> dict[str, Any]:
        """The FINAL of what only looks."""
        match looks:
            case Status():
                now = self._clock.now()
                return self._view.status(now, self._started_at, time.time() - now) | self._about.status()
            case Describe():
                return self._about.whole(self._view.working_set_bytes)
            case Models():
                return {"models": self._models()} | (self._lookup.broken() if looks.with_broken else {})
            case Resolve():
                return self._lookup.resolve(looks.model)

    def _change(self, request_id: bytes, wanted: Pin | Reload | ReloadSettings) -> None:
        match wanted:
            case Pin():
                self._put(self._lookup.pin(request_id, wanted.model))
            case Reload():
                self._put(self._lookup.reload(request_id, wanted.model, allow_gap=wanted.allow_gap))
            case ReloadSettings():
                self._reread(request_id, apply=wanted.apply)

    def _reread(self, request_id: bytes, *, apply: bool) -> None:
        try:
            self.reply(request_id, self._reread_settings(apply))
        except FailureError as error:
            self.fail(Fail(request_id, error.failure))

    def _read_log(self, request_id: bytes, wanted: Logs) -> None:
        model_id, tail = self._lookup.id_of(wanted.model), max(wanted.tail, 0)
        if not wanted.follow:
            self.reply(request_id, self._logs.tail(model_id, tail))
            return
        try:
            self._logs.follow(request_id, model_id, tail)
        except FailureError as error:
            self.fail(Fail(request_id, error.failure))

    def _go_on(self, request_id: bytes, body: Resume | Cancel) -> None:
        """Or not."""
        if isinstance(body, Resume):
            self._put(RequestResumed(request_id, body.payload))
        elif request_id in self._watchers or self._logs.leave(request_id):
            self._watchers.pop(request_id, None)
            self.fail(Fail(request_id, CANCELLED))
        else:
            self._put(RequestCancelled(request_id))

    def _models(self) -> list[dict[str, Any]]:
        states = {model_id: shown.state for model_id, shown in self._view.announced().items()}
        pinned = self._view.pinned()
        return [
            {
                "model_id": entry.spec.model_id,
                "model_type": entry.spec.model_type,
                "size_bytes": entry.spec.weight_bytes,
                "quantization": entry.quantization,
                "context_length": entry.context_length,
                "created": entry.created,
                "capabilities": list(entry.capabilities),
                "architecture": entry.architecture,
                "parameters": entry.parameters,
                "state": states.get(entry.spec.model_id, State.UNLOADED),
                "pinned": entry.spec.model_id in pinned,
            }
            for entry in self._lookup.entries()
        ]

    def _watch(self, request_id: bytes, watched: str | None) -> None:
        self._watchers[request_id] = watched
        for model_id, shown in self._view.announced().items():
            if watched in (None, model_id):
                self._send_output(Output(request_id, PARTIAL, _change(model_id, shown)))

    def _leave(self, gateway: bytes, why: str) -> None:
        if gateway in self._greeted:
            logger.info("gateway %s has left: %s", gateway.decode(errors="replace"), why)
            self._greeted.discard(gateway)
            for request_id in [r for r in self._watchers if r.startswith(gateway)]:
                del self._watchers[request_id]
            self._logs.gateway_left(gateway)
            self._put(GatewayLeft(gateway))
            self._tell(LinkClosed(gateway))

    # ---- outputs --------------------------------------------------------------------------------------------------

    def forward(self, frames: list[bytes]) -> None:
        """Pass a worker's outputs on, unread. Called for every token."""
        self._send(gateway_of(frames[2]), frames)

    def reply(self, request_id: bytes, body: dict[str, Any]) -> None:
        """The FINAL of an administrative request."""
        self._send_output(Output(request_id, FINAL, body))

    def tell(self, request_id: bytes, body: dict[str, Any]) -> None:
        """A PARTIAL of an administrative request."""
        self._send_output(Output(request_id, PARTIAL, body))

    def fail(self, fail: Fail) -> None:
        """The ERROR of any request."""
        self._send_output(error_output(fail.request_id, fail.failure))

    def tell_lost(self, request_id: bytes) -> None:
        """The process of this inference request has ended, the request has not."""
        self._send_output(Output(request_id, LOST, {}))

    def announce(self, change: AnnounceModel) -> None:
        """Send this change to those who watch the model."""
        body = _change(change.model_id, change.shown)
        for request_id, model_id in list(self._watchers.items()):
            if model_id in (None, change.model_id):
                self._send_output(Output(request_id, PARTIAL, body))

    def _send_output(self, output: Output) -> None:
        try:
            frames = encode_outputs([output])
        except (ValueError, TypeError, OverflowError):  # a file name, say, that is not text
            logger.exception("cannot encode an answer")
            failure = Failure(Code.INTERNAL_ERROR, "the broker cannot encode its answer")
            frames = encode_outputs([error_output(output.request_id, failure)])
        self._tell(OutputsSent(gateway_of(output.request_id)))
        self.forward(frames)

    def _send(self, gateway: bytes, frames: list[bytes]) -> None:
        problem = self.router.send(gateway, frames)
        if problem is not None:
            full = problem is Undelivered.FULL
            self._leave(gateway, f"{BACKLOG} messages unread" if full else problem.value)


def _change(model_id: str, shown: Shown) -> dict[str, Any]:
    """The PARTIAL of WATCH. at: Unix seconds."""
    return {"model_id": model_id, **shown._asdict(), "at": time.time()}
