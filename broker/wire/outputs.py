"""Outputs: the answers of workers, which the broker forwards to the gateway that asked.

    [VERSION, OUTPUTS, header, bodies]    the outputs of one decode step for one gateway

The header holds 17 bytes per output: request id and kind (PARTIAL, FINAL, ERROR or LOST). From it the broker knows
which requests have output and which end, without reading a body; `bodies` is one msgpack list in the same order.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import msgpack

from broker.wire.body import Body, ProtocolError, to_map
from broker.wire.failure import Failure
from broker.wire.frames import GATEWAY_ID_BYTES, REQUEST_ID_BYTES, VERSION, gateway_of
from broker.wire.packing import unpack_any

# The window: OUTPUTS that a worker may send beyond the last ACK. A gateway sends an ACK after every ACK_EVERY of them:
# with up to 17 gateways (17 * 15 < 256), a worker with a full window always has an ACK on its way.
WINDOW = 256
ACK_EVERY = 16

# Kinds of output. A request has any number of PARTIAL, then exactly one FINAL or ERROR, whatever dies. LOST ends
# nothing, and only the broker sends it: see docs/protocol.md.
PARTIAL = 0
FINAL = 1
ERROR = 2
LOST = 3
_KINDS = (PARTIAL, FINAL, ERROR, LOST)
_KIND_BYTES = {kind: bytes((kind,)) for kind in _KINDS}
_HEADER_ENTRY_BYTES = REQUEST_ID_BYTES + 1


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


# packb would make a packer and its buffer for every step. Packing holds the interpreter's lock throughout, so threads
# may share this one; its buffer stays as large as the largest outputs.
_pack_bodies = msgpack.Packer().pack


def encode_outputs(outputs: list[Output]) -> list[bytes]:
    """The frames of OUTPUTS for one gateway; all request ids must begin with that gateway's identity.
    Raises ValueError for an unknown kind, and msgpack's errors for a body that it cannot pack."""
    try:
        header = b"".join([o.request_id + _KIND_BYTES[o.kind] for o in outputs])
    except KeyError as error:
        raise ValueError(f"{error} is not a kind of output") from None
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


def decode_bodies(outputs: Outputs) -> list[dict[str, Any]]:
    """The bodies of an OUTPUTS message, in the order of its entries. Raises ProtocolError when they do not match it."""
    bodies = unpack_any(outputs.bodies)
    if not isinstance(bodies, list) or len(bodies) != len(outputs.entries):
        raise ProtocolError(f"bodies do not match a header of {len(outputs.entries)} outputs")
    if not all(isinstance(body, dict) for body in bodies):
        raise ProtocolError("an output whose body is not a map")
    return bodies


def decode_outputs(outputs: Outputs) -> list[Output]:
    """The outputs of an OUTPUTS message, bodies read. Raises ProtocolError when bodies and header disagree."""
    bodies = decode_bodies(outputs)
    return [Output(request_id, kind, body) for (request_id, kind), body in zip(outputs.entries, bodies, strict=True)]


def error_output(request_id: bytes, failure: Failure) -> Output:
    """The ERROR that ends this request."""
    return Output(request_id, ERROR, to_map(failure))
