"""The body of a request: read within its limit, in the form that it was sent in."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator

from starlette.requests import ClientDisconnect, Request

from broker.wire.failure import Code, Failure, FailureError, invalid
from gateway.http.inference import AppState

PIECE_BYTES = 65_536  # what is done with one is as long as other requests wait
_GZIP = 16 + zlib.MAX_WBITS
_PLAIN = ("", "identity")
_GZIPPED = ("gzip", "x-gzip")
_PACKED_BYTES = 4096  # each member that ends copies what follows it in its piece


async def read_body(request: Request[AppState]) -> bytes:
    """The body, unpacked. Raises FailureError `request_too_large` as soon as it is known to be too large.

    Nearly all are plain, and need no pieces: without the generators of `pieces_of` they cost 3 us instead of 10.
    """
    limit = request.state["settings"].max_body_bytes
    complaint = f"the body has more than {limit} bytes"
    size = 0  # that is known, announced or received
    for name, value in request.scope["headers"]:
        if name == b"content-encoding":
            return b"".join([piece async for piece in pieces_of(request, limit, complaint)])
        if name == b"content-length":
            size = int(value)
    chunks: list[bytes] = []
    received, has_more = 0, True
    while size <= limit:
        if not has_more:
            return b"".join(chunks)
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message["body"])
        received += len(chunks[-1])
        size, has_more = max(size, received), message["more_body"]
    raise FailureError(Failure(Code.REQUEST_TOO_LARGE, complaint))


async def pieces_of(
    request: Request[AppState],
    limit: int,
    complaint: str,
    param: str | None = None,
    chunks: AsyncIterator[bytes] | None = None,
) -> AsyncIterator[bytes]:
    """The body, unpacked, in pieces of at most PIECE_BYTES; between two of them other tasks have a turn. chunks: of the
    body as they come, where something watches over them. Raises FailureError, `request_too_large` with this complaint
    and parameter as soon as more than `limit` bytes are known to come."""
    too_large = Failure(Code.REQUEST_TOO_LARGE, complaint, param)
    coding = ", ".join(request.headers.getlist("content-encoding")).strip().lower()
    if coding not in (*_PLAIN, *_GZIPPED):
        raise FailureError(
            Failure(Code.UNSUPPORTED_ENCODING, f"Content-Encoding must be gzip or absent, not {coding!r:.80}")
        )
    if int(request.headers.get("content-length", "0")) > limit:
        raise FailureError(too_large)
    packed = Gunzip() if coding in _GZIPPED else None
    received = unpacked = 0
    async for chunk in request.stream() if chunks is None else chunks:
        received += len(chunk)
        if received > limit:  # gzip may hold nothing for ever
            raise FailureError(too_large)
        for number, piece in enumerate(_cut(chunk) if packed is None else packed.feed(chunk)):
            if number:  # a wait for the client has come before the first
                await asyncio.sleep(0)
            unpacked += len(piece)
            if unpacked > limit:
                raise FailureError(too_large)
            yield piece
    if packed is not None and not packed.is_complete:
        raise invalid("the body ends before its gzip does")


def _cut(chunk: bytes) -> Iterator[bytes]:
    for start in range(0, len(chunk), PIECE_BYTES):
        yield chunk[start : start + PIECE_BYTES]


class Gunzip:
    """gzip, piece by piece; several members in a row are one text, as gzip has it."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._has_begun = False

    @property
    def is_complete(self) -> bool:
        """Whether all that was fed ends with a member."""
        return self._member.eof or not self._has_begun

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The next bytes, in pieces of at most PIECE_BYTES, empty ones too: the rest of a bomb stays packed. Raises
        FailureError."""
        try:
            for start in range(0, len(data), _PACKED_BYTES):
                packed = data[start : start + _PACKED_BYTES]
                unpacked = bytearray()  # of many small members
                while packed:
                    if self._member.eof:
                        self._member = zlib.decompressobj(_GZIP)
                    self._has_begun = True
                    unpacked += self._member.decompress(packed, PIECE_BYTES - len(unpacked))
                    packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
                    if len(unpacked) == PIECE_BYTES:
                        yield bytes(unpacked)
                        unpacked.clear()
                yield bytes(unpacked)
        except zlib.error as error:
            raise invalid(f"the body is not gzip: {error}") from None
