"""Messages from gateways to the broker: work for models, and administration.

The broker forwards a request to a worker of its model; only that worker reads the payload (work.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from broker.wire.body import Body, ProtocolError
from broker.wire.frames import REQUEST_ID_BYTES
from broker.wire.from_peers import Ack, Hello
from broker.wire.kinds import Task


@dataclass(slots=True)  # not frozen: made four times for each request, and freezing triples what it takes to make
class InferenceRequest(Body):
    """One unit of work for `model`. `payload` travels as a frame of its own and is decoded by the worker only.

    task: one of `Task`; the broker refuses a task that this type of model cannot do. origin: by
    this the broker knows a request again, as it does not read payloads: equal for payloads that a worker takes in
    alike. Empty: this request is like no other. keep_alive: as `seconds` of Keep, None: not stated. trace: the id that
    the logs of all processes give this request; empty for none. resume_limit: how often it may go on in another process
    when its own has ended; 0: it may only be sent once more, and only as long as it has no output.
    """

    COMMAND: ClassVar[bytes] = b"REQUEST"
    model: str
    payload: bytes
    task: str = Task.GENERATE
    origin: bytes = b""
    keep_alive: float | None = None
    trace: str = ""
    resume_limit: int = 0


@dataclass(slots=True)  # as above
class InferenceRequests(Body):
    """Several requests that differ in their ids, origins and payloads alone, such as those of one HTTP request: each is
    one of its own from here on. The lists are equally long; each payload travels as a frame of its own."""

    COMMAND: ClassVar[bytes] = b"REQUESTS"
    model: str
    request_ids: list[bytes]
    origins: list[bytes]
    payloads: list[bytes]
    task: str = Task.GENERATE
    keep_alive: float | None = None
    trace: str = ""
    resume_limit: int = 0

    @classmethod
    def joined(cls, request_ids: list[bytes], requests: list[InferenceRequest]) -> "InferenceRequests":
        """These requests, which have all else in common with the first."""
        first = requests[0]
        origins, payloads = [one.origin for one in requests], [one.payload for one in requests]
        what = (first.task, first.keep_alive, first.trace, first.resume_limit)
        return cls(first.model, request_ids, origins, payloads, *what)

    def each(self) -> Iterator[tuple[bytes, InferenceRequest]]:
        """The requests with their ids. Raises ProtocolError."""
        if not len(self.request_ids) == len(self.origins) == len(self.payloads):
            raise ProtocolError("REQUESTS with lists of different lengths")
        if any(type(one) is not bytes or len(one) != REQUEST_ID_BYTES for one in self.request_ids):
            raise ProtocolError(f"REQUESTS with a request id that is not {REQUEST_ID_BYTES} bytes")
        if any(type(one) is not bytes for one in self.origins):
            raise ProtocolError("REQUESTS with an origin that is not bytes")
        what = (self.keep_alive, self.trace, self.resume_limit)
        for request_id, origin, payload in zip(self.request_ids, self.origins, self.payloads, strict=True):
            yield request_id, InferenceRequest(self.model, payload, self.task, origin, *what)


@dataclass(slots=True, frozen=True)
class Resume(Body):
    """The answer to LOST: `payload` is the request's own and what of its answer has been said. The request goes on in
    the next process."""

    COMMAND: ClassVar[bytes] = b"RESUME"
    payload: bytes


@dataclass(slots=True, frozen=True)
class Cancel(Body):
    """The client has gone. The request still ends once, with ERROR `cancelled`."""

    COMMAND: ClassVar[bytes] = b"CANCEL"


@dataclass(slots=True, frozen=True)
class Load(Body):
    """Load `model` and pin it. FINAL: `{model_id, model_type, size_bytes, pinned}`."""

    COMMAND: ClassVar[bytes] = b"LOAD"
    model: str


@dataclass(slots=True, frozen=True)
class Keep(Body):
    """Load `model` without a pin, as a request does, and let it stay `seconds` after its last use; this is one.

    seconds: None for the broker's setting; negative: as long as there is room; 0: it leaves as soon as it is idle, and
    is not loaded for this. The last statement, of this or of a request, counts until the process has ended. A pin
    outlasts it. FINAL when the model is ready, with 0 at once: `{model_id, model_type, size_bytes, pinned}`.
    """

    COMMAND: ClassVar[bytes] = b"KEEP"
    model: str
    seconds: float | None = None


@dataclass(slots=True, frozen=True)
class Pull(Body):
    """Download `model` and do not load it. FINAL when it is there, or if it is there already: `{model_id, size_bytes}`.

    stream: PARTIALs before that: `{model_id, reason, fraction, done_bytes, total_bytes}`. CANCEL ends the answer and
    not the download.
    """

    COMMAND: ClassVar[bytes] = b"PULL"
    model: str
    stream: bool = False


@dataclass(slots=True, frozen=True)
class CancelPull(Body):
    """End the download of `model`; all that wait for it get an error. What has arrived stays for the next one. FINAL
    when its process has exited: `{model_id}`."""

    COMMAND: ClassVar[bytes] = b"CANCEL_PULL"
    model: str


@dataclass(slots=True, frozen=True)
class Remove(Body):
    """Delete the files of `model`, unless it is in use: ERROR `model_in_use`. FINAL: `{model_id}`."""

    COMMAND: ClassVar[bytes] = b"REMOVE"
    model: str


@dataclass(slots=True, frozen=True)
class Forget(Body):
    """Remove the cached prompts of `model`, of all models if None, in memory and on disk. What running requests leave
    is kept again. FINAL: `{model_id}`."""

    COMMAND: ClassVar[bytes] = b"FORGET"
    model: str | None = None


@dataclass(slots=True, frozen=True)
class Unload(Body):
    """Drain `model`, end its process, remove its pin. `timeout`: seconds, None for the broker's setting."""

    COMMAND: ClassVar[bytes] = b"UNLOAD"
    model: str
    timeout: float | None = None
    force: bool = False


@dataclass(slots=True, frozen=True)
class Kill(Body):
    """SIGKILL the process of `model` now. FINAL when it has exited: `{model_id, pid}`. resume: whether its requests may
    go on in the next process."""

    COMMAND: ClassVar[bytes] = b"KILL"
    model: str
    resume: bool = True


@dataclass(slots=True, frozen=True)
class Reload(Body):
    """Load `model` anew in another process, which takes the place of the one that serves when it is ready; no request
    fails or waits for that. Where there is no room for both: ERROR `insufficient_memory`, or with `allow_gap` the old
    one drains and ends first. FINAL when the new one serves: `{model_id, model_type, size_bytes, pinned}`."""

    COMMAND: ClassVar[bytes] = b"RELOAD"
    model: str
    allow_gap: bool = False


@dataclass(slots=True, frozen=True)
class ReloadSettings(Body):
    """Read the settings file again and apply what can be applied; without `apply` only say what would be. FINAL:
    `{applied, at_next_load, needs_restart}`, lists of names; ERROR `invalid_request` with a line for each mistake, and
    then nothing has changed."""

    COMMAND: ClassVar[bytes] = b"RELOAD_SETTINGS"
    apply: bool = True


@dataclass(slots=True, frozen=True)
class Pin(Body):
    """Pin `model`, which this machine must have. FINAL at once: `{model_id}`; the model is loaded then."""

    COMMAND: ClassVar[bytes] = b"PIN"
    model: str


@dataclass(slots=True, frozen=True)
class Unpin(Body):
    """Remove the pin of `model`; the process stays until keep_alive or eviction takes it."""

    COMMAND: ClassVar[bytes] = b"UNPIN"
    model: str


@dataclass(slots=True, frozen=True)
class Status(Body):
    """FINAL: what runs now, see docs/protocol.md. Does not count as a use of a model."""

    COMMAND: ClassVar[bytes] = b"STATUS"


@dataclass(slots=True, frozen=True)
class Describe(Body):
    """FINAL: `{version, pid, started_at, has_metal, settings}` of the broker, see docs/protocol.md."""

    COMMAND: ClassVar[bytes] = b"DESCRIBE"


@dataclass(slots=True, frozen=True)
class Models(Body):
    """FINAL: `{models: [...]}`, every model this machine has, loaded or not.

    with_broken: and `{broken: [...], folders: [...]}`: what looks like a model and cannot be used, and where the broker
    has looked."""

    COMMAND: ClassVar[bytes] = b"MODELS"
    with_broken: bool = False


@dataclass(slots=True, frozen=True)
class Resolve(Body):
    """FINAL: `{model_id, fetchable}`, which model a client means by the name `model`. Does not count as a use of it."""

    COMMAND: ClassVar[bytes] = b"RESOLVE"
    model: str


@dataclass(slots=True, frozen=True)
class Watch(Body):
    """PARTIAL for every change of state of `model` (of all models if None) until CANCEL."""

    COMMAND: ClassVar[bytes] = b"WATCH"
    model: str | None = None


@dataclass(slots=True, frozen=True)
class Logs(Body):
    """What the processes of `model` have printed, the last `tail` lines. `{lines: [[at, pid, text], ...]}` in each
    output: one FINAL, or with `follow` a PARTIAL for these and for all that comes later, until CANCEL."""

    COMMAND: ClassVar[bytes] = b"LOGS"
    model: str
    tail: int = 100
    follow: bool = False


@dataclass(slots=True, frozen=True)
class Goodbye(Body):
    """The gateway ends: its requests are cancelled at once."""

    COMMAND: ClassVar[bytes] = b"GOODBYE"


# Everything that a gateway may send to the broker.
FromGateway = (
    InferenceRequest
    | InferenceRequests
    | Resume
    | Cancel
    | Load
    | Keep
    | Pull
    | CancelPull
    | Remove
    | Forget
    | Unload
    | Kill
    | Reload
    | ReloadSettings
    | Pin
    | Unpin
    | Status
    | Describe
    | Models
    | Resolve
    | Watch
    | Logs
    | Hello
    | Ack
    | Goodbye
)
