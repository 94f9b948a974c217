"""The frames of a message, and the ids of requests.

After the identity frame that a ROUTER adds or strips, a message is one of

    [VERSION, command, request_id, body]             body: msgpack map of the message's fields
    [VERSION, REQUEST, request_id, body, payload]    payload: packed `Generate`, `Embed` or `Rerank`, forwarded unread
    [VERSION, REQUESTS, empty, body, payload, ...]   several requests, which the body names
    [VERSION, OUTPUTS, header, bodies]               see outputs.py

A request id is 16 bytes: the 8-byte identity of the gateway that asked, then a counter. So workers can group outputs by
gateway, the broker knows the gateway of every request, and no gateway can touch another's requests.
"""

from typing import Any

VERSION = b"MB2"

GATEWAY_ID_BYTES = 8
REQUEST_ID_BYTES = 16
NO_REQUEST = b""

_NOBLOCK, _SNDMORE = 1, 2  # ZeroMQ's, which this file does not import


def gateway_of(request_id: bytes) -> bytes:
    """The identity of the gateway that made this request."""
    return request_id[:GATEWAY_ID_BYTES]


def receive_frames(socket: Any, *, wait: bool = True) -> list[bytes]:
    """pyzmq's recv_multipart in a third of its time: asks the frame whether more follow, not the socket.

    socket: a zmq.Socket. Raises zmq.Again if there is no message and `wait` is false.
    """
    flags = 0 if wait else _NOBLOCK
    frame = socket.recv(flags, copy=False)
    frames = [frame.bytes]
    while frame.more:
        frame = socket.recv(flags, copy=False)
        frames.append(frame.bytes)
    return frames


def send_frames(socket: Any, frames: list[bytes], *, wait: bool = True) -> None:
    """pyzmq's send_multipart in less than half of its time: it joins flags for every frame."""
    flags = 0 if wait else _NOBLOCK
    for frame in frames[:-1]:
        socket.send(frame, flags | _SNDMORE)
    socket.send(frames[-1], flags)
