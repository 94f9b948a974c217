"""A response to a request with an upload: receives the form, and removes the file when the response has ended."""

from collections.abc import AsyncIterator, Awaitable, Callable

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from broker.wire.failure import Code, Failure, FailureError, invalid
from gateway.awake import awake_timeout
from gateway.http.body import pieces_of
from gateway.http.form import MAX_FIELDS_BYTES, UploadForm
from gateway.http.inference import AppState
from gateway.http.streaming import unless
from gateway.http.uploads import Upload, UploadPlace

SILENT_SECONDS = 60.0  # of an upload, without a byte of it
_PIECE_BYTES = 2**18  # per write, each in a thread: a disk may be slow

Fields = dict[str, list[str]]
Answer = Callable[[Fields, Upload], Awaitable[Response]]


class UploadResponse(Response):
    """field: of the file. unheeded: see UploadForm. answer: what the client gets, of the other fields and the file."""

    def __init__(self, request: Request[AppState], field: str, unheeded: frozenset[str], answer: Answer) -> None:
        self._request = request
        self._field = field
        self._unheeded = unheeded
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises FailureError while nothing is sent."""
        state = self._request.state
        with state["uploads"].new() as place:
            # No other request waits for a slow upload, and neither does the end of the gateway.
            fields = await unless(_receive(self._request, self._field, self._unheeded, place), state["link"].refused())
            response = await self._answer(fields, place.file)
            await response(scope, receive, send)


async def _receive(request: Request[AppState], field: str, unheeded: frozenset[str], place: UploadPlace) -> Fields:
    """The file goes to its place. Raises FailureError, and ClientDisconnect when the client leaves."""
    form = UploadForm(request.headers.get("content-type", ""), field, unheeded)
    too_large = f"{field} has more than {place.limit} bytes"
    waiting = bytearray()
    async for data in _timely(pieces_of(request, place.limit + MAX_FIELDS_BYTES, too_large, field)):
        piece = form.feed(data)
        if place.taken + len(piece) > place.limit:
            raise FailureError(Failure(Code.REQUEST_TOO_LARGE, too_large, field))
        place.take(len(piece))
        waiting += piece
        if len(waiting) >= _PIECE_BYTES:
            await to_thread.run_sync(place.file.write, bytes(waiting))
            waiting.clear()
    form.end()
    if not form.files:
        raise invalid(f"{field} is missing", field)
    await to_thread.run_sync(place.file.write, bytes(waiting))
    place.file.close()
    return form.fields


async def _timely(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same. Raises FailureError `request_timeout` where the next one does not come."""
    while True:
        try:
            async with awake_timeout(SILENT_SECONDS):
                piece = await anext(pieces, None)
        except TimeoutError:
            message = f"the next byte of the body must come within {SILENT_SECONDS:g} s"
            raise FailureError(Failure(Code.REQUEST_TIMEOUT, message, retryable=True)) from None
        if piece is None:
            return
        yield piece
