"""Messages to frames and back. `decode` returns a typed message or raises ProtocolError, which says what is wrong.
docs/protocol.md describes the wire."""

from dataclasses import dataclass

import msgpack

from broker.wire.body import Body, ProtocolError, from_map, stated
from broker.wire.frames import NO_REQUEST, REQUEST_ID_BYTES, VERSION
from broker.wire.from_gateways import (
    Cancel,
    CancelPull,
    Describe,
    Forget,
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
from broker.wire.from_workers import LoadFailed, Need, Prefill, Progress, Ready
from broker.wire.outputs import Outputs, decode_header
from broker.wire.packing import pack, unpack_map
from broker.wire.to_workers import Assign, DropPrompts, MayPrefill, Share, Shrink, Shutdown

COMMANDS: dict[bytes, type[Body]] = {
    cls.COMMAND: cls
    for cls in (
        *(InferenceRequest, InferenceRequests),
        *(Resume, Cancel, Load, Keep, Pull, CancelPull, Remove, Forget, Unload, Kill, Pin, Unpin),
        *(Reload, ReloadSettings),
        *(Status, Describe, Models, Resolve, Watch, Logs),
        *(Hello, Goodbye, Heartbeat, Ack),
        *(Assign, Share, Shrink, MayPrefill, DropPrompts, Shutdown),
        *(Progress, Ready, Need, Prefill, LoadFailed, Outputs),
    )
}


@dataclass(slots=True, frozen=True)
class Message:
    """A decoded message: `request_id` is empty where the message belongs to no request."""

    request_id: bytes
    body: Body


def encode(body: Body, request_id: bytes = NO_REQUEST) -> list[bytes]:
    """The frames of one message, without the ROUTER's identity frame. OUTPUTS have `encode_outputs`."""
    if isinstance(body, InferenceRequest):
        head = {"model": body.model, "task": body.task, "origin": body.origin, "keep_alive": body.keep_alive}
        if body.trace:
            head["trace"] = body.trace
        if body.resume_limit:
            head["resume_limit"] = body.resume_limit
        return [VERSION, body.COMMAND, request_id, msgpack.packb(head), body.payload]
    if isinstance(body, InferenceRequests):
        fields_ = {name: value for name, value in stated(body).items() if name != "payloads"}
        return [VERSION, body.COMMAND, request_id, msgpack.packb(fields_), *body.payloads]
    return [VERSION, body.COMMAND, request_id, pack(body)]


def decode(frames: list[bytes]) -> Message:
    """The message in `frames` (without the identity frame). Raises ProtocolError for anything else."""
    if len(frames) < 4:
        raise ProtocolError(f"{len(frames)} frames, at least 4 expected")
    if frames[0] != VERSION:
        raise ProtocolError(f"version {frames[0][:16]!r}, this side speaks {VERSION!r}")
    cls = COMMANDS.get(frames[1])
    if cls is None:
        raise ProtocolError(f"unknown command {frames[1][:32]!r}")
    if len(frames) != (5 if cls is InferenceRequest else 4) and cls is not InferenceRequests:
        raise ProtocolError(f"{frames[1].decode()} with {len(frames)} frames")
    if cls is Outputs:
        return Message(NO_REQUEST, Outputs(decode_header(frames[2]), frames[3]))
    request_id = frames[2]
    if request_id and len(request_id) != REQUEST_ID_BYTES:
        raise ProtocolError(f"request id of {len(request_id)} bytes, {REQUEST_ID_BYTES} expected")
    fields_ = unpack_map(frames[3], cls.__name__)
    if cls is InferenceRequest:
        fields_["payload"] = frames[4]
    elif cls is InferenceRequests:
        fields_["payloads"] = frames[4:]
    return Message(request_id, from_map(cls, fields_))
