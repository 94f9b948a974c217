"""Bodies to msgpack and back. With codec.py and outputs.py the only module of the project that imports msgpack."""

from typing import Any

import msgpack

from broker.wire.body import Body, ProtocolError, T, from_map, stated


def pack(body: Body) -> bytes:
    """The msgpack map of a message's fields that are not at their default: a Generate has forty, and few are stated."""
    return pack_map(stated(body))


def pack_map(values: dict[str, Any]) -> bytes:
    """A msgpack map."""
    packed: bytes = msgpack.packb(values)
    return packed


def unpack(cls: type[T], data: bytes) -> T:
    """The inverse of `pack`. Raises ProtocolError naming the field at fault."""
    return from_map(cls, unpack_map(data, cls.__name__))


def unpack_any(data: bytes) -> Any:
    """Whatever msgpack value this is. Raises ProtocolError."""
    try:
        return msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not msgpack: {error}") from error


def unpack_map(data: bytes, name: str) -> dict[str, Any]:
    """A msgpack map. name: of the message, for the ProtocolError."""
    value = unpack_any(data)
    if not isinstance(value, dict):
        raise ProtocolError(f"{name} is a {type(value).__name__}, a map expected")
    return value
