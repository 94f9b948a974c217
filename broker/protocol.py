"""The wire: every message that gateway, broker and worker exchange, and nothing else.

A message is a list of frames. After the identity frame that a ROUTER adds or strips:

    [VERSION, command, request_id, body]             body: msgpack map of the message's fields
    [VERSION, REQUEST, request_id, body, payload]    payload: packed `Generate`, `Embed` or `Rerank`, forwarded unread
    [VERSION, OUTPUTS, header, bodies]               the outputs of one decode step for one gateway

A request id is 16 bytes: the 8-byte identity of the gateway that asked, then a counter. So a worker can group
outputs by gateway, the broker can tell whose request it is, and no gateway can touch another's.

The header of OUTPUTS holds 17 bytes per output: request id and kind (PARTIAL, FINAL or ERROR). The broker learns from
it who has output and who is done without reading a body; `bodies` is one msgpack list in the same order.

`decode` turns frames into a typed message or raises `ProtocolError`, which names what the peer did wrong. This file
imports msgpack and the standard library only, so that every process can afford it.
"""

import math
import os
import tempfile
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, TypeVar, get_origin, get_type_hints

import msgpack

VERSION = b"MB1"

# Sockets in the runtime directory: gateways connect to one, workers to the other.
GATEWAY_SOCKET = "gateway.sock"
WORKER_SOCKET = "worker.sock"

GATEWAY_ID_BYTES = 8
REQUEST_ID_BYTES = 16
NO_REQUEST = b""

# OUTPUTS that a worker may be ahead of the gateways that read them, and after how many a gateway says that it has.
# A worker that serves 17 gateways at once never waits for a count that none of them has reached.
AHEAD = 256
READ_EVERY = 16

# Kinds of output. Zero or more PARTIAL, then exactly one FINAL or ERROR per request, whatever dies.
PARTIAL = 0
FINAL = 1
ERROR = 2
_KINDS = (PARTIAL, FINAL, ERROR)
_KIND_BYTES = {kind: bytes((kind,)) for kind in _KINDS}
_HEADER_ENTRY_BYTES = REQUEST_ID_BYTES + 1


def default_runtime_dir() -> Path:
    """Where broker and gateways of one user meet unless the settings say otherwise; short, as ipc paths must be."""
    return Path(tempfile.gettempdir()) / f"mlx-broker-{os.getuid()}"


class ProtocolError(Exception):
    """The peer sent something that is not this protocol; the message says what. The receiver logs and drops it."""


class Body:
    """Base of all messages: the fields of a subclass are the keys of its msgpack body."""

    COMMAND: ClassVar[bytes]


T = TypeVar("T", bound=Body)


# ---- gateway -> broker -> worker ----------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Request(Body):
    """One unit of work for `model`. `payload` travels as a frame of its own and is decoded by the worker only.

    task: generate, embed or rerank; by it the broker refuses work that a model of its type cannot do.
    """

    COMMAND: ClassVar[bytes] = b"REQUEST"
    model: str
    payload: bytes
    task: str = "generate"


@dataclass(slots=True, frozen=True)
class Cancel(Body):
    """The client has gone. The request still ends once, with ERROR `cancelled`."""

    COMMAND: ClassVar[bytes] = b"CANCEL"


# ---- gateway -> broker: administration, each answered by one FINAL or ERROR ---------------------------------------


@dataclass(slots=True, frozen=True)
class Load(Body):
    """Load `model` and pin it. FINAL: `{model_id, model_type, size_bytes, pinned}`."""

    COMMAND: ClassVar[bytes] = b"LOAD"
    model: str


@dataclass(slots=True, frozen=True)
class Unload(Body):
    """Drain `model`, end its process, remove its pin. `timeout`: seconds, None for the broker's setting."""

    COMMAND: ClassVar[bytes] = b"UNLOAD"
    model: str
    timeout: float | None = None
    force: bool = False


@dataclass(slots=True, frozen=True)
class Kill(Body):
    """SIGKILL the process of `model` now. FINAL when it has exited: `{model_id, pid}`."""

    COMMAND: ClassVar[bytes] = b"KILL"
    model: str


@dataclass(slots=True, frozen=True)
class Unpin(Body):
    """Remove the pin of `model`; the process stays until keep_alive or eviction takes it."""

    COMMAND: ClassVar[bytes] = b"UNPIN"
    model: str


@dataclass(slots=True, frozen=True)
class Status(Body):
    """FINAL: what runs now, see `docs/protocol.md`. Never counts as a use of any model."""

    COMMAND: ClassVar[bytes] = b"STATUS"


@dataclass(slots=True, frozen=True)
class Models(Body):
    """FINAL: `{models: [...]}`, every model this machine has, loaded or not."""

    COMMAND: ClassVar[bytes] = b"MODELS"


@dataclass(slots=True, frozen=True)
class Watch(Body):
    """PARTIAL for every change of state of `model` (of all models if None) until CANCEL."""

    COMMAND: ClassVar[bytes] = b"WATCH"
    model: str | None = None


# ---- any peer -> broker -------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Hello(Body):
    """The first message of a gateway or worker: its socket is connected."""

    COMMAND: ClassVar[bytes] = b"HELLO"
    pid: int


@dataclass(slots=True, frozen=True)
class Goodbye(Body):
    """An orderly end of a gateway: its requests are cancelled at once."""

    COMMAND: ClassVar[bytes] = b"GOODBYE"


@dataclass(slots=True, frozen=True)
class Heartbeat(Body):
    """Alive. From a worker with its progress; from the broker to a gateway with nothing to say.

    steps: grows with every unit of work done (decode step, prefill chunk, loaded tensor); what the stall timeout
    watches. mlx_*: bytes as MLX counts them in that process (`mlx.core.get_active_memory` and friends).
    """

    COMMAND: ClassVar[bytes] = b"HEARTBEAT"
    steps: int = 0
    mlx_active_bytes: int = 0
    mlx_cache_bytes: int = 0
    mlx_peak_bytes: int = 0


@dataclass(slots=True, frozen=True)
class Read(Body):
    """How many OUTPUTS have been read, in order, so that a worker does not run ahead.

    From a gateway: of those since its HELLO; said after READ_EVERY of them, and for the rest at the broker's heartbeat.
    From the broker to a worker: of those it has sent, how many a gateway has read, or nobody will.
    """

    COMMAND: ClassVar[bytes] = b"READ"
    total: int


# ---- broker -> worker ---------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Assign(Body):
    """Load this model. Sent once in a worker's life; answered by PROGRESS, then READY or LOAD_FAILED.

    model_type: text-gen, vision, embeddings or audio. engine: `module:Class` when the settings name one, else None.
    memory_limit_bytes: what the wired limit of the process follows, 0 for none.
    """

    COMMAND: ClassVar[bytes] = b"ASSIGN"
    model: str
    path: str
    model_type: str
    engine: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    memory_limit_bytes: int = 0


@dataclass(slots=True, frozen=True)
class Shutdown(Body):
    """Exit now; nothing is in flight."""

    COMMAND: ClassVar[bytes] = b"SHUTDOWN"


# ---- worker -> broker ---------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Progress(Body):
    """A stage of starting or loading (`imported`, `weights`, `tokenizer`), or a `download`.

    fraction: of it done, None if unknown.
    """

    COMMAND: ClassVar[bytes] = b"PROGRESS"
    stage: str
    fraction: float | None = None


@dataclass(slots=True, frozen=True)
class Ready(Body):
    """The assigned model is loaded. weights_bytes: its parameters in memory; context_length: tokens, 0 if unknown."""

    COMMAND: ClassVar[bytes] = b"READY"
    model_type: str
    weights_bytes: int
    mlx_active_bytes: int
    context_length: int = 0


@dataclass(slots=True, frozen=True)
class LoadFailed(Body):
    """The assigned model cannot be loaded, or not be downloaded; the process exits after this.

    message: names the file or field. code: of the error that follows from it; only a download says another.
    """

    COMMAND: ClassVar[bytes] = b"LOAD_FAILED"
    message: str
    code: str = "load_failed"


# ---- outputs: worker -> broker -> gateway, and the broker's own answers -------------------------------------------


@dataclass(slots=True)  # not frozen: one per token, and freezing triples what it takes to make
class Output:
    """One output of one request. `body`: a map; for text PARTIAL `{text}`, for ERROR the fields of `Failure`."""

    request_id: bytes
    kind: int
    body: dict[str, Any]


@dataclass(slots=True, frozen=True)
class Outputs(Body):
    """A header and its unread bodies; see the top of this file. `entries`: (request id, kind) in order."""

    COMMAND: ClassVar[bytes] = b"OUTPUTS"
    entries: list[tuple[bytes, int]]
    bodies: bytes


@dataclass(slots=True, frozen=True)
class Failure(Body):
    """The body of an ERROR.

    code: one of `docs/protocol.md`'s table; param: the request's field at fault; retry_after: seconds; retryable:
    whether the same request may succeed later unchanged.
    """

    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None
    retryable: bool = False


@dataclass(slots=True, frozen=True)
class Generate(Body):
    """The payload of a REQUEST to a text model.

    Exactly one of `messages` (chat, rendered by the model's template) and `prompt` (text or token ids) is given.
    images: image files as the client gave them. Where a message has images its content is a list of parts in the
    client's order, `{type: text, text}` and `{type: image}`; the k-th image part over all messages is images[k].
    max_tokens None: to the end of the context. stream False: the worker sends no PARTIAL, only a FINAL with all text,
    so that a request whose worker dies can always be replayed. The sampling fields mean what they mean to mlx-lm, 0 is
    off; logit_bias: decimal token id -> what is added. logprobs: how many alternatives per token, None for none at all.
    tools: OpenAI's; required_tools: names, at least one of which has to be called; one_call: the answer ends with the
    first call. json_schema, grammar (Lark, as llguidance reads it): what the answer must be. At most one of
    required_tools, json_schema and grammar.
    PARTIAL: `{text}` and, where there are any, `reasoning`, `tool_calls`, `logprobs`; see docs/protocol.md.
    FINAL: the same of what no PARTIAL held, and `{finish_reason, prompt_tokens, completion_tokens, cached_tokens}`.
    """

    messages: list[dict[str, Any]] | None = None
    images: list[bytes] = field(default_factory=list)
    prompt: str | list[int] | None = None
    stream: bool = False
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repetition_penalty: float = 0.0
    repetition_context_size: int = 20
    presence_penalty: float = 0.0
    presence_context_size: int = 20
    frequency_penalty: float = 0.0
    frequency_context_size: int = 20
    logit_bias: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    logprobs: int | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] = field(default_factory=list)
    required_tools: list[str] = field(default_factory=list)
    one_call: bool = False
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None


@dataclass(slots=True, frozen=True)
class Embed(Body):
    """The payload of a REQUEST with the task embed.

    inputs: texts, or lists of token ids that are taken as they are; each becomes one vector. dimensions: the leading
    ones of each vector, scaled to length 1 again; None for all.
    FINAL: `{vectors, size, prompt_tokens}`; `vectors`: little-endian float32, `size` of them for each input in order.
    """

    inputs: list[Any]
    dimensions: int | None = None


@dataclass(slots=True, frozen=True)
class Rerank(Body):
    """The payload of a REQUEST with the task rerank: how well each document answers the query.

    FINAL: `{scores, prompt_tokens}`; `scores`: little-endian float32 from 0 to 1, one for each document in order.
    """

    query: str
    documents: list[str]


_COMMANDS: dict[bytes, type[Body]] = {
    cls.COMMAND: cls
    for cls in (
        *(Request, Cancel, Load, Unload, Kill, Unpin, Status, Models, Watch, Hello, Goodbye, Heartbeat, Read),
        *(Assign, Shutdown, Progress, Ready, LoadFailed, Outputs),
    )
}


@dataclass(slots=True, frozen=True)
class Message:
    """A decoded message: `request_id` is empty where the message belongs to no request."""

    request_id: bytes
    body: Body


def encode(body: Body, request_id: bytes = NO_REQUEST) -> list[bytes]:
    """The frames of one message, without the ROUTER's identity frame. OUTPUTS have `encode_outputs`."""
    if isinstance(body, Request):
        head = msgpack.packb({"model": body.model, "task": body.task})
        return [VERSION, body.COMMAND, request_id, head, body.payload]
    return [VERSION, body.COMMAND, request_id, pack(body)]


def decode(frames: list[bytes]) -> Message:
    """The message in `frames` (without the identity frame). Raises ProtocolError for anything else."""
    if len(frames) < 4:
        raise ProtocolError(f"{len(frames)} frames, at least 4 expected")
    if frames[0] != VERSION:
        raise ProtocolError(f"version {frames[0][:16]!r}, this side speaks {VERSION!r}")
    cls = _COMMANDS.get(frames[1])
    if cls is None:
        raise ProtocolError(f"unknown command {frames[1][:32]!r}")
    if len(frames) != (5 if cls is Request else 4):
        raise ProtocolError(f"{frames[1].decode()} with {len(frames)} frames")
    if cls is Outputs:
        return Message(NO_REQUEST, Outputs(decode_header(frames[2]), frames[3]))
    request_id = frames[2]
    if request_id and len(request_id) != REQUEST_ID_BYTES:
        raise ProtocolError(f"request id of {len(request_id)} bytes, {REQUEST_ID_BYTES} expected")
    fields_ = _unpack_map(frames[3], cls.__name__)
    if cls is Request:
        fields_["payload"] = frames[4]
    return Message(request_id, _build(cls, fields_))


_NOBLOCK, _SNDMORE = 1, 2  # ZeroMQ's, which this file does not import


def receive_frames(socket: Any, *, wait: bool = True) -> list[bytes]:
    """What pyzmq's recv_multipart does, in a third of its time: a frame knows whether more follow, and the socket is
    not asked through an enumeration. socket: a zmq.Socket. Raises zmq.Again where nothing is there and not waited for.
    """
    flags = 0 if wait else _NOBLOCK
    frame = socket.recv(flags, copy=False)
    frames = [frame.bytes]
    while frame.more:
        frame = socket.recv(flags, copy=False)
        frames.append(frame.bytes)
    return frames


def send_frames(socket: Any, frames: list[bytes], *, wait: bool = True) -> None:
    """What pyzmq's send_multipart does, in less than half of its time: that joins flags anew for every frame."""
    flags = 0 if wait else _NOBLOCK
    for frame in frames[:-1]:
        socket.send(frame, flags | _SNDMORE)
    socket.send(frames[-1], flags)


# packb would make a packer with a buffer of its own for every step. It works in one piece while it holds the
# interpreter's lock, so threads may share it; its buffer stays as large as the largest outputs were.
_pack_bodies = msgpack.Packer().pack


def encode_outputs(outputs: list[Output]) -> list[bytes]:
    """The frames of OUTPUTS for one gateway; all request ids must begin with that gateway's identity.
    Raises ValueError for a kind that there is not, and whatever msgpack does for a body that it cannot write."""
    try:
        header = b"".join([o.request_id + _KIND_BYTES[o.kind] for o in outputs])
    except KeyError as error:
        raise ValueError(f"{error} is no kind of output") from None
    return [VERSION, Outputs.COMMAND, header, _pack_bodies([o.body for o in outputs])]


def decode_header(header: bytes) -> list[tuple[bytes, int]]:
    """(request id, kind) per output of an OUTPUTS header. Raises ProtocolError for a ragged or foreign one."""
    if not header or len(header) % _HEADER_ENTRY_BYTES:
        raise ProtocolError(f"header of {len(header)} bytes, a multiple of {_HEADER_ENTRY_BYTES} expected")
    if len(header) == _HEADER_ENTRY_BYTES and header[-1] in _KINDS:  # often, and then this takes a third of the time
        return [(header[:REQUEST_ID_BYTES], header[-1])]
    starts = range(0, len(header), _HEADER_ENTRY_BYTES)
    kinds = header[REQUEST_ID_BYTES::_HEADER_ENTRY_BYTES]
    if kinds.translate(None, bytes(_KINDS)):
        raise ProtocolError("header with an unknown kind of output")
    if {header[i : i + GATEWAY_ID_BYTES] for i in starts} != {gateway_of(header)}:
        raise ProtocolError("header that mixes gateways")
    return [(header[i : i + REQUEST_ID_BYTES], kind) for i, kind in zip(starts, kinds, strict=True)]


def decode_outputs(outputs: Outputs) -> list[Output]:
    """The outputs of an OUTPUTS message, bodies read. Raises ProtocolError when bodies and header disagree."""
    bodies = _unpack(outputs.bodies)
    if not isinstance(bodies, list) or len(bodies) != len(outputs.entries):
        raise ProtocolError(f"bodies do not match a header of {len(outputs.entries)} outputs")
    if not all(isinstance(body, dict) for body in bodies):
        raise ProtocolError("an output whose body is not a map")
    return [Output(request_id, kind, body) for (request_id, kind), body in zip(outputs.entries, bodies, strict=True)]


def gateway_of(request_id: bytes) -> bytes:
    """The identity of the gateway that made this request."""
    return request_id[:GATEWAY_ID_BYTES]


def to_map(body: Body) -> dict[str, Any]:
    """The fields of a message as a map, for a body or an output."""
    return {f.name: getattr(body, f.name) for f in fields(body)}  # type: ignore[arg-type]  # every Body is a dataclass


def pack(body: Body) -> bytes:
    """The msgpack map of a message's fields."""
    packed: bytes = msgpack.packb(to_map(body))
    return packed


def unpack(cls: type[T], data: bytes) -> T:
    """The inverse of `pack`. Raises ProtocolError naming the field at fault."""
    return _build(cls, _unpack_map(data, cls.__name__))


def from_map(cls: type[T], values: dict[str, Any]) -> T:
    """`values` as a `cls`, checked. Raises ProtocolError naming the field at fault."""
    return _build(cls, values)


def _unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not msgpack: {error}") from error


def _unpack_map(data: bytes, name: str) -> dict[str, Any]:
    value = _unpack(data)
    if not isinstance(value, dict):
        raise ProtocolError(f"{name} is a {type(value).__name__}, a map expected")
    return value


def _build(cls: type[T], values: dict[str, Any]) -> T:
    known = _FIELDS[cls]
    for name, value in values.items():
        if name not in known:
            raise ProtocolError(f"{cls.__name__} has no field {name!r}")
        types = known[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ProtocolError(f"{cls.__name__}.{name} is a {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ProtocolError(f"{cls.__name__}.{name} is {value}")  # NaN as a deadline would hide all others
    missing = _REQUIRED[cls] - values.keys()
    if missing:
        raise ProtocolError(f"{cls.__name__} lacks {', '.join(sorted(missing))}")
    return cls(**values)


def _plain_types(hint: Any) -> tuple[type, ...]:
    """The classes an annotation admits at run time: `list[int] | None` -> (list, NoneType); int counts as float."""
    parts = hint.__args__ if isinstance(hint, UnionType) else (hint,)
    plain = tuple(get_origin(part) or part for part in parts)
    return (*plain, int) if float in plain else plain


_DECODED: tuple[type[Body], ...] = (*_COMMANDS.values(), Failure, Generate, Embed, Rerank)
_FIELDS = {
    cls: {name: _plain_types(hint) for name, hint in get_type_hints(cls).items() if name != "COMMAND"}
    for cls in _DECODED
}
_REQUIRED = {
    cls: {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}  # type: ignore[arg-type]
    for cls in _DECODED
}
