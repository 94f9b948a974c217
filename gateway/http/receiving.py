"""A response to a request with an upload: receives the form, and removes the file when the response has ended."""

from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from broker.wire.failure import Code, Failure, FailureError, invalid
from gateway.awake import awake_timeout
from gateway.core.pauses import Pauses
from gateway.http.body import pieces_of
from gateway.http.form import MAX_FIELDS_BYTES, Fields, UploadForm
from gateway.http.inference import AppState
from gateway.http.streaming import unless
from gateway.http.uploads import Upload, UploadPlace

PAUSE_SECONDS = 60.0  # of an upload
# Bytes that give back a second of them: Apache's number. Speech is sent faster, also while it is recorded.
LEAST_RATE = 500.0
_PIECE_BYTES = 2**18  # per write, each in a thread: a disk may be slow

Answer = Callable[[Fields, Upload], Awaitable[Response]]


class UploadResponse(Response):
    """form: of this request. answer: what the client gets, of the other fields and the file."""

    def __init__(self, request: Request[AppState], form: UploadForm, answer: Answer) -> None:
        self._request = request
        self._form = form
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises FailureError while nothing is sent."""
        state = self._request.state
        with state["uploads"].new() as place:
            # No other request waits for a slow upload, and neither does the end of the gateway.
            await unless(_receive(self._request, self._form, place), state["link"].refused())
            response = await self._answer(self._form.fields, place.file)
            await response(scope, receive, send)


async def _receive(request: Request[AppState], form: UploadForm, place: UploadPlace) -> None:
    """The file goes to its place. Raises FailureError, and ClientDisconnect when the client leaves."""
    field = form.file_field
    too_large = f"{field} has more than {place.limit} bytes"
    waiting = bytearray()
    chunks = timely(request.stream(), Pauses(PAUSE_SECONDS, LEAST_RATE), field)
    async for data in pieces_of(request, place.limit + MAX_FIELDS_BYTES, too_large, field, chunks):
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


async def timely(
    chunks: AsyncIterator[bytes], pauses: Pauses, field: str, clock: Callable[[], float] = monotonic
) -> AsyncIterator[bytes]:
    """The same. Raises FailureError `request_timeout` where they come too slowly; what is done with one takes none of
    the client's time."""
    while True:
        began = clock()
        try:
            async with awake_timeout(pauses.left):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise _too_slow(pauses, field) from None
        if chunk is None:
            return
        if not pauses.comes(len(chunk), clock() - began):
            raise _too_slow(pauses, field)
        yield chunk


def _too_slow(pauses: Pauses, field: str) -> FailureError:
    message = (
        f"{field} comes too slowly: it may pause for {pauses.most:g} s in all, "
        f"and each {pauses.rate:g} bytes give one second back"
    )
    return FailureError(Failure(Code.REQUEST_TIMEOUT, message, field, retryable=True))
